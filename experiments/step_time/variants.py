"""One training step of every variant: forward, backward, AdamW."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import LoraConfig
from shape import Shape, make_batch, make_model
from torch import Tensor

from uedpo.loss import dpo_loss, ue_dpo_loss
from uedpo.model.hf import LANGUAGE_LINEAR, HFModel
from uedpo.model.lora import add_lora
from uedpo.scoring import Scorer
from uedpo.weights.probe import UncertaintyProbe

BETA = 0.1
TRL = ("trl", "trl_stock", "trl_precomputed")
OURS = ("dpo", "ue_dpo_plain", "ue_dpo_live", "ue_dpo_cached")
# UE-DPO with signals that need no probe, live and with a cached reference; "kl" needs one
SIGNALS = ("entropy", "surprisal", "margin", "kl", "entropy_cached")


def _wake(model: Any) -> None:
    """The same non-zero adapter for everyone: with lora_B = 0 all losses are log 2."""
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.01 * torch.randn(parameter.shape, generator=random))


def our_losses(shape: Shape) -> tuple[Any, dict[str, Callable[[], Tensor]]]:
    """(policy, variant -> loss of one step) of this package."""
    policy = add_lora(make_model(shape), shape.rank, 2 * shape.rank, 0.0, LANGUAGE_LINEAR)
    _wake(policy)
    policy.train()
    batch, probe = make_batch(shape), UncertaintyProbe(alpha=0.3)
    by_signal = {
        name: UncertaintyProbe(alpha=0.3, signal=name, select="signal")  # type: ignore[arg-type]
        for name in ("entropy", "surprisal", "margin", "kl")
    }
    scorers = {mode: Scorer(mode) for mode in ("plain", "prefix_shared")}
    for scorer in scorers.values():
        scorer.attach(policy)

    def reference(scorer: Scorer, fresh: Any) -> Tensor:
        with torch.no_grad(), policy.disable_adapter():
            return scorer.score(policy, fresh).logps

    cached = reference(scorers["prefix_shared"], batch)

    def loss(mode: str, probe: UncertaintyProbe | None, reference_logps: Tensor | None = None) -> Tensor:
        scorer, fresh = scorers[mode], dataclasses.replace(batch)  # a new step knows nothing of the last
        scores = scorer.score(policy, fresh)
        logps = reference(scorer, fresh) if reference_logps is None else reference_logps
        if probe is None:
            return dpo_loss(scores.logps, logps, batch.mask, beta=BETA).loss
        corrupted = None
        if probe.needs_probe:
            with torch.no_grad():
                corrupted = scorer.score(policy, fresh, probe.corrupt(fresh, 0))
        weights = probe.signals(fresh, scores, corrupted).weights
        return ue_dpo_loss(scores.logps, logps, batch.mask, weights, beta=BETA).loss

    return policy, {
        "dpo": lambda: loss("prefix_shared", None),
        "ue_dpo_plain": lambda: loss("plain", probe),
        "ue_dpo_live": lambda: loss("prefix_shared", probe),
        "ue_dpo_cached": lambda: loss("prefix_shared", probe, cached),
        "entropy_cached": lambda: loss("prefix_shared", by_signal["entropy"], cached),
        **{name: partial(loss, "prefix_shared", other) for name, other in by_signal.items()},
    }


def trl_losses(shape: Shape) -> tuple[Any, dict[str, Callable[[], Tensor]]]:
    """(policy, variant -> loss of one step) of TRL's own DPOTrainer, fed with our tensors."""
    import trl
    from datasets import Dataset

    row = {"images": [[]], "prompt": ["p"], "chosen": ["c"], "rejected": ["r"]}
    trainer = trl.DPOTrainer(
        make_model(shape),
        args=trl.DPOConfig(
            tempfile.mkdtemp(),
            beta=BETA,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            max_length=None,
        ),
        train_dataset=Dataset.from_dict(row),
        processing_class=HFModel("uedpo:micro_llava").processor(),
        peft_config=LoraConfig(r=shape.rank, lora_alpha=2 * shape.rank, target_modules=LANGUAGE_LINEAR),
        data_collator=lambda rows: rows,
    )
    trainer.model.config.get_text_config().pad_token_id = None
    _wake(trainer.model)
    trainer.model.train()
    batch = make_batch(shape)
    assert batch.pixel_values is not None
    completion = torch.zeros_like(batch.inputs["input_ids"])
    completion[:, shape.prefix :] = 1
    inputs = batch.inputs | {
        "pixel_values": torch.cat([batch.pixel_values] * 2),  # as TRL's collator repeats it
        "completion_mask": completion,
    }
    known = {name: torch.zeros(shape.batch_size) for name in ("ref_chosen_logps", "ref_rejected_logps")}

    def loss(head_like_cuda: bool, precomputed: bool = False) -> Tensor:
        trainer.precompute_ref_logps = precomputed  # its guard refuses images only when it is built
        with _head(head_like_cuda):
            result: Tensor = trainer.compute_loss(trainer.model, inputs | known if precomputed else inputs)
        return result

    return trainer.model, {
        "trl": lambda: loss(True),
        "trl_stock": lambda: loss(False),
        "trl_precomputed": lambda: loss(True, precomputed=True),
    }


@contextmanager
def _head(like_cuda: bool) -> Iterator[None]:
    """On CUDA TRL's head scores response positions only; on a CPU, as shipped, every position."""
    import trl.trainer.utils as utils

    before = utils._use_triton
    utils._use_triton = lambda device: like_cuda
    try:
        yield
    finally:
        utils._use_triton = before


def steps(shape: Shape, names: tuple[str, ...]) -> dict[str, Callable[[], float]]:
    """variant -> a function that takes one whole training step and returns its loss."""
    result: dict[str, Callable[[], float]] = {}
    for build, members in ((trl_losses, TRL), (our_losses, OURS + SIGNALS)):
        if not set(members) & set(names):
            continue
        model, losses = build(shape)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
        for name in members:
            if name in names:
                result[name] = _step(losses[name], optimizer)
    return {name: result[name] for name in names}


def _step(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], float]:
    def step() -> float:
        value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(value.detach())

    return step
