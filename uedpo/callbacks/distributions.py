"""How u, Delta and lambda are distributed over the tokens of a batch, while training goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from uedpo.runtime.atomic import replace
from uedpo.types import PositiveInt
from uedpo.weights.probe import WeighedBatch, last_weighed

FILE = "distributions.jsonl"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SIDES = ("chosen", "rejected")


class Distributions(pl.Callback):
    """Writes distributions.jsonl beside metrics.csv: quantiles of every n-th step's first micro-batch.

    A line holds step, the quantiles `QUANTILES` of "uncertainty" and "sensitivity" over the response
    tokens of each side and of "weight" over those that do not weigh 1, and the share of these,
    "reweighted". What a step has not is null. On more than one device rank 0 tells of its own tokens.
    Without an `UncertaintyProbe` among the callbacks nothing is written.

    Args:
        every_n_steps: optimiser steps from one line to the next.
    """

    def __init__(self, every_n_steps: PositiveInt = 5) -> None:
        self.every, self.last = every_n_steps, -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        path = _path(trainer)
        if trainer.is_global_zero and path.is_file():
            done = trainer.global_step
            kept = [line for line in path.read_text().splitlines() if _before(line, done)]
            replace(path, lambda file: file.write("".join(f"{line}\n" for line in kept).encode()))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        weighed = last_weighed(trainer)
        if weighed is None or weighed.step == self.last or weighed.step % self.every:
            return
        self.last = weighed.step
        with _path(trainer).open("a") as file:
            file.write(json.dumps(distribution(weighed)) + "\n")


def distribution(weighed: WeighedBatch) -> dict[str, Any]:
    """The line of `Distributions` for one micro-batch."""
    weighed = weighed.on_host()
    masks = dict(zip(SIDES, weighed.mask.chunk(2), strict=True))
    weights = dict(zip(SIDES, weighed.weights.chunk(2), strict=True))
    moved = {side: masks[side] & (weights[side] != 1) for side in SIDES}
    line: dict[str, Any] = {"step": weighed.step, "uncertainty": None, "sensitivity": None}
    if weighed.signals is not None:
        for name in ("uncertainty", "sensitivity"):
            halves = zip(SIDES, getattr(weighed.signals, name).chunk(2), strict=True)
            line[name] = {side: _quantiles(half[masks[side]]) for side, half in halves}
    line["weight"] = {side: _quantiles(weights[side][moved[side]]) for side in SIDES}
    line["reweighted"] = {
        side: round(float(moved[side].sum() / masks[side].sum().clamp(min=1)), 4) for side in SIDES
    }
    return line


def _quantiles(values: Tensor) -> list[float] | None:
    if not len(values):
        return None
    found = torch.quantile(values.float(), torch.tensor(QUANTILES))
    return [round(q, 4) for q in found.tolist()]


def _before(line: str, step: int) -> bool:
    """Whether a line is whole, and of a step that is not to be done again."""
    try:
        return bool(json.loads(line)["step"] < step)
    except (ValueError, KeyError, TypeError):
        return False


def _path(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir) / FILE
