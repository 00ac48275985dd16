"""Columns `image` (or `images`), `prompt`, `chosen`, `rejected`, the three texts plain.

{"image": "pictures/1.jpg", "prompt": "What is it?", "chosen": "A cow.", "rejected": "A pig."}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uedpo.data.fields import COLUMNS
from uedpo.data.formats.turns import conversation, one_of, refuse, tagged

READ = (*COLUMNS, "images", "rejected_images")


def to_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row under the names of `uedpo.data.fields`; `<image>` in the prompt says where an image stands."""
    refuse(row, READ)
    pair = {name: value for name, value in row.items() if name not in ("history", "image_at")}
    if "rejected_images" in row:
        pair["rejected_image"] = one_of(row, "rejected_image", "rejected_images")
    if "image" not in row and "images" not in row:
        return pair
    pair["image"] = one_of(row, "image", "images")
    if isinstance(row.get("prompt"), str):
        pair |= conversation([("user", tagged(row["prompt"]))], pair["image"])
    return pair
