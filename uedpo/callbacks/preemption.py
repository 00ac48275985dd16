"""Leaving a run in good order, and noticing that it hangs."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import subprocess
import sys
from typing import Any

import pytorch_lightning as pl
import torch

from uedpo.callbacks.checkpoints import Checkpoints
from uedpo.runtime import preemption, watch


class Preemption(pl.Callback):
    """Saves and leaves with exit code 75 after the optimiser step in which any rank got a signal.

    In the middle of validation it does so at the next batch, and the run that continues validates again;
    with several ranks before the first batch only, because they may have different numbers of them.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        preemption.install()  # Lightning's handler stops inside an accumulation window, and hangs other ranks

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0 and self._agreed(trainer, pl_module):
            self._leave(trainer)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.world_size > 1 and batch_idx:
            return
        # a checkpoint of the last step is a finished run: nothing would validate it later
        if trainer.global_step < trainer.max_steps and self._agreed(trainer, pl_module):
            self._leave(trainer)

    def _agreed(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        asked = preemption.requested()
        if trainer.world_size == 1:
            return asked
        flag = torch.tensor(float(asked), device=pl_module.device)
        return bool(trainer.strategy.reduce(flag, reduce_op="max"))

    def _leave(self, trainer: pl.Trainer) -> None:
        step = trainer.global_step
        saver = next((c for c in trainer.callbacks if isinstance(c, Checkpoints)), None)  # type: ignore[attr-defined]
        if saver is None:
            raise preemption.Preempted(f"stopped after step {step}, nothing saved (callbacks.last is null)")
        if not step:
            raise preemption.Preempted("before the first step, nothing to save")
        saver.save(trainer)
        raise preemption.Preempted(f"saved after step {step} of {trainer.max_steps}")


class Watchdog(pl.Callback):
    """Ends this process, with its stack on stderr, where no batch has begun for `timeout` seconds.

    Collectives of the other ranks time out by themselves; the rank that hangs does not. Time during which the
    process was stopped, by a terminal or a suspended machine, does not count.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._outside: subprocess.Popen[bytes] | None = None

    def _again(self, *args: Any, **kwargs: Any) -> None:
        if self._outside is None:
            # written in C: needs no lock of the interpreter, which the call that hangs may hold
            faulthandler.register(watch.ENDS, file=2, all_threads=True, chain=True)
            code = [sys.executable, "-I", "-S", watch.__file__, str(os.getpid()), str(self.timeout)]
            self._outside = subprocess.Popen(code, stdin=subprocess.PIPE)
            os.set_blocking(self._signs, False)
        with contextlib.suppress(OSError):  # it is gone, or stopped and its pipe is full
            os.write(self._signs, b".")

    on_train_start = on_train_batch_start = on_validation_batch_start = on_validation_end = _again

    @property
    def _signs(self) -> int:
        assert self._outside is not None
        assert self._outside.stdin is not None
        return self._outside.stdin.fileno()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._again()  # the ranks may wait for each other in the clean-up

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._outside is not None:
            self._outside.kill()  # closing the pipe says nothing while loaders' workers hold it
            self._outside.communicate()
            self._outside = None
