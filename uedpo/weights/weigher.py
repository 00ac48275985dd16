"""What every callback that weighs tokens has in common."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from uedpo.types import PairBatch, TokenScores


class TokenWeigher(pl.Callback):
    """Sets the module's `weigher` to `weigh` for the time of a fit, and keeps the module as `module`."""

    module: Any = None

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self.module = pl_module
            pl_module.set_weigher(self.weigh)

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            pl_module.set_weigher(None)

    def weigh(self, batch: PairBatch, clear: TokenScores) -> Tensor:
        """Detached weights [2B, T] from the scores of the clear images."""
        raise NotImplementedError
