"""What earlier probes found, so that a step can do without one: `every_n_steps` and `reuse`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from uedpo.types import PairBatch
from uedpo.types.layout import to_device


class WeightMemory:
    """Weights of samples seen before, by sample id, and the mean weight of each branch of the last probe.

    Holds two rows of T floats a pair in CPU memory; its state belongs into the checkpoint, since a
    resumed run has to find the same weights.
    """

    def __init__(self) -> None:
        self.rows: dict[str, tuple[Tensor, Tensor]] = {}
        self.means: Tensor | None = None  # [2]; None until the first probe

    def keep(self, batch: PairBatch, weights: Tensor, *, rows: bool) -> None:
        """Remember the branch means of `weights` [2B, T], and with `rows` those of samples not known yet."""
        self.means = torch.stack(branch_means(batch, weights))
        if rows and any(name not in self.rows for name in batch.ids):
            on_host, pairs = weights.cpu(), len(batch.ids)
            for i, name in enumerate(batch.ids):
                if name not in self.rows:
                    of_pair = (on_host[r][batch.host.mask[r]] for r in (i, i + pairs))
                    self.rows[name] = tuple(of_pair)  # type: ignore[assignment]

    def find(self, batch: PairBatch) -> Tensor | None:
        """Weights [2B, T] of a batch all of whose samples are known; 1 where masked. Else None."""
        if not all(name in self.rows for name in batch.ids):
            return None
        mask = batch.host.mask
        weights = torch.ones(mask.shape)
        for side in (0, 1):
            for i, name in enumerate(batch.ids):
                row = i + side * len(batch.ids)
                weights[row, mask[row]] = self.rows[name][side].to(weights)
        return to_device(weights, batch.mask.device)

    def means_of(self, batch: PairBatch) -> Tensor | None:
        """The last probe's branch means as weights [2B, T]; 1 where masked and in rows without an image.

        None before the first probe.
        """
        if self.means is None:
            return None
        visual = batch.visual_mask
        flat = to_device(self.means, visual.device).repeat_interleave(len(batch.ids))[:, None]
        return torch.where(visual, flat, 1.0)

    def state_dict(self) -> dict[str, Any]:
        means = None if self.means is None else self.means.tolist()
        return {"means": means, "rows": {k: list(v) for k, v in self.rows.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.means = None if state["means"] is None else torch.tensor(state["means"])
        self.rows = {k: (v[0], v[1]) for k, v in state["rows"].items()}


def branch_means(batch: PairBatch, weights: Tensor) -> list[Tensor]:
    """Mean weight of the tokens of each branch that have an image; 1 where there are none."""
    means = []
    for w, keep in zip(weights.chunk(2), batch.host.visual_mask.chunk(2), strict=True):
        at = keep.flatten().nonzero().squeeze(1)
        own = w.flatten()[to_device(at, w.device)]
        means.append(own.mean() if len(at) else w.new_ones(()))
    return means
