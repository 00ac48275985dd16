"""The callback that computes token weights each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from uedpo.types import Fraction, PairBatch, Tau, TokenScores
from uedpo.weights.corruption import NUM_STEPS, Schedule, corrupt, sample_noise
from uedpo.weights.uncertainty import Center, Scope, exploration_weights, select_tokens

Control = Literal["none", "constant", "shuffled"]


@dataclass
class Signals:
    """What the probe saw of one batch, all [2B, T] and detached."""

    uncertainty: Tensor
    sensitivity: Tensor
    selected: Tensor
    weights: Tensor


class UncertaintyProbe(pl.Callback):
    """Sets the module's `weigher` to UE-DPO's lambda (arXiv 2605.04874, section 4).

    Each step scores the responses once more, given the corrupted image, with the policy as it is.
    Rows without an image weigh 1.

    Args:
        alpha: strength, in [0, 1]; 0 gives DPO exactly.
        tau: share of tokens selected per branch, in (0, 0.5].
        k: diffusion step of the corruption, 0..999.
        schedule: of the corruption.
        center, scope: see `exploration_weights`.
        control: "none"; "constant" gives each token its branch's mean weight; "shuffled" permutes the
            weights over the tokens of each response. Without both controls nobody can tell what
            choosing the tokens contributed.
        seed: of the noise.
    """

    def __init__(
        self,
        alpha: Fraction,
        tau: Tau = 0.4,
        k: int = 500,
        schedule: Schedule = "sigmoid",
        center: Center = "mean",
        scope: Scope = "response",
        control: Control = "none",
        seed: int = 0,
    ) -> None:
        if not 0 <= k < NUM_STEPS:
            raise ValueError(f"k={k}: must be in [0, {NUM_STEPS - 1}]")
        self.alpha, self.tau, self.k, self.schedule = alpha, tau, k, schedule
        self.center, self.scope, self.control, self.seed = center, scope, control, seed
        self.corrupted: Tensor | None = None
        self.module: Any = None

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        if pl_module.weigher is not None:
            raise ValueError("two callbacks want to weigh tokens; keep one")
        self.module = pl_module
        pl_module.weigher = self.weigh

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            pl_module.weigher = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: PairBatch, batch_idx: int
    ) -> None:
        self.corrupted = self.corrupt(batch, trainer.global_step)

    def corrupt(self, batch: PairBatch, step: int) -> Tensor | None:
        """Noisy pixels [B, ...]; None where the batch has no image."""
        if batch.pixel_values is None:
            return None
        return corrupt(
            batch.pixel_values, batch.ids, k=self.k, seed=self.seed, step=step, schedule=self.schedule
        )

    def weigh(self, batch: PairBatch, clear: TokenScores) -> Tensor:
        """lambda [2B, T] from the clear scores and a no-gradient pass on the corrupted images."""
        if self.corrupted is None:
            return torch.ones_like(clear.logps)
        with torch.no_grad():
            corrupted = self.module.score(batch, self.corrupted)
        signals = self.signals(batch, clear, corrupted)
        weights = self._controlled(signals.weights, batch, self.module.global_step)
        self.module.log_dict(self._summary(signals, weights, batch), batch_size=len(batch.ids))
        self.module.log(
            "weights/reweighted",
            (weights != 1)[batch.mask].float().mean(),
            prog_bar=True,
            batch_size=len(batch.ids),
        )
        return weights

    def signals(self, batch: PairBatch, clear: TokenScores, corrupted: TokenScores) -> Signals:
        """u, Delta, I and lambda of a batch, before any control."""
        guess = corrupted.argmax
        other = clear.logits_of(guess) - clear.target_logits
        # the two logits come from different kernels: 0 must be exactly 0 where the guess is the token
        u = torch.where(guess == batch.tokens, 0, other)
        delta = clear.target_logits - corrupted.target_logits
        seen = batch.mask & batch.has_image.repeat(2)[:, None]
        options: dict[str, Any] = {"tau": self.tau, "scope": self.scope}
        selected, weights = [], []
        halves = [x.chunk(2) for x in (u, delta, seen)]
        for side, branch in enumerate(("chosen", "rejected")):
            u_b, delta_b, seen_b = (half[side] for half in halves)
            selected.append(select_tokens(delta_b, seen_b, branch=branch, **options))  # type: ignore[arg-type]
            weights.append(
                exploration_weights(
                    u_b, delta_b, seen_b, branch=branch, alpha=self.alpha, center=self.center, **options
                )  # type: ignore[arg-type]
            )
        return Signals(u, delta, torch.cat(selected), torch.cat(weights))

    def _controlled(self, weights: Tensor, batch: PairBatch, step: int) -> Tensor:
        seen = batch.mask & batch.has_image.repeat(2)[:, None]
        if self.control == "constant":
            means = [
                w[m].mean() if m.any() else w.new_ones(())
                for w, m in zip(weights.chunk(2), seen.chunk(2), strict=True)
            ]
            flat = torch.stack(means).repeat_interleave(len(batch.ids))[:, None].expand_as(weights)
            return torch.where(seen, flat, 1)
        if self.control == "shuffled":
            weights = weights.clone()
            for row, keep in enumerate(seen):
                name = f"shuffle/{row // len(batch.ids)}/{batch.ids[row % len(batch.ids)]}"
                order = sample_noise([int(keep.sum())], name, seed=self.seed, step=step).argsort()
                weights[row, keep] = weights[row, keep][order.to(weights.device)]
        return weights

    def _summary(self, signals: Signals, weights: Tensor, batch: PairBatch) -> dict[str, Tensor]:
        chosen, rejected = (x.bool() for x in batch.mask.chunk(2))
        u_w, u_l = signals.uncertainty.chunk(2)
        d_w, d_l = signals.sensitivity.chunk(2)
        w_w, w_l = weights.chunk(2)
        picked = signals.selected.chunk(2)[0]
        return {
            "weights/chosen": w_w[chosen].mean(),
            "weights/rejected": w_l[rejected].mean(),
            "weights/zero_uncertainty": (u_w[picked] == 0).float().mean()
            if picked.any()
            else u_w.new_zeros(()),
            "signals/uncertainty_chosen": u_w[chosen].mean(),
            "signals/uncertainty_rejected": u_l[rejected].mean(),
            "signals/sensitivity_chosen": d_w[chosen].mean(),
            "signals/sensitivity_rejected": d_l[rejected].mean(),
        }
