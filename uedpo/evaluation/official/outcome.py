"""What a scorer returns, and the three ways in which there is no number."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["official", "strict"]


@dataclass
class Scored:
    """One benchmark, scored.

    Attributes:
        metrics: name -> value, as the official script computes it before printing; None: not defined.
        counts: what the metrics were computed from.
        baselines: degenerate answerer -> metrics, on the same questions.
        printed: name -> the text that the official script prints, where it rounds on printing.
        warnings: what a reader of the numbers should know.
    """

    metrics: dict[str, float | None]
    counts: dict[str, float]
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class Undefined(Exception):
    """The official script has no number for this input, or `strict` refuses the one it has.

    Attributes:
        row: position of the row that it is about, if it is about one.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


class MissingAsset(Exception):
    """A file, resource or package that the metric needs is not there; the message names it."""


class UnknownWord(Exception):
    """A recording does not hold this word or phrase."""


def ratio(numerator: float, denominator: float, what: str) -> float:
    """A quotient of counts.

    Raises:
        Undefined: where the official script dies of ZeroDivisionError.
    """
    if not denominator:
        raise Undefined(f"{what}: division by zero")
    return numerator / denominator
