"""Ratios of counts with bootstrap confidence intervals (pure numpy).

Every evaluation metric is a ratio of sums over scenes, so that sums can be merged across workers
and the interval resamples whole scenes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# metric -> (numerator, denominator), keys of the counts of one caption
CAPTION_RATIOS: dict[str, tuple[str, str]] = {
    "chair_i": ("hallucinated", "mentions"),
    "chair_s": ("hallucinated_captions", "captions"),
    "coverage": ("found", "present"),
    "small_coverage": ("small_found", "small_present"),
    "attribute_accuracy": ("attributes_right", "attributes"),
    "position_accuracy": ("positions_right", "positions"),
    "words": ("words", "captions"),
}


def ratio_metrics(
    counts: Sequence[Mapping[str, int]],
    ratios: Mapping[str, tuple[str, str]] = CAPTION_RATIOS,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Each ratio of sums with a percentile bootstrap interval over the rows of `counts`.

    Returns:
        metric -> {value, low, high, numerator, denominator}; value, low and high are None where
        the denominator is 0.

    Raises:
        ValueError: no rows, or level outside (0, 1).
    """
    if not counts:
        raise ValueError("no rows to take metrics of")
    if not 0 < level < 1:
        raise ValueError(f"level={level}: must be in (0, 1)")
    n = len(counts)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    result: dict[str, dict[str, Any]] = {}
    for name, (top, bottom) in ratios.items():
        a, b = np.array([[row[top], row[bottom]] for row in counts], dtype=np.float64).T
        entry: dict[str, Any] = {"value": None, "low": None, "high": None}
        if b.sum() > 0:
            above, below = draws @ a, draws @ b
            values = above[below > 0] / below[below > 0]
            low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
            entry = {"value": float(a.sum() / b.sum()), "low": float(low), "high": float(high)}
        result[name] = {**entry, "numerator": int(a.sum()), "denominator": int(b.sum())}
    return result


# two-sided 97.5 % quantiles of Student's t for 1..10 degrees of freedom
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % t interval over seeds; the half width of one value is nan.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to take the mean of")
    x = np.asarray(values, dtype=np.float64)
    if len(x) == 1:
        return float(x[0]), float("nan")
    t = _T975[len(x) - 2] if len(x) <= 11 else 1.96 + 2.4 / (len(x) - 1)
    return float(x.mean()), float(t * x.std(ddof=1) / np.sqrt(len(x)))
