"""The callback that computes token weights each step: signal -> select -> weigh -> control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from uedpo.corruption.base import Corruption, corrupt_batch
from uedpo.corruption.diffusion import Diffusion, sample_noise
from uedpo.types import Fraction, PairBatch, PositiveInt, Tau, TokenScores
from uedpo.types.layout import to_device
from uedpo.weights.reuse import WeightMemory, branch_means
from uedpo.weights.signals import NEEDS_PROBE, Signal, token_signal
from uedpo.weights.uncertainty import Center, Scope, Select, choose_tokens, exploration_weights
from uedpo.weights.weigher import TokenWeigher

Control = Literal["none", "constant", "shuffled", "mean_one"]
Branches = Literal["both", "chosen", "rejected"]


@dataclass
class Signals:
    """What the weights of one batch were made from, all [2B, T] and detached.

    `uncertainty` is u, or the signal chosen in its place; `sensitivity` is 0 without a probe.
    """

    uncertainty: Tensor
    sensitivity: Tensor
    selected: Tensor
    weights: Tensor


@dataclass
class WeighedBatch:
    """The last micro-batch that was weighed: optimiser step, response tokens, and what they got.

    `signals` is None where the weights were remembered. All [2B, T] and detached.
    """

    step: int
    mask: Tensor
    signals: Signals | None
    weights: Tensor

    def on_host(self) -> WeighedBatch:
        """The same in fp64 on the CPU, for which the host waits once."""
        own = [] if self.signals is None else list(vars(self.signals).values())
        mask, weights, *own = torch.stack([x.double() for x in (self.mask, self.weights, *own)]).cpu()
        if own:
            own[2] = own[2].bool()
        return WeighedBatch(self.step, mask.bool(), Signals(*own) if own else None, weights)


class UncertaintyProbe(TokenWeigher):
    """Sets the module's `weigher` to UE-DPO's lambda (arXiv 2605.04874, section 4).

    Each step scores the responses once more, given the corrupted image, with the policy as it is,
    unless neither signal nor selection asks for it. Rows without an image weigh 1.

    Args:
        alpha: strength, in [0, 1]; 0 gives DPO exactly.
        tau: share of tokens selected per branch, in (0, 0.5].
        signal: "uncertainty" (the paper's u), "kl", or one that needs no probe: "entropy",
            "surprisal", "margin" (see `token_signal`).
        select: "sensitivity" (the paper's), "signal" (the share tau with the highest signal), "all".
        branches: which branch is weighed; the other's weights are 1.
        center, scope: see `exploration_weights`.
        control: "none"; "constant" gives each token its branch's mean weight; "shuffled" permutes the
            weights over the tokens of each response; "mean_one" divides by the branch's mean, which
            leaves the choice of tokens and removes the likelihood anchor. Without controls nobody
            can tell what choosing the tokens contributed.
        every_n_steps: probe on every n-th optimiser step only; between them each token weighs its
            branch's mean of the last probe, as with the control "constant".
        reuse: a sample keeps the weights of its first visit in later epochs; a batch without a new
            sample needs no probe.
        corruption: makes v'.
        seed: of the shuffling.

    With several ranks a scope "batch", the controls that take means, `every_n_steps` and `reuse` are refused
    (`uedpo.runtime.ranks`): their numbers would be those of each rank's own pairs.
    """

    def __init__(
        self,
        alpha: Fraction,
        tau: Tau = 0.4,
        signal: Signal = "uncertainty",
        select: Select = "sensitivity",
        branches: Branches = "both",
        center: Center = "mean",
        scope: Scope = "response",
        control: Control = "none",
        every_n_steps: PositiveInt = 1,
        reuse: bool = False,
        corruption: Corruption | None = None,
        seed: int = 0,
    ) -> None:
        self.alpha, self.tau, self.signal, self.select = alpha, tau, signal, select
        self.branches, self.center, self.scope = branches, center, scope
        self.control, self.seed = control, seed
        self.every_n_steps, self.reuse, self.memory = every_n_steps, reuse, WeightMemory()
        self.corruption = corruption or Diffusion(seed=seed)
        self.last: WeighedBatch | None = None

    @property
    def needs_probe(self) -> bool:
        return self.signal in NEEDS_PROBE or self.select == "sensitivity"

    def corrupt(self, batch: PairBatch, step: int) -> Tensor | None:
        """v' of a batch, [N, ...]; None where it has no image."""
        return corrupt_batch(self.corruption, batch, step)

    def weigh(self, batch: PairBatch, clear: TokenScores) -> Tensor:
        """lambda [2B, T] from the clear scores and a no-gradient pass on the corrupted images."""
        if batch.pixel_values is None:
            if self.module.sharded and self.needs_probe:
                with torch.no_grad():
                    self.module.score(batch)  # ranks that have images wait for this pass
            return torch.ones_like(clear.logps)
        step = self.module.global_step
        weights, signals = self.memory.find(batch) if self.reuse else None, None
        if weights is None and step % self.every_n_steps:
            weights = self.memory.means_of(batch)
        if weights is None:
            signals = self._fresh(batch, clear, step)
            weights = signals.weights
        controlled = self._controlled(weights, batch, step)
        self.last = WeighedBatch(step, batch.mask, signals, controlled)
        w_w, w_l = batch.of_responses(controlled)
        reweighted = torch.cat(batch.of_responses(weights != 1)).float().mean()
        means = {"weights/chosen": w_w.mean(), "weights/rejected": w_l.mean()}
        self.module.note(means | {"weights/reweighted": reweighted})
        return controlled

    def _fresh(self, batch: PairBatch, clear: TokenScores, step: int) -> Signals:
        """Signals and weights before any control, from a probe of its own; logs what it found."""
        corrupted = None
        if self.needs_probe:
            with torch.no_grad():
                corrupted = self.module.score(batch, self.corrupt(batch, step))
        signals = self.signals(batch, clear, corrupted)
        if self.reuse or self.every_n_steps > 1:
            self.memory.keep(batch, signals.weights, rows=self.reuse)
        self.module.note(self._summary(signals, batch))
        return signals

    def state_dict(self) -> dict[str, Any]:
        return self.memory.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.memory.load_state_dict(state_dict)

    def signals(self, batch: PairBatch, clear: TokenScores, corrupted: TokenScores | None) -> Signals:
        """u, Delta, I and lambda of a batch, before any control."""
        u = token_signal(self.signal, clear, corrupted, batch.tokens, batch.mask, batch.layout.at)
        delta = torch.zeros_like(u)
        if corrupted is not None:
            delta = (clear.target_logits - corrupted.target_logits).detach()
        visual = batch.visual_mask
        selected, weights = [], []
        halves = [x.chunk(2) for x in (u, delta, visual)]
        for side, branch in enumerate(("chosen", "rejected")):
            values = [half[side] for half in halves]
            chosen: dict[str, Any] = {
                "branch": branch,
                "tau": self.tau,
                "scope": self.scope,
                "select": self.select,
            }
            weighed = self.branches in ("both", branch)
            selected.append(choose_tokens(*values, **chosen) & weighed)
            branch_weights = exploration_weights(*values, alpha=self.alpha, center=self.center, **chosen)
            weights.append(branch_weights if weighed else torch.ones_like(branch_weights))
        return Signals(u, delta, torch.cat(selected), torch.cat(weights))

    def _controlled(self, weights: Tensor, batch: PairBatch, step: int) -> Tensor:
        if self.control in ("constant", "mean_one"):
            flat = torch.stack(branch_means(batch, weights))
            flat = flat.repeat_interleave(len(batch.ids))[:, None].expand_as(weights)
            return torch.where(batch.visual_mask, flat if self.control == "constant" else weights / flat, 1)
        if self.control == "shuffled":
            order = torch.arange(weights.numel()).view(weights.shape)
            for row, keep in enumerate(batch.host.visual_mask):
                name = f"shuffle/{row // len(batch.ids)}/{batch.ids[row % len(batch.ids)]}"
                shuffled = sample_noise([int(keep.sum())], name, seed=self.seed, step=step).argsort()
                order[row, keep] = order[row, keep][shuffled]
            return weights.flatten()[to_device(order, weights.device)]
        return weights

    def _summary(self, signals: Signals, batch: PairBatch) -> dict[str, Tensor]:
        u_w, u_l = batch.of_responses(signals.uncertainty)
        d_w, d_l = batch.of_responses(signals.sensitivity)
        picked, _ = batch.of_responses(signals.selected)
        return {
            "weights/zero_uncertainty": (picked & (u_w == 0)).sum() / picked.sum().clamp(min=1),
            "signals/uncertainty_chosen": u_w.mean(),
            "signals/uncertainty_rejected": u_l.mean(),
            "signals/sensitivity_chosen": d_w.mean(),
            "signals/sensitivity_rejected": d_l.mean(),
        }


def last_weighed(trainer: pl.Trainer) -> WeighedBatch | None:
    """What the run's probe weighed last; None on other ranks than 0, or where none has weighed yet."""
    probe = probe_of(trainer)
    return probe.last if probe is not None and trainer.is_global_zero else None


def probe_of(trainer: pl.Trainer) -> UncertaintyProbe | None:
    """The probe among the callbacks of a trainer, if there is one."""
    return next((c for c in trainer.callbacks if isinstance(c, UncertaintyProbe)), None)  # type: ignore[attr-defined]
