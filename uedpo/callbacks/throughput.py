"""Pairs per second, data wait included."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
import torch


class Throughput(pl.Callback):
    """Logs `perf/pairs_per_second` of the whole job and the share of time spent waiting for data."""

    def __init__(self) -> None:
        self.last_end: float | None = None
        self.start = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.last_end = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.last_end = time.perf_counter()  # validation is not data wait

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        whole = now - (self.last_end if self.last_end is not None else self.start)
        rate = len(batch.ids) * trainer.world_size / whole
        size = len(batch.ids)
        # as tensors they stay on the host: Lightning would bring numbers to the device, and wait
        pl_module.log("perf/pairs_per_second", torch.tensor(rate), prog_bar=True, batch_size=size)
        pl_module.log("perf/data_wait", torch.tensor(1 - (now - self.start) / whole), batch_size=size)
        self.last_end = now
