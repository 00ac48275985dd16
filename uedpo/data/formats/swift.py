"""ms-swift's format: `messages` ends with the chosen answer; the rejected one, or its images, stand beside.

{"messages": [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A cow."}],
 "rejected_response": "A pig.", "images": ["1.jpg"]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uedpo.data.formats.turns import Turn, answer, conversation, one_of, refuse, system_turn, turns_of
from uedpo.data.rejects import RowProblem

READ = (
    "messages", "rejected_response", "rejected_messages", "images", "image", "rejected_images", "system",
    "id", "weight", "chosen_weights", "rejected_weights",
)  # fmt: skip


def to_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row under the names of `uedpo.data.fields`."""
    refuse(row, READ)
    *prompt, last = turns_of("messages", row.get("messages"))
    chosen = answer("messages", last)
    kept = {name: row[name] for name in ("id", "weight", "chosen_weights", "rejected_weights") if name in row}
    return {
        **conversation([*system_turn(row), *prompt], one_of(row, "images", "image")),
        **kept,
        "chosen": chosen,
        "rejected": _rejected(row, prompt, chosen),
        "rejected_image": row.get("rejected_images"),
    }


def _rejected(row: Mapping[str, Any], prompt: list[Turn], chosen: str) -> Any:
    if row.get("rejected_messages") is None:
        said = row.get("rejected_response")
        if said is None and not row.get("rejected_images"):
            raise RowProblem(
                "rejected_response",
                "MISSING_COLUMN",
                "is missing, and so are rejected_messages; add one of them",
            )
        return chosen if said is None else said
    if row.get("rejected_response") is not None:
        raise RowProblem("rejected_messages", "TWICE", "and rejected_response are both there; keep one")
    *before, last = turns_of("rejected_messages", row["rejected_messages"])
    if before != prompt:
        raise RowProblem("rejected_messages", "TURNS", "have another prompt than messages; a pair shares one")
    return answer("rejected_messages", last)
