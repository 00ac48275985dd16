"""Token weights that the rows bring, and no others: the columns chosen_weights and rejected_weights."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from uedpo.types import PairBatch, TokenScores


class ColumnWeights(pl.Callback):
    """Sets the module's `weigher` to 1, which the module multiplies by the weights of the rows."""

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            pl_module.set_weigher(self.weigh)

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            pl_module.set_weigher(None)

    def weigh(self, batch: PairBatch, clear: TokenScores) -> Tensor:
        """1 everywhere, [2B, T]."""
        return torch.ones_like(clear.logps)
