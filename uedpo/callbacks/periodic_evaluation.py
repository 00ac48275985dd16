"""The micro-world's evaluation on a few scenes while training goes on."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl

from uedpo.callbacks.throughput import Throughput
from uedpo.microworld.evaluation import MicroWorldEvaluation
from uedpo.types import NonNegativeInt, PositiveInt

# the tuning range: scenes of the evaluation at the end must not choose a checkpoint
START = 2_000_000


class PeriodicEvaluation(pl.Callback):
    """Logs `eval/SPLIT/METRIC` (`eval/shift/chair_i`, ...) of the policy every so many optimiser steps.

    Captions are greedy and draw no random number: training goes on as if it had not been evaluated.

    Args:
        every_n_steps: optimiser steps from one evaluation to the next.
        num_shift, num_train: scenes of each split; 0 leaves a split out.
        batch_size, max_new_tokens: generation.
    """

    def __init__(
        self,
        every_n_steps: PositiveInt = 20,
        num_shift: NonNegativeInt = 50,
        num_train: NonNegativeInt = 0,
        batch_size: PositiveInt = 50,
        max_new_tokens: PositiveInt = 96,
    ) -> None:
        self.every_n_steps = every_n_steps
        self.evaluation = MicroWorldEvaluation(
            num_shift, num_train, START, batch_size, max_new_tokens, pope_every=0
        )
        self.last = 0  # step of the last evaluation: accumulation calls several times a step

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.last = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self.last or step % self.every_n_steps:
            return
        self.last = step
        if trainer.is_global_zero:
            self._log(trainer, pl_module)
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(other, Throughput):
                other.last_end = time.perf_counter()  # evaluation is not data wait

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        processor = trainer.datamodule.collate.processor  # type: ignore[attr-defined]
        found = self.evaluation.run(pl_module.policy, processor).metrics
        values = {f"eval/{split}/{name}": m["value"] for split, ms in found.items() for name, m in ms.items()}
        values = {name: value for name, value in values.items() if value is not None}
        # Lightning would write a value again with each step until the next evaluation
        pl_module.log_dict(values, logger=False, rank_zero_only=True, batch_size=1)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step - 1)  # the step's other rows count from 0
