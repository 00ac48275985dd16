"""One training step of the real module on fake tensors, under a ledger."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from uedpo.model.families import family_of
from uedpo.model.inputs import unwrap
from uedpo.module import PreferenceModule
from uedpo.plan.ledger import Ledger
from uedpo.plan.shadow import Shadow
from uedpo.scoring.attention import as_on_gpu
from uedpo.types import PairBatch
from uedpo.weights.weigher import TokenWeigher

# what is there before the first step, in the order of the table
HELD = ("frozen weights", "reference copy", "trained parameters", "gradients", "optimiser state")
DDP = "gradient buckets (DDP)"
PASSES = ("policy forward", "reference", "probe", "vision tower", "loss", "backward", "optimiser")


@dataclass(frozen=True)
class Counted:
    """What one optimiser step of one device needs.

    Attributes:
        parts: part -> bytes at the moment of the peak.
        kept: bytes that the forward pass of the policy keeps for the backward pass.
        where: what runs at the peak.
        peaks: pass -> highest sum of bytes while it runs.
        flops: pass -> floating-point operations of one micro-batch.
        language_weights: bytes of the frozen linear layers that quantisation would shrink.
        weight_bytes: of one number in them.
    """

    parts: dict[str, int]
    kept: int
    where: str
    peaks: dict[str, int]
    flops: dict[str, int]
    language_weights: int
    weight_bytes: int

    @property
    def peak(self) -> int:
        return sum(self.parts.values())

    def quantised(self, part: str, bits: str) -> Counted:
        """The same with the linear layers of the language model in `part` in fewer bits.

        NF4 with double quantisation takes 4.127 bits a weight (arXiv 2305.14314, section 3), LLM.int8() 8 and
        a number a row. Weights that a kernel dequantises for itself are not counted.
        """
        share = (4.127 if bits == "4bit" else 8.0) / (8 * self.weight_bytes)
        less = int(self.language_weights * (1 - share))
        parts = self.parts | {part: self.parts.get(part, 0) - less}
        return replace(self, parts=parts, peaks={name: b - less for name, b in self.peaks.items()})


def count_step(
    module: PreferenceModule,
    weigher: TokenWeigher | None,
    batch: PairBatch,
    *,
    config: Any,
    accumulate: bool = False,
    autocast: bool = False,
    clip: bool = False,
    ddp: bool = False,
    fused_optimiser: bool = False,
    capability: tuple[int, int] | None = None,
) -> Counted:
    """Run a step of `module`, whose source gets fake weights, as Lightning would, and count.

    Args:
        module: not configured yet.
        weigher: the callback that weighs tokens, if there is one.
        batch: real tensors on the CPU; decides all lengths.
        config: transformers config of the model.
        accumulate: the micro-batch is not the first of its step: gradients are there already.
        autocast: bf16-mixed.
        clip: gradients are clipped.
        ddp: another copy of the gradients lies in DDP's buckets.
        fused_optimiser: AdamW works on all tensors at once, as it does on a GPU, with a copy of them.
        capability: compute capability of the GPU whose attention is counted; None counts the CPU's.
    """
    ledger = Ledger()
    module.source = Shadow(module.source, config)
    module.configure_model()
    if weigher is not None:
        weigher.module = module
    trained = _hold(ledger, module)
    _name_passes(ledger, module, weigher)
    with as_on_gpu(capability), ledger:
        optimizer = _optimiser_after_a_step(ledger, module, trained)
        buckets = [torch.empty_like(p) for p in trained] if ddp else []
        ledger.tag(buckets, DDP)
        ledger.tag(vars(batch), "batch")
        ledger.start()
        precision = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
        with precision, ledger.phase("loss"):
            loss = module.training_step(batch, 0)
        kept = ledger.live["policy forward"]
        if not accumulate:  # Lightning does so after the forward pass
            optimizer.zero_grad()
        with ledger.phase("backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        del loss
        with ledger.phase("optimiser"):
            if clip:
                clip_grad_norm_(trained, 1.0)
            scratch = [torch.empty_like(p) for p in trained] if fused_optimiser else []
            optimizer.step()
        del scratch, buckets
    return _counted(ledger, kept, module)


def _hold(ledger: Ledger, module: PreferenceModule) -> list[Any]:
    """Tell the ledger what the models hold; returns what is trained."""
    trained = [p for p in module.parameters() if p.requires_grad]
    frozen = [p for p in module.policy.parameters() if not p.requires_grad]
    ledger.tag([frozen, list(module.policy.buffers())], "frozen weights")
    if module.reference is not None:
        held = [*module.reference.parameters(), *module.reference.buffers()]
        ledger.tag([x for x in held if id(x) not in {id(f) for f in frozen}], "reference copy")
    ledger.tag(trained, "trained parameters")
    return trained


def _optimiser_after_a_step(ledger: Ledger, module: PreferenceModule, trained: list[Any]) -> Any:
    """The optimiser with its state, and gradients in place: those of the last step stay until the next
    backward pass."""
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
        ledger.tag(parameter.grad, "gradients")
        parameter.register_post_accumulate_grad_hook(lambda p: ledger.tag(p.grad, "gradients"))
    optimizer, _ = module.optim(trained, 1000)
    optimizer.step()
    ledger.tag(optimizer.state_dict()["state"], "optimiser state")
    return optimizer


def _name_passes(ledger: Ledger, module: Any, weigher: TokenWeigher | None) -> None:
    module.score = _within(ledger, "policy forward", module.score, unless="probe")
    module.score_reference = _within(ledger, "reference", module.score_reference)
    if weigher is not None:
        module.set_weigher(_within(ledger, "probe", weigher.weigh))
    for model in (module.policy, module.reference):
        if model is not None:
            inner = unwrap(model).model
            inner.get_image_features = _within(ledger, "vision tower", inner.get_image_features)


def _within(
    ledger: Ledger, name: str, call: Callable[..., Any], unless: str | None = None
) -> Callable[..., Any]:
    """`call`, whose memory and work count as `name`, or as what calls it where that is `unless`."""

    def named(*args: Any, **options: Any) -> Any:
        with ledger.phase(ledger.current if ledger.current == unless else name):
            return call(*args, **options)

    return named


def _counted(ledger: Ledger, kept: int, module: PreferenceModule) -> Counted:
    parts = {name: ledger.peak.get(name, 0) for name in (*HELD, DDP)}
    rest = {n: b for n, b in ledger.peak.items() if n not in parts}
    activations = min(rest.pop("policy forward", 0), kept)
    features = rest.pop("vision tower", 0)
    parts["activations kept for backward"] = activations
    parts["vision tower features" if ledger.peak_phase != "vision tower" else "vision tower"] = features
    parts["temporaries and batch"] = sum(ledger.peak.values()) - sum(parts.values())
    base = unwrap(module.policy if module.reference is None else module.reference)
    layers = (m for m in family_of(base.config).language(base).modules() if isinstance(m, torch.nn.Linear))
    linear = sum(m.weight.nbytes for m in layers if not m.weight.requires_grad)
    return Counted(
        {n: b for n, b in parts.items() if b},
        kept,
        ledger.peak_phase,
        {n: ledger.phase_peaks[n] for n in PASSES if n in ledger.phase_peaks},
        {n: ledger.flops[n] for n in PASSES if ledger.flops[n]},
        linear,
        base.dtype.itemsize,
    )
