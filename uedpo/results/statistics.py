"""Ratios of counts with bootstrap confidence intervals (pure numpy).

Every evaluation metric is a ratio of sums over scenes, so that sums can be merged across workers
and the interval resamples whole scenes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# metric -> (numerator, denominator), keys of the counts of one scene
CAPTION_RATIOS: dict[str, tuple[str, str]] = {
    "chair_i": ("hallucinated", "mentions"),
    "chair_s": ("hallucinated_captions", "captions"),
    "coverage": ("found", "present"),
    "small_coverage": ("small_found", "small_present"),
    "attribute_accuracy": ("attributes_right", "attributes"),
    "position_accuracy": ("positions_right", "positions"),
    "pope_accuracy": ("pope_right", "pope"),
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


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> dict[str, float | None]:
    """Difference between two methods' mean-over-seeds ratios, with a percentile bootstrap interval.

    Each resample draws scenes, the same ones for both methods and all seeds, and seeds, the same
    ones for both methods. With few seeds the interval is too narrow in what it says of new seeds.

    Args:
        a, b: [seeds, scenes, 2], numerator and denominator of each scene; a single seed (the base
            model) is compared with every seed of the other.

    Returns:
        {value, low, high}, all None where a denominator is 0 over all scenes.

    Raises:
        ValueError: shapes that do not pair, or level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}: must be in (0, 1)")
    shapes = f"a {list(a.shape)} and b {list(b.shape)}"
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:] or a.shape[2] != 2 or not a.size:
        raise ValueError(f"{shapes}: must both be [seeds, scenes, 2] of the same scenes")
    if a.shape[0] != b.shape[0] and 1 not in (a.shape[0], b.shape[0]):
        raise ValueError(f"{shapes}: must have the same seeds, or one of them a single one")
    seeds, scenes = max(a.shape[0], b.shape[0]), a.shape[1]
    if not (a.sum(1)[:, 1].all() and b.sum(1)[:, 1].all()):
        return {"value": None, "low": None, "high": None}
    of_scenes, of_seeds = _resamples(seeds, scenes, resamples, seed)
    draws = ((_ratios(a, of_scenes) - _ratios(b, of_scenes)) * of_seeds).sum(1)
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    once = np.ones((1, scenes))
    value = float((_ratios(a, once) - _ratios(b, once)).mean())
    return {"value": value, "low": float(low), "high": float(high)}


def paired_variances(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """What the difference of `paired_bootstrap` varies with: new seeds, new scenes, and both together.

    Ratios are linearised; the components of the two-way layout without repetition are estimated from its mean
    squares (random effects; a negative estimate counts as 0). With S seeds and N scenes the difference has
    the variance seeds / S + scenes / N + both / (S N).

    Args:
        a, b: [seeds, scenes, 2] of the same seeds and scenes, at least two of each.

    Returns:
        (seeds, scenes, both), in squared units of the metric.

    Raises:
        ValueError: shapes that do not pair, or a denominator that is 0 over all scenes.
    """
    if a.shape != b.shape or a.ndim != 3 or a.shape[2] != 2 or min(a.shape[:2]) < 2:
        raise ValueError(
            f"a {list(a.shape)} and b {list(b.shape)}: must both be [seeds, scenes, 2], two of each at least"
        )
    d = _linear(a) - _linear(b)
    seeds, scenes = d.shape
    of_seed, of_scene = d.mean(1, keepdims=True), d.mean(0, keepdims=True)
    both = float(((d - of_seed - of_scene + d.mean()) ** 2).sum() / ((seeds - 1) * (scenes - 1)))
    between_seeds = max(0.0, float(of_seed.var(ddof=1)) - both / scenes)
    between_scenes = max(0.0, float(of_scene.var(ddof=1)) - both / seeds)
    return between_seeds, between_scenes, both


def _linear(x: np.ndarray) -> np.ndarray:
    """x [seeds, scenes, 2] -> [seeds, scenes], whose mean over scenes is the ratio of sums."""
    above, below = x[..., 0].astype(np.float64), x[..., 1].astype(np.float64)
    total = below.sum(1, keepdims=True)
    if not total.all():
        raise ValueError("a denominator is 0 over all scenes")
    ratio = above.sum(1, keepdims=True) / total
    linear: np.ndarray = ratio + (above - ratio * below) * below.shape[1] / total
    return linear


@functools.lru_cache(maxsize=2)  # a table takes many intervals of the same shape
def _resamples(seeds: int, scenes: int, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each scene is drawn [resamples, scenes], and the share of each seed [resamples, seeds]."""
    rng = np.random.default_rng(seed)
    of_scenes = rng.multinomial(scenes, np.full(scenes, 1 / scenes), size=resamples)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    return of_scenes.astype(np.float64), of_seeds


def _ratios(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """x [seeds, scenes, 2], weights [R, scenes] -> ratio of weighted sums [R, seeds], nan for 0 / 0."""
    above, below = weights @ x[..., 0].T.astype(np.float64), weights @ x[..., 1].T.astype(np.float64)
    ratios: np.ndarray = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    return ratios
