"""The prompt of a pair in a model's own chat template: earlier turns, and images where they stand."""

from __future__ import annotations

from typing import Any

from uedpo.types import PreferencePair


def pair_prompt(processor: Any, pair: PreferencePair) -> str:
    """All turns up to the answer, with the template's mark for each image of the pair."""
    turns = [*pair.history, ("user", pair.prompt)]
    first = next(number for number, (role, _) in enumerate(turns) if role == "user")
    places = pair.image_at or ((first, 0),) * len(pair.images)
    messages = [
        {"role": role, "content": _content(text, [at for turn, at in places if turn == number])}
        for number, (role, text) in enumerate(turns)
    ]
    return str(processor.apply_chat_template(messages, add_generation_prompt=True))


def _content(text: str, places: list[int]) -> list[dict[str, str]]:
    content: list[dict[str, str]] = []
    ends = [0, *places]
    for start, end in zip(ends, places, strict=False):
        if end > start:
            content.append({"type": "text", "text": text[start:end]})
        content.append({"type": "image"})
    if ends[-1] < len(text):
        content.append({"type": "text", "text": text[ends[-1] :]})
    return content
