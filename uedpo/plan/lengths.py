"""Batches of the lengths that a run will meet: of its own rows, or made up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image

from uedpo.data.collate import PairCollator
from uedpo.data.survey import Measured, survey
from uedpo.errors import InputError
from uedpo.types import PreferencePair


class Sample(NamedTuple):
    """Pairs that stand for the data.

    Attributes:
        longest: pairs with the longest sequences first.
        typical: one pair of median length.
        longest_response: tokens of the longest response of the first of `longest`.
        lines: what was measured, for the table.
    """

    longest: list[PreferencePair]
    typical: PreferencePair
    longest_response: int
    lines: list[str]


def sample_of_rows(pairs: Sequence[PreferencePair], num: int, collate: PairCollator, config: Any) -> Sample:
    """The first `num` rows, each through the collator.

    Raises:
        InputError: none of them can be collated.
    """
    rows = [pairs[i] for i in range(min(num, len(pairs)))]
    measured = survey(rows, collate, config)
    fine = [i for i, row in enumerate(measured) if not row.problem]
    if not fine:
        raise InputError(measured[0].problem if measured else "no rows to look at")
    order = sorted(fine, key=lambda i: _tokens(measured[i]))
    typical = order[len(order) // 2]
    lines = [f"data: the first {len(rows)} of {len(pairs)} rows; tokens of prompt, image, chosen, rejected:"]
    for name, i in (("longest", order[-1]), ("median", typical)):
        lines.append(f"  {name:<8}{_numbers(measured[i])}")
    longest = measured[order[-1]].lengths
    response = max(longest["chosen"], longest["rejected"])
    return Sample([rows[i] for i in reversed(order)], rows[typical], response, lines)


def made_up(
    prompt: int, response: int, size: tuple[int, int] | None, collate: PairCollator, config: Any
) -> Sample:
    """A pair with so many tokens, and a grey image that the processor treats as any other.

    Args:
        prompt: tokens of prompt and template, without those of the image.
        size: width and height of the image in pixels; None for no image.
    """
    image = None if size is None else Image.new("RGB", size, (127, 127, 127))
    text = " a" * response  # the collator cuts it, as `max_response_tokens` is set to `response`

    def pair(words: int) -> PreferencePair:
        return PreferencePair("made up", image, "a" + " a" * words, text, text)

    def length(words: int) -> int:
        return survey([pair(words)], collate, config)[0].lengths["prompt"]

    least = length(0)
    each = max(1, (length(64) - least) // 64)
    row = pair(max(0, (prompt - least) // each))
    (measured,) = survey([row], collate, config)
    if measured.problem:
        raise InputError(measured.problem)
    lines = ["data: made up; tokens of prompt, image, chosen, rejected:", f"  all     {_numbers(measured)}"]
    return Sample([row], row, response, lines)


def first(sample: Sample, num: int) -> list[PreferencePair]:
    """The longest `num` pairs; a sample with fewer starts over."""
    return [sample.longest[i % len(sample.longest)] for i in range(num)]


def _tokens(row: Measured) -> int:
    lengths = row.lengths
    return lengths["prompt"] + lengths["image"] + lengths["chosen"] + lengths["rejected"]


def _numbers(row: Measured) -> str:
    return "".join(f"{row.lengths[name]:>7}" for name in ("prompt", "image", "chosen", "rejected"))
