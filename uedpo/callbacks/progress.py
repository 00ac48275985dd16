"""The bar of a training run."""

from __future__ import annotations

import sys
from typing import Any

from pytorch_lightning.callbacks import RichProgressBar

from uedpo.runtime.progress import interactive
from uedpo.types import NonNegativeInt

SHOWN = ("train/loss", "train/accuracy", "perf/pairs_per_second")


class Bar(RichProgressBar):
    """Lightning's bar over a run's micro-batches, on a terminal only, with what fits on a line.

    Args:
        refresh_rate: micro-batches between two drawings; 0 draws none.
        leave: whether the bar stays when the run has ended.
    """

    def __init__(self, refresh_rate: NonNegativeInt = 100, leave: bool = False) -> None:
        super().__init__(refresh_rate, leave)

    @property
    def is_enabled(self) -> bool:
        return super().is_enabled and interactive(sys.stdout)

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"  # a run is one pass over its batches: "Epoch 0/0" would say nothing

    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return {name.rsplit("/", 1)[-1]: metrics[name] for name in SHOWN if name in metrics}
