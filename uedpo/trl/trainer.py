"""`DPOTrainer` whose tokens weigh what UE-DPO says (arXiv 2605.04874, section 4).

TRL sums a response's log-probabilities inside `_compute_loss`, which is private. Here a hook multiplies them
by lambda before that: those of the policy, as in the paper, or of the reference, too. What else TRL does
stays as it is, and with alpha = 0 nothing is multiplied at all. Rewards and log-probabilities that TRL logs
are weighted ones.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

try:
    import trl
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
except ImportError as error:
    raise ImportError(f"uedpo.trl needs TRL 1.16: pip install 'uedpo[trl]' ({error})") from None

from uedpo.corruption.base import Corruption, corrupt_batch
from uedpo.corruption.diffusion import Diffusion
from uedpo.corruption.spatial import Blank, Blur, Crop, Mask
from uedpo.scoring import plain
from uedpo.trl.batch import of_sequence, pair_batch
from uedpo.types import PairBatch, TokenScores
from uedpo.weights.probe import Branches, UncertaintyProbe
from uedpo.weights.signals import Signal
from uedpo.weights.uncertainty import Center, Select

TESTED = "1.16"
CORRUPTIONS = {"diffusion": Diffusion, "blank": Blank, "crop": Crop, "blur": Blur, "block_mask": Mask}
# of these losses the scores are sums of weighted log-ratios, and nothing else
LOSSES = ("sigmoid", "hinge", "robust", "exo_pair")
FREE = ("entropy", "surprisal")  # what the forward pass of the loss has anyway

if list(inspect.signature(DPOTrainer._compute_loss).parameters) != [
    "self", "model", "inputs", "return_outputs",
]:  # fmt: skip
    raise ImportError(
        f"uedpo.trl works with TRL {TESTED}, this is {trl.__version__}: its loss is another function"
    )


@dataclass
class UEDPOConfig(DPOConfig):
    """`DPOConfig` with UE-DPO's options; see `uedpo.UncertaintyProbe` for what they mean.

    Attributes:
        alpha: strength in [0, 1]; 0 is DPO, bit for bit.
        tau: share of tokens selected in each response, in (0, 0.5].
        signal: uncertainty (the paper's), kl, entropy, surprisal or margin. Entropy and surprisal with
            `select` signal or all cost no forward pass.
        select: sensitivity (the paper's), signal or all.
        branches: both, chosen or rejected.
        center: mean, median or first_quartile.
        weight_on: policy (the paper's log(pi^lambda / pi_ref)) or log_ratio, see `uedpo.ue_dpo_loss`.
        corruption: diffusion (the paper's), blank, crop, blur or block_mask, with default options; give the
            trainer an object for others.
    """

    alpha: float = field(default=0.3, metadata={"help": "strength of the weights; 0 is DPO"})
    tau: float = field(default=0.4, metadata={"help": "share of tokens selected in each response"})
    signal: Signal = field(default="uncertainty", metadata={"help": "what weighs a token"})
    select: Select = field(default="sensitivity", metadata={"help": "what selects tokens"})
    branches: Branches = field(default="both", metadata={"help": "which responses are weighed"})
    center: Center = field(default="mean", metadata={"help": "centre of the signal"})
    weight_on: Literal["policy", "log_ratio"] = field(
        default="policy", metadata={"help": "which log-probabilities are weighed"}
    )
    corruption: str = field(default="diffusion", metadata={"help": "how the image is corrupted"})

    def __post_init__(self) -> None:
        problems = [
            f"alpha={self.alpha}: must be in [0, 1]" if not 0 <= self.alpha <= 1 else "",
            f"tau={self.tau}: must be in (0, 0.5]" if not 0 < self.tau <= 0.5 else "",
            _choice("signal", self.signal, ("uncertainty", "kl", "entropy", "surprisal", "margin")),
            _choice("select", self.select, ("sensitivity", "signal", "all")),
            _choice("branches", self.branches, ("both", "chosen", "rejected")),
            _choice("center", self.center, ("mean", "median", "first_quartile")),
            _choice("weight_on", self.weight_on, ("policy", "log_ratio")),
            _choice("corruption", self.corruption, tuple(CORRUPTIONS)),
        ]
        if found := [p for p in problems if p]:
            raise ValueError("; ".join(found))
        super().__post_init__()  # type: ignore[no-untyped-call]


def _choice(name: str, value: str, known: tuple[str, ...]) -> str:
    return "" if value in known else f"{name}={value!r}: must be one of {', '.join(known)}"


class UEDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """`DPOTrainer` with UE-DPO's token weights.

    Args:
        args: a `UEDPOConfig`.
        corruption: what makes the corrupted image; by default that of `args.corruption`.
        others: as `DPOTrainer` takes them.

    Raises:
        TypeError: `args` is a `DPOConfig` only.
        ValueError: an option of TRL's that token weights do not go with.
    """

    args: UEDPOConfig

    def __init__(self, *others: Any, corruption: Corruption | None = None, **named: Any) -> None:
        super().__init__(*others, **named)
        args = self.args
        if not isinstance(args, UEDPOConfig):
            raise TypeError("args: give a UEDPOConfig, which has alpha and tau; a DPOConfig has not")
        _refuse(self)
        self._probe = UncertaintyProbe(
            args.alpha, args.tau, args.signal, args.select, args.branches, args.center,
            corruption=corruption or CORRUPTIONS[args.corruption](seed=args.seed),
        )  # fmt: skip

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool) -> Any:
        if self._probe.alpha == 0 or "pixel_values" not in inputs:
            return super()._compute_loss(model, inputs, return_outputs)  # type: ignore[no-untyped-call]
        batch = pair_batch(inputs, self.processing_class)
        with self._weighted(model, batch, inputs["input_ids"].shape[1]):
            return super()._compute_loss(model, inputs, return_outputs)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def _weighted(self, model: Any, batch: PairBatch, length: int) -> Iterator[None]:
        """While it lasts, log-probabilities that a pass gives are multiplied by lambda."""
        free = self.args.signal in FREE and not self._probe.needs_probe
        made = None if free else self._log(self._weights(model, batch), batch)
        passes = 0

        def weigh(module: Any, arguments: Any, outputs: Any) -> Any:
            nonlocal made, passes
            passes += 1  # the policy's is the first, the reference's the second
            if made is None:
                made = self._log(self._weights_of_pass(outputs, batch), batch)
            if passes == 1 or self.args.weight_on == "log_ratio":
                weights = of_sequence(made, batch, length)
                outputs.log_probs = outputs.log_probs * weights.to(outputs.log_probs.dtype)
            return outputs

        modules = [self.accelerator.unwrap_model(model)]
        if self.ref_model is not None:
            modules.append(self.accelerator.unwrap_model(self.ref_model))
        hooks = [module.register_forward_hook(weigh) for module in modules]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def _weights(self, model: Any, batch: PairBatch) -> Tensor:
        """lambda [2B, T], from a pass on the clear images and, where it is needed, one on the corrupted."""
        policy = self.accelerator.unwrap_model(model)
        with self.accelerator.autocast():
            clear, corrupted = plain.score(policy, batch), None
            if self._probe.needs_probe:
                pixels = corrupt_batch(self._probe.corruption, batch, self.state.global_step)
                corrupted = plain.score(policy, batch, pixels)
        return self._probe.signals(batch, clear, corrupted).weights

    @torch.no_grad()
    def _weights_of_pass(self, outputs: Any, batch: PairBatch) -> Tensor:
        """lambda [2B, T] from what the loss's own pass says: entropy and log-probabilities."""

        def of_responses(values: Tensor) -> Tensor:
            return torch.where(batch.mask, values.float().gather(1, batch.positions.clamp(min=0)), 0)

        logps, entropy = of_responses(outputs.log_probs), of_responses(outputs.entropy)
        none = torch.zeros_like(logps)
        scores = TokenScores(logps, none, batch.tokens, entropy, none[..., None], (none[:1], None))
        return self._probe.signals(batch, scores, None).weights

    def _log(self, weights: Tensor, batch: PairBatch) -> Tensor:
        mode = "train" if self.model is not None and self.model.training else "eval"
        for name, values in zip(("chosen", "rejected"), batch.of_responses(weights), strict=True):
            mean = self.accelerator.gather_for_metrics(values.mean()).mean().item()
            self._metrics[mode][f"weights/{name}"].append(mean)
        return weights


def _refuse(trainer: Any) -> None:
    """What does not go with token weights, all of it in one error."""
    args = trainer.args
    problems = [
        f"loss_type={kind}: must be one of {', '.join(LOSSES)}"
        for kind in trainer.loss_types
        if kind not in LOSSES
    ]
    given = {
        "use_weighting": args.use_weighting, "ld_alpha": args.ld_alpha is not None,
        "precompute_ref_log_probs": args.precompute_ref_log_probs,
    }  # fmt: skip
    problems += [
        f"{name}: token weights do not go with it; leave it out" for name, value in given.items() if value
    ]
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        problems.append(
            "FSDP and DeepSpeed: the probe scores an unwrapped model; use DDP, or python -m uedpo.run"
        )
    if problems and args.alpha:
        raise ValueError("; ".join(problems))
