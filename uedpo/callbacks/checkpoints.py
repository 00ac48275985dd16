"""When checkpoints are written, what of a run's state they hold, and which are kept."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import distributed

from uedpo.callbacks.checkpoint_files import checkpoints, remove
from uedpo.errors import GuardError, InputError
from uedpo.logger.csv import MetricsCSV
from uedpo.logger.wandb import WandbRun
from uedpo.model.sharded import whole
from uedpo.runtime import preemption
from uedpo.runtime.atomic import sync_folder
from uedpo.runtime.say import say
from uedpo.types import PositiveInt

STATE = "uedpo"  # this module's part of a checkpoint


class Best(pl.Callback):
    """Which validated step is the best; `Checkpoints` keeps it as best.ckpt.

    Args:
        monitor: a validation metric.
        mode: whether it should be small or large.
    """

    def __init__(self, monitor: str = "val/loss", mode: Literal["min", "max"] = "min") -> None:
        self.monitor, self.sign = monitor, 1 if mode == "min" else -1
        self.score, self.step = float("inf"), -1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(k for k in trainer.callback_metrics if k.startswith("val/")))
            raise InputError(f"callbacks.best.monitor={self.monitor!r}: must be one of {known}")
        score = self.sign * float(trainer.callback_metrics[self.monitor])
        if score < self.score:
            self.score, self.step = score, trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.score, self.step = state_dict["score"], state_dict["step"]


class Checkpoints(Checkpoint):
    """Saves every `every_n_train_steps` optimiser steps, the best step (see `Best`), and the last one.

    The file of step n is written when batch n + 1 starts: only then are the metric rows of step n in
    metrics.csv and its validation is behind. Keeps the last `keep` and the best; `last.ckpt` and
    `best.ckpt` are links to them.
    """

    def __init__(self, every_n_train_steps: PositiveInt = 20, keep: PositiveInt = 2) -> None:
        self.every, self.keep = every_n_train_steps, keep
        self.saved = 0  # step
        self.loaded: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved = trainer.global_step
        if self._continues(trainer):
            preemption.go_on_with(f"hydra.run.dir={trainer.default_root_dir} resume=auto")
        if trainer.is_global_zero:
            self._continue_logs(trainer)
        if self.loaded:
            set_rng_state(self.loaded["rng"][trainer.global_rank], pl_module.device)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return
        best = _best(trainer)
        if trainer.global_step % self.every == 0 or (best is not None and best.step == trainer.global_step):
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Save this optimiser step, unless it is saved; all ranks call it together.

        Raises:
            GuardError: weights that are not finite; nothing is written.
        """
        step = trainer.global_step
        if step == self.saved:
            return
        for name, weight in trainer.lightning_module.named_parameters():
            if weight.requires_grad and not whole(weight).isfinite().all():
                raise GuardError(f"after step {step}: {name} is not finite; the checkpoints before it are")
        trainer.save_checkpoint(_folder(trainer) / f"step-{step:08d}.ckpt")
        self.saved = step
        preemption.go_on_with(f"hydra.run.dir={trainer.default_root_dir} resume=auto")
        if trainer.is_global_zero:
            self._tidy(trainer, step)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        canonical_loops(trainer, checkpoint["loops"]["fit_loop"])
        rows = 0
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                rows = logger.sync()
        threads = torch.get_num_threads()
        checkpoint[STATE] = {"rng": _gathered(rng_state(pl_module.device)), "rows": rows, "threads": threads}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.loaded = checkpoint[STATE]
        then, now = self.loaded.get("threads"), torch.get_num_threads()
        if then not in (None, now) and trainer.is_global_zero:
            say(
                f"resumed with {now} threads, begun with {then}: sums are in another order, so that bits may "
                f"differ from those of a run without a stop; set threads={then} for the same ones"
            )

    def _continue_logs(self, trainer: pl.Trainer) -> None:
        """Put the loggers where the checkpoint is: metrics.csv is the record, W&B gets what it lacks."""
        kept: list[dict[str, str]] = []
        continues = self._continues(trainer)
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                kept = logger.keep(self.loaded.get("rows", 0) if continues else 0)
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun) and continues:
                logger.catch_up(kept)

    def _continues(self, trainer: pl.Trainer) -> bool:
        """Whether the loaded checkpoint is this run directory's own, and so are the rows before it."""
        return Path(str(trainer.ckpt_path)).resolve().parent == _folder(trainer).resolve()

    def _tidy(self, trainer: pl.Trainer, step: int) -> None:
        folder, best = _folder(trainer), _best(trainer)
        _link(folder / "last.ckpt", f"step-{step:08d}.ckpt")
        found = checkpoints(folder)
        # later ones are of a past that a damaged or chosen checkpoint has put aside
        kept = [path for path in found if path.name <= f"step-{step:08d}.ckpt"][-self.keep :]
        if best is not None and best.step >= 0:
            path = folder / f"step-{best.step:08d}.ckpt"
            if path in found:
                kept.append(path)
                _link(folder / "best.ckpt", path.name)
        for path in found:
            if path not in kept:
                remove(path)
        sync_folder(folder)


def canonical_loops(trainer: pl.Trainer, loops: dict[str, Any]) -> None:
    """Make Lightning's loop counters those of a step boundary, from which it resumes right each time.

    Lightning expects checkpoints from hooks in the middle of a step. Counters of the batch that has
    only started are taken back; a step whose validation is over, or still due, is marked as Lightning
    would at the end of validation, or in the middle of it.
    """
    progress = loops["epoch_loop.batch_progress"]
    for part in ("total", "current"):
        progress[part] = dict.fromkeys(progress[part], progress[part]["completed"])
    progress["is_last_batch"] = False
    every = trainer.val_check_batch
    validates = trainer.enable_validation and isinstance(every, int)
    if validates and progress["total"]["completed"] % every == 0:
        # Lightning counts the step once more when it returns to this place
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = trainer.global_step - 1
    validation = loops["epoch_loop.val_loop.batch_progress"]
    for part in ("total", "current"):
        validation[part] = dict.fromkeys(validation[part], 0)
    validation["is_last_batch"] = False
    if trainer.validating:
        validation["total"] |= {"ready": 1, "started": 1}


def rng_state(device: torch.device) -> dict[str, Any]:
    """States of all global random generators, as tensors and plain types."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  (the global one, which libraries may use)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": [version, list(words), gauss],
    }


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Inverse of `rng_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


def _gathered(state: dict[str, Any]) -> list[Any]:
    """`state` of each rank."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return states


def _folder(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "checkpoints"


def _best(trainer: pl.Trainer) -> Best | None:
    return next((c for c in trainer.callbacks if isinstance(c, Best)), None)  # type: ignore[attr-defined]


def _link(link: Path, target: str) -> None:
    beside = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    os.replace(beside, link)
