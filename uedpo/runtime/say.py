"""The one place that writes lines for a person: names, rows and replies of others act on no terminal."""

from __future__ import annotations

from typing import TextIO

from uedpo.errors import clean


def say(
    *parts: object, start: str = "", end: str = "\n", file: TextIO | None = None, flush: bool = False
) -> None:
    """`print`, with control characters of the parts written out; `start` and `end` stay as they are."""
    print(start + clean(" ".join(map(str, parts))), end=end, file=file, flush=flush)
