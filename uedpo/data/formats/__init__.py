"""Formats of preference data, one a file: `to_pair` gives a row the names of `uedpo.data.fields`.

`to_pair` raises a RowProblem for a row that its format does not allow. Another format is another file, a
line in `FORMATS`, and a line in `fitting` that says how it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from uedpo.data.fields import kind
from uedpo.data.formats import rlaif_v, rlhf_v, sharegpt, simple, swift, trl
from uedpo.errors import InputError

ToPair = Callable[[Mapping[str, Any]], dict[str, Any]]
FIRST = 20  # rows looked at to know a format
# name -> its reader, the columns it reads, how its rows look
FORMATS: dict[str, tuple[ToPair, tuple[str, ...], str]] = {
    "simple": (simple.to_pair, simple.READ, "image, prompt, chosen, rejected (texts)"),
    "trl": (trl.to_pair, trl.READ, "[prompt,] chosen, rejected (lists of turns), images"),
    "sharegpt": (sharegpt.to_pair, sharegpt.READ, "conversations, chosen, rejected (one turn each), images"),
    "swift": (swift.to_pair, swift.READ, "messages, rejected_response | rejected_messages | rejected_images"),
    "rlhf_v": (rlhf_v.to_pair, rlhf_v.READ, "text (question, chosen, rejected), image"),
    "rlaif_v": (rlaif_v.to_pair, rlaif_v.READ, "question, chosen, rejected (texts), image"),
}


def fitting(kinds: Mapping[str, str]) -> list[str]:
    """Names of the formats that rows may be in.

    Args:
        kinds: column -> what its first value that is not null is, in the words of `uedpo.data.fields.kind`.
    """
    names, sides = set(kinds), (kinds.get("chosen"), kinds.get("rejected"))
    texts = sides == ("a text", "a text")
    found = {
        "simple": "prompt" in names and texts,
        "trl": sides == ("a list", "a list"),
        "sharegpt": "conversations" in names and sides == ("an object", "an object"),
        "swift": "messages" in names
        and bool(names & {"rejected_response", "rejected_messages", "rejected_images"}),
        "rlhf_v": {"text", "image"} <= names and not {"prompt", "question", "chosen", "rejected"} & names,
        "rlaif_v": "question" in names and texts,
    }
    return [name for name, fits in found.items() if fits]


def detect(rows: Iterable[Mapping[str, Any]], file: str) -> str:
    """Name of the format of the first rows of `file`.

    Raises:
        InputError: they fit none, or several; with the columns seen and those of every format.
    """
    kinds: dict[str, str] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None:
                kinds.setdefault(str(name), kind(value))
    found = fitting(kinds)
    if len(found) == 1:
        return found[0]
    seen = ", ".join(f"{name[:40]} ({what})" for name, what in list(kinds.items())[:20]) or "none"
    known = "; ".join(f"{name}: {look}" for name, (_, _, look) in FORMATS.items())
    problem = f"fits the formats {', '.join(found)}" if found else "is in no format known here"
    remedy = "name one with data.format=" if found else "rename the columns to those of one of these"
    raise InputError(f"{file}: {problem}; columns: {seen}; {remedy}: {known}")
