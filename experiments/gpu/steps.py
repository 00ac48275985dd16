"""Training steps, measured: ours and TRL's, in the same precision, on the same pairs."""

from __future__ import annotations

import dataclasses
import gc
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from experiments.gpu.shapes import Random
from uedpo.model.families import family_of
from uedpo.model.inputs import image_inputs, unwrap
from uedpo.types import PairBatch

REPETITIONS = 3
Step = Callable[[], float]


def our_step(module: Any, batch: PairBatch, device: str, optimizer: Any) -> Step:
    """One optimiser step of the module, in the order in which Lightning takes it."""
    trained = [p for p in module.parameters() if p.requires_grad]

    def step() -> float:
        with torch.autocast(device, torch.bfloat16):
            # a new step knows nothing of the last
            loss = module.training_step(dataclasses.replace(batch), 0)
        optimizer.zero_grad()
        return _finish(loss, trained, optimizer)

    return step


def trl_step(trainer: Any, batch: PairBatch, device: str, optimizer: Any) -> Step:
    """The same of TRL's trainer."""
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    inputs = _for_trl(unwrap(trainer.model), batch)

    def step() -> float:
        with torch.autocast(device, torch.bfloat16):
            loss = trainer.compute_loss(trainer.model, inputs)
        optimizer.zero_grad()
        return _finish(loss, trained, optimizer)

    return step


def _finish(loss: Tensor, trained: list[Any], optimizer: Any) -> float:
    loss.backward()
    clip_grad_norm_(trained, 1.0)
    optimizer.step()
    return float(loss.detach())


def adamw(model: Any) -> Any:
    """AdamW over what is trained, as `uedpo.optim` makes it."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, weight_decay=0.0)


def trl_trainer(source: Random, device: str) -> Any:
    """TRL's DPOTrainer with LoRA on the same layers of the same model.

    Raises:
        ImportError: TRL is not installed.
    """
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    model = source.base()
    assert source.lora is not None
    adapter = LoraConfig(
        r=source.lora.r,
        lora_alpha=source.lora.alpha,
        target_modules=family_of(model.config).lora_targets(model),
    )
    trainer = trl.DPOTrainer(
        model,
        args=trl.DPOConfig(
            tempfile.mkdtemp(),
            beta=0.1,
            use_cpu=device == "cpu",
            bf16=device == "cuda",
            gradient_checkpointing=False,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            report_to="none",
            max_length=None,
        ),
        train_dataset=Dataset.from_dict(
            {"images": [[]], "prompt": ["p"], "chosen": ["c"], "rejected": ["r"]}
        ),
        processing_class=source.processor(),
        peft_config=adapter,
        data_collator=lambda rows: rows,
    )
    trainer.model.train()
    return trainer


def _for_trl(base: Any, batch: PairBatch) -> dict[str, Tensor]:
    """Our batch under TRL's names: a row for each response, with its own copy of the image."""
    completion = torch.zeros_like(batch.inputs["input_ids"])
    lengths = zip(batch.prefix_lengths, batch.response_lengths, strict=True)
    for row, (prefix, response) in zip(completion, lengths, strict=True):
        row[prefix : prefix + response] = 1
    shown = [entry for row in batch.images for entry in row]
    images = image_inputs(base, batch, batch.pixel_values, shown)
    return batch.inputs | images | {"completion_mask": completion}


def measured(step: Step, pairs: int, device: str) -> dict[str, Any]:
    """Seconds of steps after a first one, and the most memory that they had at once; on a CPU, of one step.

    Raises:
        ValueError: a loss is not finite.
    """
    repetitions = 1
    if device == "cuda":
        step()
        torch.cuda.reset_peak_memory_stats()
        repetitions = REPETITIONS
    seconds, losses = [], []
    for _ in range(repetitions):
        begin = _now(device)
        losses.append(step())
        seconds.append(_now(device) - begin)
    if not all(abs(loss) < float("inf") for loss in losses):
        raise ValueError(f"losses {losses} are not finite")
    found: dict[str, Any] = {
        "seconds": [round(s, 5) for s in seconds],
        "pairs_per_s": pairs / sorted(seconds)[len(seconds) // 2],
        "loss": losses[-1],
    }
    if device == "cuda":
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        found["reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
    return found


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def guarded(what: dict[str, Any], call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """`what` with what `call` found, or with the reason why it found nothing, in one line."""
    try:
        return what | call()
    except Exception as error:
        reason = one_line(error)
    gc.collect()  # the traceback held what the failed step had made
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return what | {"error": reason}


def one_line(error: BaseException) -> str:
    """What failed, in one line."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
