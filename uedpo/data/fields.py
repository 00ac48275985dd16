"""The fields of one preference row: of the right types, and worth training on.

Every format in `uedpo.data.formats` gives rows with these names, and all of them are checked here.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, NamedTuple

from uedpo.data.rejects import RowProblem
from uedpo.types import Span

TEXTS = ("prompt", "chosen", "rejected")
OPTIONAL = (
    "id", "negatives", "similarity", "rejected_image", "weight", "chosen_weights", "rejected_weights",
)  # fmt: skip
COLUMNS = ("image", *TEXTS, *OPTIONAL)
MAX_IMAGES = 64
# images go in their own column; a processor would take these for one
_PLACEHOLDER = re.compile(r"<(?:image|video|audio)>", re.IGNORECASE)
_TYPES = {
    dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number",
    float: "a number", type(None): "null", RowProblem: "an object with a key that is there twice",
}  # fmt: skip


class Fields(NamedTuple):
    """A row that is usable as far as its own text tells; images are as written.

    `rejected_images` is None where both responses are about the same ones. `history` and `image_at` are
    those of `PreferencePair`.
    """

    id: str | None
    images: tuple[object, ...]
    prompt: str
    chosen: str
    rejected: str
    negatives: tuple[str, ...]
    similarity: tuple[float, float] | None
    rejected_images: tuple[object, ...] | None
    history: tuple[tuple[str, str], ...]
    image_at: tuple[tuple[int, int], ...]
    weight: float
    chosen_weights: tuple[Span, ...]
    rejected_weights: tuple[Span, ...]


def check_row(row: Mapping[str, Any]) -> Fields:
    """The fields of a row.

    Args:
        row: `COLUMNS` as anybody may have written them, and `history` and `image_at` as
            `uedpo.data.formats.turns` makes them.

    Raises:
        RowProblem: the first thing that is wrong with it.
    """
    for key in ("image", *TEXTS):
        if key not in row:
            raise RowProblem(key, "MISSING_COLUMN", _missing(key, row))
    prompt, chosen, rejected = (check_text(key, row[key]) for key in TEXTS)
    images, others = _images(row)
    if _normal(chosen) == _normal(rejected) and others is None:
        raise RowProblem("rejected", "IDENTICAL_PAIR", "and chosen are the same; drop the row")
    negatives = row.get("negatives")
    if negatives is not None and not isinstance(negatives, list):
        raise RowProblem("negatives", "BAD_TYPE", "must be a list of texts that are not empty")
    history = row.get("history", ())
    for _, text in history:
        check_text("history", text)
    return Fields(
        _identity(row.get("id")),
        images,
        prompt,
        chosen,
        rejected,
        tuple(check_text("negatives", text) for text in negatives or []),
        _similarity(row.get("similarity")),
        others,
        history,
        row.get("image_at", ()),
        1.0 if row.get("weight") is None else _number("weight", row["weight"]),
        _spans("chosen_weights", row.get("chosen_weights"), chosen),
        _spans("rejected_weights", row.get("rejected_weights"), rejected),
    )


def image_list(field: str, value: object) -> tuple[object, ...]:
    """The values of a column with no image (null), one, or a list of them.

    Raises:
        RowProblem: null inside a list, or more than `MAX_IMAGES`.
    """
    values = () if value is None else tuple(value) if isinstance(value, list) else (value,)
    if None in values:
        raise RowProblem(field, "BAD_TYPE", "has null in its list; an empty list is a text-only row")
    if len(values) > MAX_IMAGES:
        raise RowProblem(field, "IMAGE_COUNT", f"has {len(values)} images, allowed {MAX_IMAGES}; drop it")
    return values


def _images(row: Mapping[str, Any]) -> tuple[tuple[object, ...], tuple[object, ...] | None]:
    images = image_list("image", row["image"])
    others = image_list("rejected_image", row.get("rejected_image"))
    if not others:
        return images, None
    if len(others) != len(images):
        raise RowProblem(
            "rejected_image",
            "IMAGE_COUNT",
            f"has {len(others)} images, and image {len(images)}; one prompt shows them, so give as many",
        )
    return images, None if others == images else others


def _missing(key: str, row: Mapping[str, Any]) -> str:
    others = [str(k) for k in row if k not in COLUMNS]
    near = difflib.get_close_matches(key, others, 1, cutoff=0.6)
    found = ", ".join(repr(str(k)[:40]) for k in list(row)[:10]) or "none"
    null = " (null where a row has no image)" if key == "image" else ""
    hint = f"; did you mean {near[0][:40]!r}? rename it" if near else f"; rename or add it{null}"
    return f"is missing; columns found: {found}{hint}"


def check_text(key: str, value: object) -> str:
    """`value`, a text with something visible in it and no placeholder of a medium.

    Raises:
        RowProblem: it is none.
    """
    wanted = "a list of texts that are" if key == "negatives" else "a text that is"
    if not isinstance(value, str):
        raise RowProblem(key, "BAD_TYPE", f"must be {wanted} not empty; this is {kind(value)}")
    # zero-width characters are no text either
    if not any(c.isprintable() and not c.isspace() for c in value):
        raise RowProblem(key, "EMPTY_TEXT", f"must be {wanted} not empty; drop the row")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RowProblem(key, "BAD_UTF8", "holds half of a surrogate pair; repair the text") from None
    found = _PLACEHOLDER.search(value)
    if found:
        raise RowProblem(
            key, "PLACEHOLDER", f"holds {found[0]!r}; the image has its own column, remove it from the text"
        )
    return value


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _identity(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise RowProblem("id", "BAD_TYPE", f"must be a text or a whole number; this is {kind(value)}")
    return check_text("id", str(value))


def _similarity(value: object) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(n) in (int, float) for n in value):
        raise RowProblem("similarity", "BAD_TYPE", "must be two numbers, of chosen and rejected")
    first, second = (_float(n) for n in value)
    if not (math.isfinite(first) and math.isfinite(second)):
        raise RowProblem("similarity", "NOT_FINITE", "must be two finite numbers; recompute them")
    return first, second


def _number(key: str, value: object) -> float:
    if type(value) not in (int, float):
        raise RowProblem(key, "BAD_TYPE", f"must be a number that is at least 0; this is {kind(value)}")
    number = _float(value)
    if not math.isfinite(number):
        raise RowProblem(key, "NOT_FINITE", "must be finite; recompute it")
    if number < 0:
        raise RowProblem(
            key, "WEIGHT", f"is {number:g}, must be at least 0; swap chosen and rejected, or drop it"
        )
    return number


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _spans(key: str, value: object, text: str) -> tuple[Span, ...]:
    """Weights of spans of characters, in their order."""
    if value is None:
        return ()
    wanted = "must be a list of [first character, end, weight]"
    if not isinstance(value, list):
        raise RowProblem(key, "BAD_TYPE", f"{wanted}; this is {kind(value)}")
    spans = []
    for item in value:
        if not isinstance(item, list) or len(item) != 3:
            raise RowProblem(key, "BAD_TYPE", f"{wanted}; one is {kind(item)}")
        start, end = (_number(key, n) for n in item[:2])
        if start != int(start) or end != int(end) or not start < end <= len(text):
            raise RowProblem(
                key,
                "WEIGHT",
                f"has a span {start:g} to {end:g}, the text has {len(text)} characters; correct it",
            )
        spans.append((int(start), int(end), _number(key, item[2])))
    spans.sort()
    for (_, end, _), (start, *_) in itertools.pairwise(spans):
        if start < end:
            raise RowProblem(key, "WEIGHT", f"has spans that overlap at character {start}; merge them")
    return tuple(spans)


def kind(value: object) -> str:
    """What a value is, in the words of JSON."""
    return _TYPES.get(type(value), type(value).__name__)
