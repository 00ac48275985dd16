"""TRL's conversational preference format, with an explicit or an implicit prompt, and images beside it.

{"images": ["1.jpg"], "prompt": [{"role": "user", "content": "What is it?"}],
 "chosen": [{"role": "assistant", "content": "A cow."}],
 "rejected": [{"role": "assistant", "content": "A pig."}]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uedpo.data.formats.turns import Turn, answer, conversation, one_of, refuse, turns_of
from uedpo.data.rejects import RowProblem

READ = (
    "images", "image", "prompt", "chosen", "rejected", "id", "weight",
    "chosen_weights", "rejected_weights", "rejected_images",
)  # fmt: skip


def to_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row under the names of `uedpo.data.fields`."""
    refuse(row, READ)
    sides = {name: turns_of(name, row.get(name)) for name in ("chosen", "rejected")}
    prompt = turns_of("prompt", row["prompt"]) if row.get("prompt") is not None else _shared(sides)
    answers = {}
    for name, turns in sides.items():
        if len(turns) != 1:
            raise RowProblem(name, "TURNS", f"has {len(turns)} turns after the prompt; give one answer")
        answers[name] = answer(name, turns[0])
    kept = {name: row[name] for name in ("id", "weight", "chosen_weights", "rejected_weights") if name in row}
    kept["rejected_image"] = row.get("rejected_images")
    return conversation(prompt, one_of(row, "images", "image")) | answers | kept


def _shared(sides: dict[str, list[Turn]]) -> list[Turn]:
    """The turns that both sides begin with, taken off them."""
    chosen, rejected = sides["chosen"], sides["rejected"]
    same = 0
    while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
        same += 1
    sides["chosen"], sides["rejected"] = chosen[same:], rejected[same:]
    return chosen[:same]
