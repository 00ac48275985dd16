"""openbmb/RLHF-V-Dataset (Yu et al. 2024, arXiv 2312.00849), from the hub or a local folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Gt, Lt

from uedpo.data.fingerprint import digest
from uedpo.types import PreferencePair


class RLHFVPairs(Sequence[PreferencePair]):
    """Rows whose `text` is a JSON object (or its string) with question, chosen, rejected.

    Args:
        source: hub id, or a local folder with the parquet file.
        revision: commit of the hub id.
        part: "train" or "val".
        val_share: the last so many rows are validation.
    """

    def __init__(
        self,
        source: str,
        revision: str | None = None,
        part: Literal["train", "val"] = "train",
        val_share: Annotated[float, Gt(0.0), Lt(1.0)] = 0.02,
    ) -> None:
        from datasets import load_dataset  # a heavy import that the micro-world does not need

        rows = load_dataset(source, revision=revision, split="train")
        cut = len(rows) - max(1, round(val_share * len(rows)))
        self.rows: Any = rows.select(range(cut) if part == "train" else range(cut, len(rows)))

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        """Of all texts; images are not read."""
        return digest(self.rows.select_columns(["idx", "text"]))

    def __getitem__(self, i: int) -> PreferencePair:  # type: ignore[override]
        row = self.rows[i]
        text = json.loads(row["text"]) if isinstance(row["text"], str) else row["text"]
        missing = [key for key in ("question", "chosen", "rejected") if not text.get(key)]
        if missing:
            raise ValueError(f"RLHF-V row idx={row.get('idx', i)}: no {', '.join(missing)} in its text")
        image = row["image"].convert("RGB")
        return PreferencePair(str(row["idx"]), image, text["question"], text["chosen"], text["rejected"])
