"""The conversation of a pair as chat templates take it: earlier turns, and images where they stand."""

from __future__ import annotations

from uedpo.model.chat import Turn
from uedpo.types import PreferencePair


def pair_turns(pair: PreferencePair) -> list[Turn]:
    """All turns up to the answer, with a block for each image of the pair."""
    turns = [*pair.history, ("user", pair.prompt)]
    first = next(number for number, (role, _) in enumerate(turns) if role == "user")
    places = pair.image_at or ((first, 0),) * len(pair.images)
    return [
        {"role": role, "content": _content(text, [at for turn, at in places if turn == number])}
        for number, (role, text) in enumerate(turns)
    ]


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
