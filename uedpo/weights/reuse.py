"""What earlier probes found, so that a step can do without one: `every_n_steps` and `reuse`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from uedpo.types import PairBatch


class WeightMemory:
    """Weights of samples seen before, by sample id, and the mean weight of each branch of the last probe.

    Holds two rows of T floats a pair in CPU memory; its state belongs into the checkpoint, since a
    resumed run has to find the same weights.
    """

    def __init__(self) -> None:
        self.rows: dict[str, tuple[Tensor, Tensor]] = {}
        self.means: list[float] | None = None  # until the first probe

    def keep(self, batch: PairBatch, weights: Tensor, *, rows: bool) -> None:
        """Remember the branch means of `weights` [2B, T], and with `rows` those of samples not known yet."""
        visual = batch.visual_mask
        halves = zip(weights.chunk(2), visual.chunk(2), strict=True)
        self.means = [float(w[m].mean()) if m.any() else 1.0 for w, m in halves]
        if rows:
            pairs = len(batch.ids)
            for i, name in enumerate(batch.ids):
                if name not in self.rows:
                    of_pair = (weights[r][batch.mask[r]].cpu() for r in (i, i + pairs))
                    self.rows[name] = tuple(of_pair)  # type: ignore[assignment]

    def find(self, batch: PairBatch) -> Tensor | None:
        """Weights [2B, T] of a batch all of whose samples are known; 1 where masked. Else None."""
        if not all(name in self.rows for name in batch.ids):
            return None
        weights = torch.ones(batch.mask.shape, device=batch.mask.device)
        for side in (0, 1):
            for i, name in enumerate(batch.ids):
                row = i + side * len(batch.ids)
                weights[row, batch.mask[row]] = self.rows[name][side].to(weights)
        return weights

    def means_of(self, batch: PairBatch) -> Tensor | None:
        """The last probe's branch means as weights [2B, T]; 1 where masked and in rows without an image.

        None before the first probe.
        """
        if self.means is None:
            return None
        visual = batch.visual_mask
        flat = torch.tensor(self.means, device=visual.device).repeat_interleave(len(batch.ids))[:, None]
        return torch.where(visual, flat, 1.0)

    def state_dict(self) -> dict[str, Any]:
        return {"means": self.means, "rows": {k: list(v) for k, v in self.rows.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.means = state["means"]
        self.rows = {k: (v[0], v[1]) for k, v in state["rows"].items()}
