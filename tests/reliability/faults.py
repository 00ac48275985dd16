"""Faults planted in a child: at the nth call of a function the process is killed, signalled, hung, ..."""

from __future__ import annotations

import functools
import os
import signal
import time

import torch

import uedpo.callbacks.checkpoint_files
import uedpo.logger.csv
from uedpo.callbacks.checkpoint_files import VerifiedIO
from uedpo.callbacks.checkpoints import Checkpoints
from uedpo.callbacks.guard import Guard
from uedpo.callbacks.throughput import Throughput
from uedpo.logger.csv import MetricsCSV
from uedpo.model.hf import HFModel
from uedpo.module import PreferenceModule

# name -> (owner, function, whether the fault comes after it rather than before)
POINTS = {
    "load": (HFModel, "load", False),
    "restore": (VerifiedIO, "load_checkpoint", True),
    "forward": (PreferenceModule, "training_step", False),
    "backward": (Guard, "on_before_backward", False),
    "before step": (Guard, "on_before_optimizer_step", True),
    "after step": (Throughput, "on_train_batch_end", False),
    "before row": (MetricsCSV, "log_metrics", False),
    "after row": (MetricsCSV, "log_metrics", True),
    "validation": (PreferenceModule, "validation_step", False),
    "dump": (Checkpoints, "on_save_checkpoint", True),
    "before rename": (uedpo.callbacks.checkpoint_files, "manifest_of", False),
    "between rename and manifest": (uedpo.callbacks.checkpoint_files, "versions", False),
    "before links": (Checkpoints, "_tidy", False),
    "after links": (Checkpoints, "_tidy", True),
    "end of training": (Checkpoints, "on_train_end", False),
    "adapter": (PreferenceModule, "on_train_end", True),
}


def at(point, nth, action):
    """A fault for `harness.start`: `action()` at the nth time that the child is at `point`."""

    def plant():
        owner, name, after = POINTS[point]
        calls = 0
        real = getattr(owner, name)

        @functools.wraps(real)
        def faulty(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == nth and not after:
                action()
            value = real(*args, **kwargs)
            if calls == nth and after:
                action()
            return value

        setattr(owner, name, faulty)

    return plant


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def term():
    os.kill(os.getpid(), signal.SIGTERM)


def hang():
    time.sleep(600)


def crash():
    raise ZeroDivisionError("planted")


def after_bytes(nth, size, action=kill):
    """Killed when the nth file that `uedpo.runtime.atomic.replace` writes has so many bytes."""

    def plant():
        calls = 0
        real = uedpo.callbacks.checkpoint_files._Hashing.write

        def write(self, data):
            nonlocal calls
            calls += self.size == 0
            if calls == nth and self.size + len(data) > size:
                self.file.write(bytes(data)[: size - self.size])
                self.file.flush()
                action()
            return real(self, data)

        uedpo.callbacks.checkpoint_files._Hashing.write = write

    return plant


def not_finite(nth, where):
    """The nth loss of the child is not finite, or its gradient is: "loss nan", "loss inf", "gradient nan"."""

    def plant():
        calls = 0
        real = PreferenceModule.training_step

        def step(self, batch, batch_idx):
            nonlocal calls
            calls += 1
            loss = real(self, batch, batch_idx)
            if calls == nth:
                value = float(where.split()[1])
                if where.startswith("loss"):
                    return loss * value
                loss.register_hook(lambda gradient: gradient * value)
            return loss

        PreferenceModule.training_step = step

    return plant


def finite(checkpoint) -> bool:
    """Whether every tensor of a loaded checkpoint is."""
    if isinstance(checkpoint, torch.Tensor):
        return not checkpoint.is_floating_point() or bool(checkpoint.isfinite().all())
    if isinstance(checkpoint, dict):
        return all(finite(v) for v in checkpoint.values())
    return all(finite(v) for v in checkpoint) if isinstance(checkpoint, (list, tuple)) else True
