"""Stops before an optimiser step that would make weights non-finite."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, distributed

from uedpo.errors import GuardError
from uedpo.model.sharded import whole
from uedpo.runtime.say import say
from uedpo.types import NonNegativeInt


class Guard(pl.Callback):
    """Looks at every loss and, before each optimiser step, at all gradients, on all ranks at once.

    Args:
        skip: optimiser steps in a row that may be left out, with neither weights nor optimiser state
            touched, before the run stops; 0 stops at once. Logged as `guard/skipped` where not 0.

    Raises (while training):
        GuardError: a loss or gradient that is not finite; names the rows. No weight has changed.
    """

    def __init__(self, skip: NonNegativeInt = 0) -> None:
        self.skip = skip
        self.skipped = self.in_a_row = 0
        self._rows: list[str] = []  # of this step
        self._losses: list[
            tuple[Tensor, list[str]]
        ] = []  # not looked at yet, which would wait for the device

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._rows, self._losses = [], []
        self._rows += batch.ids

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        latest = self._rows[sum(len(ids) for _, ids in self._losses) :]
        self._losses.append((loss.detach(), latest))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # the largest entry, not the 2-norm, whose squares overflow on their own
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None], math.inf)
        largest = whole(norm)
        values = torch.stack([largest.float(), *(loss.float() for loss, _ in self._losses)])
        bad = (~values.isfinite()).any().float()
        if trainer.world_size > 1:
            bad = trainer.strategy.reduce(bad, reduce_op="max")
        if not bad:
            self.in_a_row = 0
        else:
            self._refuse(trainer, largest)
            for parameter in trained:
                parameter.grad = None
        if self.skip:
            pl_module.log("guard/skipped", float(self.skipped), batch_size=1)

    def _refuse(self, trainer: pl.Trainer, largest: Tensor) -> None:
        losses = [(float(loss), ids) for loss, ids in self._losses]
        culprits = [i for loss, ids in losses if not math.isfinite(loss) for i in ids]
        found = [(trainer.global_rank, [loss for loss, _ in losses], culprits, self._rows)]
        if trainer.world_size > 1:
            everyone: list[Any] = [None] * trainer.world_size
            distributed.all_gather_object(everyone, found[0])
            found = everyone
        # the gradient of one rank's loss is in all ranks' gradients; its loss is its own
        guilty = [entry for entry in found if entry[2]]
        if guilty:
            rows = [i for entry in guilty for i in entry[2]]
            ranks = ", ".join(str(entry[0]) for entry in guilty)
            values = [v for entry in guilty for v in entry[1] if not math.isfinite(v)]
            what = f"loss {values[0]} on rank {ranks}"
        else:
            rows = [i for entry in found for i in entry[3]]
            what = f"largest gradient {float(largest)} with finite losses"
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        text = f"step {trainer.global_step + 1}: {what}, rows {', '.join(rows)}"
        if self.in_a_row > self.skip:
            raise GuardError(
                f"stopped before {text}; weights and checkpoints are finite. Look at these rows, lower "
                "optim.lr, or leave out such steps with callbacks.guard.skip=N"
            )
        if trainer.is_global_zero:
            say(f"left out {text} ({self.in_a_row} of at most {self.skip} in a row)", flush=True)

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]
