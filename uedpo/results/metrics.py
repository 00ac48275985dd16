"""What metrics are called, how tables show them, and which way is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

TITLES = {
    "chair_i": "CHAIR_i", "chair_s": "CHAIR_s", "coverage": "coverage",
    "small_coverage": "coverage of small background objects", "attribute_accuracy": "attributes right",
    "position_accuracy": "positions right", "pope_accuracy": "POPE-like accuracy",
    "words": "words per caption",
}  # fmt: skip
SPLITS = {
    "shift": "Scenes that break the training co-occurrences",
    "train": "Scenes that follow the training co-occurrences",
}
LOWER_IS_BETTER = ("chair_i", "chair_s")
DEFAULTS = ("chair_i", "val/loss", "train/loss")  # the first of a split, and those of a run that only trained
LOWER = (*LOWER_IS_BETTER, "loss")
HIGHER = ("coverage", "small_coverage", "attribute_accuracy", "position_accuracy", "pope_accuracy",
          "accuracy", "margin")  # fmt: skip


class Metric(NamedTuple):
    """What runs are ranked by."""

    name: str
    mode: str  # "min" or "max"

    def best(self, values: Sequence[float]) -> float:
        return min(values) if self.mode == "min" else max(values)


def defaults(split: str) -> list[str]:
    """Metrics that rank runs where nobody names one, the first that all have."""
    return [f"{split}/{DEFAULTS[0]}", *DEFAULTS[1:]]


def known_mode(name: str) -> str | None:
    """min or max, None for a metric of whose meaning nothing is known."""
    last = name.rsplit("/", 1)[-1]
    return "min" if last in LOWER else "max" if last in HIGHER else None


def per_cent(name: str) -> bool:
    """Whether a metric is a share of things, which tables show in per cent."""
    split, _, last = name.partition("/")
    return split in SPLITS and last in TITLES and last != "words"


def title(name: str) -> str:
    """What tables call a metric."""
    split, _, last = name.partition("/")
    return TITLES[last] if split in SPLITS and last in TITLES else name


def number(name: str, value: float) -> str:
    """A value as tables show it, without its unit."""
    return f"{100 * value:.1f}" if per_cent(name) else f"{value:.4g}"
