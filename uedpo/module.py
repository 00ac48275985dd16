"""The Lightning module: policy, frozen reference, one step of any preference loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from uedpo.loss import dpo_loss
from uedpo.model.hf import HFModel
from uedpo.scoring.logps import score
from uedpo.types import LossOutput, PairBatch, TokenScores

Loss = Callable[[Tensor, Tensor, Tensor, Tensor | None], LossOutput]
# (batch, clear scores) -> detached weights [2B, T]
Weigher = Callable[[PairBatch, TokenScores], Tensor]


class PreferenceModule(pl.LightningModule):
    """Trains `source`'s policy with `loss`; token weights come from `weigher`, if a callback sets one.

    Args:
        source: where policy and reference come from; loaded in `configure_model`.
        loss: (policy_logps, reference_logps, mask, weights) -> LossOutput.
        optim: (parameters, max_steps) -> (optimizer, scheduler).
        val_beta: beta of the unweighted DPO loss on validation pairs, so that curves compare.
    """

    def __init__(self, source: HFModel, loss: Loss, optim: Callable[..., Any], val_beta: float = 0.1) -> None:
        super().__init__()
        self.source, self.loss, self.optim, self.val_beta = source, loss, optim, val_beta
        self.policy: Any = None
        self.reference: Any = None
        self.weigher: Weigher | None = None
        self.strict_loading = False  # checkpoints hold what is trained, not the frozen base

    def configure_model(self) -> None:
        if self.policy is None:
            self.policy, self.reference = self.source.load()

    @contextmanager
    def reference_model(self) -> Iterator[Any]:
        """The frozen reference: the policy without its adapter, or a frozen copy."""
        if self.reference is not None:
            yield self.reference
        else:
            with self.policy.disable_adapter():
                yield self.policy

    def score(self, batch: PairBatch, pixel_values: Tensor | None = None) -> TokenScores:
        """Scores of the policy as it is now, of the given images if any."""
        return score(self.policy, batch, pixel_values)

    @torch.no_grad()
    def score_reference(self, batch: PairBatch) -> TokenScores:
        with self.reference_model() as reference:
            return score(reference, batch)

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        policy = self.score(batch)
        reference = self.score_reference(batch)
        weights = self.weigher(batch, policy) if self.weigher is not None else None
        out = self.loss(policy.logps, reference.logps, batch.mask, weights)
        logged = {f"train/{name}": value for name, value in out.metrics.items()}
        shown = {
            "train/loss": out.loss.detach(),
            **{k: logged.pop(k) for k in ("train/margin", "train/accuracy")},
        }
        self.log_dict(shown, prog_bar=True, batch_size=len(batch.ids))
        self.log_dict(logged, batch_size=len(batch.ids))
        return out.loss

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        policy, reference = self.score(batch), self.score_reference(batch)
        out = dpo_loss(policy.logps, reference.logps, batch.mask, beta=self.val_beta)
        self.log("val/loss", out.loss, batch_size=len(batch.ids), sync_dist=True)
        for name, value in out.metrics.items():
            self.log(f"val/{name}", value, batch_size=len(batch.ids), sync_dist=True)

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer, schedule = self.optim(trained, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
