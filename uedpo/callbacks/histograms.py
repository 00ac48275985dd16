"""Histograms of u, Delta and lambda in W&B and TensorBoard."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from uedpo.callbacks.distributions import SIDES
from uedpo.logger import STEP
from uedpo.logger.wandb import WandbRun
from uedpo.types import PositiveInt
from uedpo.weights.probe import WeighedBatch, last_weighed


class Histograms(pl.Callback):
    """Logs signals/{u,delta}_{chosen,rejected} and weights/lambda_{chosen,rejected} as histograms.

    They are over the response tokens of the last micro-batch of every n-th optimiser step, on rank 0.
    Without a logger that takes histograms, or without an `UncertaintyProbe`, nothing is done.

    Args:
        every_n_steps: optimiser steps from one histogram to the next.
    """

    def __init__(self, every_n_steps: PositiveInt = 10) -> None:
        self.every, self.last = every_n_steps, -1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loggers = [x for x in trainer.loggers if isinstance(x, WandbRun | TensorBoardLogger)]
        weighed = last_weighed(trainer) if loggers else None
        if weighed is None or weighed.step == self.last or weighed.step % self.every:
            return
        self.last = weighed.step
        values = histogram_values(weighed)
        for logger in loggers:
            if isinstance(logger, WandbRun):
                import wandb

                arrays: dict[str, Any] = {name: v.numpy() for name, v in values.items()}
                histograms = {name: wandb.Histogram(v) for name, v in arrays.items()}
                logger.experiment.log({**histograms, STEP: weighed.step})
            else:
                for name, v in values.items():
                    logger.experiment.add_histogram(name, v, weighed.step)


def histogram_values(weighed: WeighedBatch) -> dict[str, Tensor]:
    """Name -> values of the response tokens of one side, on the CPU."""
    weighed = weighed.on_host()
    values = {"weights/lambda": weighed.weights}
    if weighed.signals is not None:
        values |= {"signals/u": weighed.signals.uncertainty, "signals/delta": weighed.signals.sensitivity}
    masks = weighed.mask.chunk(2)
    return {
        f"{name}_{side}": half[mask].float()
        for name, value in values.items()
        for side, half, mask in zip(SIDES, value.chunk(2), masks, strict=True)
        if mask.any()
    }
