"""Pictures of settings: a curve over one parameter, parallel coordinates over several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uedpo.results.keys import BASE
from uedpo.results.metrics import Metric, number, per_cent, title
from uedpo.results.settings import Settings, finite_means, scores, short
from uedpo.results.statistics import mean_interval

MAX_LINES = 4  # values of a second parameter that a curve can show as lines
MAX_TICKS = 12


def write_plots(
    groups: Settings, by: Sequence[str], metric: Metric, names: Sequence[str], base: Mapping[str, float],
    out: Path,
) -> list[Path]:  # fmt: skip
    """Write `out`.png and, for several parameters, `out`_parallel.png; returns what was written."""
    written = []
    lines = [len({name[i] for name in groups}) for i in range(len(by))]
    # a search over two numbers repeats none of them: that makes no lines
    if len(by) <= 1 or (len(by) == 2 and min(lines) <= MAX_LINES and 2 * len(groups) >= math.prod(lines)):
        written.append(out.with_name(f"{out.name}.png"))
        curve(groups, by, panels(metric, names), base, written[-1])
    if len(by) > 1 and finite_means(groups, metric.name):
        written.append(out.with_name(f"{out.name}_parallel.png"))
        parallel(groups, by, metric, written[-1])
    return written


def panels(metric: Metric, names: Sequence[str]) -> list[str]:
    """The metric, then what a gain in it may cost; at most three."""
    told = [
        n for n in names if n.rsplit("/", 1)[-1] in ("small_coverage", "attribute_accuracy", "val/margin")
    ]
    return list(dict.fromkeys([metric.name, *told, *names]))[:3]


def curve(
    groups: Settings, by: Sequence[str], names: Sequence[str], base: Mapping[str, float], path: Path
) -> None:
    """Mean and interval over one parameter, one line a value of the other; horizontal: untrained."""
    plt = _pyplot()
    x, other = _axes(groups, by)
    figure, axes = plt.subplots(
        1, len(names), figsize=(1 + 3.7 * len(names), 3.6), layout="constrained", squeeze=False
    )
    xs = _in_order([name[x] if by else "" for name in groups])
    at = _places(xs)
    labels = list(dict.fromkeys(name[other] for name in groups)) if other is not None else [""]
    for axis, metric in zip(axes[0], names, strict=True):
        scale = 100 if per_cent(metric) else 1
        if metric in base:
            axis.axhline(scale * base[metric], color="0.6", lw=1, label=BASE)
        for n, label in enumerate(labels):
            points = [
                (at[name[x] if by else ""], *(scale * v for v in mean_interval(found)))
                for name, runs in groups.items()
                if (other is None or name[other] == label) and (found := scores(runs, metric))
            ]
            if points:
                side = 0.02 * (max(at.values()) - min(at.values())) * (n - (len(labels) - 1) / 2)
                where, mean, half = zip(*sorted(points), strict=True)
                style = "-" if _numeric(xs) else ""
                axis.errorbar([w + side for w in where], mean, half, marker="o", capsize=3, ls=style,
                              label=label or None)  # fmt: skip
        slant: dict[str, Any] = {} if _numeric(xs) else {"rotation": 30, "ha": "right"}
        if len(xs) <= MAX_TICKS or not _numeric(xs):
            axis.set_xticks([at[value] for value in xs], map(short, xs), fontsize=8, **slant)
        axis.set_title(title(metric) + " (%)" * per_cent(metric), fontsize=10)
        axis.set_xlabel(by[x] if by else "")
    if axes[0][0].get_legend_handles_labels()[1]:
        axes[0][0].legend(fontsize=8, frameon=False, title=by[other] if other is not None else None)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def parallel(groups: Settings, by: Sequence[str], metric: Metric, path: Path) -> None:
    """One vertical axis a parameter and one for the metric, one line a setting, coloured by its mean."""
    plt = _pyplot()
    from matplotlib.colors import Normalize

    means = {name: mean for name, (mean, _) in finite_means(groups, metric.name).items()}
    low, high = min(means.values()), max(means.values())
    span = (high - low) or 1.0
    heights = []
    for i in range(len(by)):
        at = _places(_in_order([name[i] for name in means]))
        first, last = min(at.values()), max(at.values())
        heights.append({v: (p - first) / ((last - first) or 1.0) for v, p in at.items()})
    figure, axis = plt.subplots(figsize=(2.2 + 1.9 * len(by), 4), layout="constrained")
    colours = plt.get_cmap("viridis" if metric.mode == "max" else "viridis_r")
    shade = Normalize(low, high)
    best = metric.best(list(means.values()))
    for name, mean in means.items():
        ys = [*(heights[i][v] for i, v in enumerate(name)), (mean - low) / span]
        axis.plot(range(len(ys)), ys, color=colours(shade(mean)), lw=3 if mean == best else 1.2)
    for i, places in enumerate(heights):
        ticks = list(places.items())
        shown = ticks if len(ticks) <= MAX_TICKS or not _numeric(list(places)) else [ticks[0], ticks[-1]]
        for label, y in shown:
            axis.annotate(
                short(label), (i, y), xytext=(-4, 2), textcoords="offset points", ha="right", fontsize=8
            )
    for y in (0, 1):
        text = number(metric.name, low + y * span)
        axis.annotate(text, (len(by), y), xytext=(5, 0), textcoords="offset points", fontsize=8)
    for i in range(len(by) + 1):
        axis.axvline(i, color="0.7", lw=0.8, zorder=0)
    axis.set_xticks(
        range(len(by) + 1), [*by, title(metric.name) + " (%)" * per_cent(metric.name)], fontsize=9
    )
    axis.set_yticks([])
    axis.set_xlim(-0.5, len(by) + 0.4)
    for side in ("left", "right", "top", "bottom"):
        axis.spines[side].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _axes(groups: Settings, by: Sequence[str]) -> tuple[int, int | None]:
    """(place of the parameter on the x axis, of the one that makes lines): the one with fewer values."""
    if len(by) < 2:
        return 0, None
    counts = [len({name[i] for name in groups}) for i in (0, 1)]
    return (0, 1) if counts[0] >= counts[1] else (1, 0)


def _numeric(values: Sequence[str]) -> bool:
    try:
        return all(math.isfinite(float(v)) for v in values)
    except ValueError:
        return False


def _in_order(values: Sequence[str]) -> list[str]:
    distinct = list(dict.fromkeys(values))
    return sorted(distinct, key=float) if _numeric(distinct) else distinct


def _places(values: Sequence[str]) -> dict[str, float]:
    """Where on an axis each value goes: evenly where they are words or span more than two decades."""
    if _numeric(values):
        numbers = [float(v) for v in values]
        apart = [abs(n) for n in numbers if n]
        if not apart or max(apart) < 100 * min(apart):
            return dict(zip(values, numbers, strict=True))
    return {v: float(i) for i, v in enumerate(values)}


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
