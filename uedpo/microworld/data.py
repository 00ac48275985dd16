"""The shipped micro-world preference pairs."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from uedpo.data.fingerprint import digest
from uedpo.microworld.scene import Scene, make_scene, render
from uedpo.microworld.truth import judge, read
from uedpo.types import NonNegativeInt, PreferencePair

ASSETS = Path(__file__).parent.parent / "assets"
SHIPPED = ASSETS / "micro_pairs.jsonl.gz"
NEGATIVES = ASSETS / "micro_negatives.jsonl.gz"


class MicroWorldPairs(Sequence[PreferencePair]):
    """Rows of micro_pairs.jsonl.gz; images are drawn on access.

    Args:
        split: "train", or "val" (scenes that break the training co-occurrences).
        num_pairs: the first so many rows; 0 takes all.
    """

    def __init__(self, split: Literal["train", "val"], num_pairs: NonNegativeInt = 0) -> None:
        rows = [row for row in _rows(SHIPPED) if row["split"] == split]
        if num_pairs > len(rows):
            raise ValueError(f"num_pairs={num_pairs}: the {split} split has {len(rows)} pairs")
        self.rows = rows[: num_pairs or None]
        self.negatives = {r["id"]: (r["question_only"], r["image_only"]) for r in _rows(NEGATIVES)}

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        return digest([row, self.negatives.get(row["id"])] for row in self.rows)

    def undecoded(self, i: int) -> PreferencePair:
        """Row `i` with the bytes that its image is drawn from: those of its id."""
        row = self.rows[i]
        negatives = self.negatives.get(row["id"], ())
        return PreferencePair(
            row["id"], row["id"].encode, row["prompt"], row["chosen"], row["rejected"], negatives
        )

    def __getitem__(self, i: int) -> PreferencePair:  # type: ignore[override]
        pair = self.undecoded(i)
        split, index = pair.id.rsplit("-", 1)
        scene = make_scene(split, int(index))
        shares = faithful_share(pair.chosen, scene), faithful_share(pair.rejected, scene)
        return dataclasses.replace(pair, image=render(scene), similarity=shares)


def _rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def faithful_share(text: str, scene: Scene) -> float:
    """Share of the objects a caption names that are there, 0 for none: the place of a CLIP score."""
    reading = judge(read(text), scene)
    right = sum(bool(reading.words[m.noun].right) for m in reading.mentions)
    return right / max(len(reading.mentions), 1)
