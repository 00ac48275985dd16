"""LLaMA-Factory's ranking format: `conversations`, and `chosen` and `rejected` as one turn each.

{"conversations": [{"from": "human", "value": "<image>What is it?"}], "images": ["1.jpg"],
 "chosen": {"from": "gpt", "value": "A cow."}, "rejected": {"from": "gpt", "value": "A pig."}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uedpo.data.formats.turns import answer, conversation, one_of, refuse, system_turn, turn, turns_of

READ = (
    "conversations", "chosen", "rejected", "images", "image", "system", "id",
    "weight", "chosen_weights", "rejected_weights", "rejected_images",
)  # fmt: skip


def to_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row under the names of `uedpo.data.fields`."""
    refuse(row, READ)
    prompt = [*system_turn(row), *turns_of("conversations", row.get("conversations"))]
    answers = {name: answer(name, turn(name, row.get(name))) for name in ("chosen", "rejected")}
    kept = {name: row[name] for name in ("id", "weight", "chosen_weights", "rejected_weights") if name in row}
    kept["rejected_image"] = row.get("rejected_images")
    return conversation(prompt, one_of(row, "images", "image")) | answers | kept
