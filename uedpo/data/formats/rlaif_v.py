"""openbmb/RLAIF-V-Dataset (Yu et al. 2024, arXiv 2405.17220): question, chosen, rejected and image.

{"image": STORED, "question": "What is it?", "chosen": "A cow.", "rejected": "A pig.", "idx": "17"}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uedpo.data.formats.turns import conversation, refuse, tagged
from uedpo.data.rejects import RowProblem

READ = ("image", "question", "chosen", "rejected", "weight", "chosen_weights", "rejected_weights")


def to_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row under the names of `uedpo.data.fields`; rows are named by their number, not by `idx`, since
    several rows may be about one sample."""
    refuse(row, READ)
    if row.get("image") is None:
        raise RowProblem("image", "IMAGE_MISSING", "is null; every row of this data set has one")
    names = {"question": "prompt"} | {name: name for name in READ if name != "question"}
    pair = {ours: row[theirs] for theirs, ours in names.items() if theirs in row}
    if isinstance(pair.get("prompt"), str):
        pair |= conversation([("user", tagged(pair["prompt"]))], row["image"])
    return pair
