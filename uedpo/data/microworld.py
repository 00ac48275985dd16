"""The shipped micro-world preference pairs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from uedpo.microworld.scene import make_scene, render
from uedpo.types import NonNegativeInt, PreferencePair

SHIPPED = Path(__file__).parent.parent / "assets" / "micro_pairs.jsonl.gz"


class MicroWorldPairs(Sequence[PreferencePair]):
    """Rows of micro_pairs.jsonl.gz; images are drawn on access.

    Args:
        split: "train", or "val" (scenes that break the training co-occurrences).
        num_pairs: the first so many rows; 0 takes all.
    """

    def __init__(self, split: Literal["train", "val"], num_pairs: NonNegativeInt = 0) -> None:
        with gzip.open(SHIPPED, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        rows = [row for row in rows if row["split"] == split]
        if num_pairs > len(rows):
            raise ValueError(f"num_pairs={num_pairs}: the {split} split has {len(rows)} pairs")
        self.rows = rows[: num_pairs or None]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> PreferencePair:  # type: ignore[override]
        row = self.rows[i]
        split, index = row["id"].rsplit("-", 1)
        image = render(make_scene(split, int(index)))
        return PreferencePair(row["id"], image, row["prompt"], row["chosen"], row["rejected"])
