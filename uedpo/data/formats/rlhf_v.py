"""openbmb/RLHF-V-Dataset (Yu et al. 2024, arXiv 2312.00849): `text` holds question, chosen and rejected.

{"image": STORED, "idx": 7, "text": JSON of {"question": "What?", "chosen": "A cow.", "rejected": "A pig."}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uedpo.data.formats.turns import conversation, refuse, tagged
from uedpo.data.rejects import RowProblem
from uedpo.data.rows import parse_line

READ = ("text", "image", "idx")


def to_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row under the names of `uedpo.data.fields`."""
    refuse(row, READ)
    text = row.get("text")
    if isinstance(text, str):
        text = parse_line(text.encode("utf-8", "surrogatepass"))
    if not isinstance(text, Mapping):
        raise RowProblem("text", "BAD_TYPE", "must be an object with question, chosen, rejected")
    refuse(text, ())
    if row.get("image") is None:
        raise RowProblem("image", "IMAGE_MISSING", "is null; every row of this data set has one")
    names = {"question": "prompt", "chosen": "chosen", "rejected": "rejected"}
    pair = {ours: text[theirs] for theirs, ours in names.items() if theirs in text}
    pair |= {"image": row["image"], "id": row.get("idx")}
    if isinstance(pair.get("prompt"), str):
        pair |= conversation([("user", tagged(pair["prompt"]))], row["image"])
    return pair
