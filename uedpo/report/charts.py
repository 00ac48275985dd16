"""Line and fan charts as inline SVG: no script, colours from the page's style, told apart by dash too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 34
MOST_POINTS = 160
Point = tuple[float, float]


class Line(NamedTuple):
    """One curve; `style` 0, 1, ... is its colour and dash."""

    label: str
    points: Sequence[Point]
    style: int


class Axes(NamedTuple):
    """What maps data to pixels."""

    low: Point
    high: Point

    def x(self, value: float) -> float:
        span = self.high[0] - self.low[0] or 1.0
        return round(LEFT + (value - self.low[0]) / span * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        span = self.high[1] - self.low[1] or 1.0
        return round(HEIGHT - BOTTOM - (value - self.low[1]) / span * (HEIGHT - TOP - BOTTOM), 1)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that cover [low, high]: the first is not above low, the last not below high."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return [0.0, 1.0]
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most `MOST_POINTS` points: the means of neighbours."""
    finite = [p for p in points if math.isfinite(p[1])]
    size = -(-len(finite) // MOST_POINTS) or 1
    chunks = [finite[i : i + size] for i in range(0, len(finite), size)]
    return [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]


def line_chart(name: str, title: str, lines: Sequence[Line], x_label: str = "step") -> Markup:
    """An SVG of curves over steps; `name` is unique in the page, `title` says it all to a screen reader."""
    thin = [line._replace(points=thinned(line.points)) for line in lines]
    thin = [line for line in thin if line.points]
    values = [p for line in thin for p in line.points]
    axes = _axes(values)
    marks = Markup("").join(_line(line, axes) for line in thin)
    return _svg(name, title, axes, marks, x_label)


def fan_chart(
    name: str, title: str, steps: Sequence[float], quantiles: Sequence[Sequence[float]], style: int
) -> Markup:
    """An SVG of five quantiles over steps: outer band, inner band, median.

    Args:
        quantiles: of each step, ascending.
    """
    axes = _axes([(s, q) for s, row in zip(steps, quantiles, strict=True) for q in (row[0], row[-1])])
    marks = Markup("")
    for low, high, band in ((0, 4, "outer"), (1, 3, "inner")):
        down = [(s, row[low]) for s, row in zip(steps, quantiles, strict=True)]
        up = [(s, row[high]) for s, row in zip(steps, quantiles, strict=True)]
        marks += Markup('<path class="band {} s{}" d="{}Z"/>').format(
            band, style, _path([*down, *reversed(up)], axes)
        )
    marks += _line(
        Line("median", [(s, row[2]) for s, row in zip(steps, quantiles, strict=True)], style), axes
    )
    return _svg(name, title, axes, marks, "step")


def interval_plot(low: float, high: float, rows: Sequence[tuple[float, float, float]]) -> Markup:
    """Up to two values with their intervals on a scale [low, high], one above the other; decoration only.

    Args:
        rows: (value, low, high); the first is hollow, the last filled.
    """
    width, height = 110, 10 * len(rows) + 4
    span = high - low or 1.0
    marks = Markup("")
    for i, values in enumerate(rows):
        x, a, b = (round(4 + (v - low) / span * (width - 8), 1) for v in values)
        y = 7 + 10 * i
        marks += Markup('<path class="whisker s{3}" d="M{0} {2}H{1}"/>').format(a, b, y, i)
        marks += Markup('<circle class="dot s{2}" cx="{0}" cy="{1}" r="3.2"/>').format(x, y, i)
    start = Markup('<svg class="forest" viewBox="0 0 {0} {1}" width="{0}" height="{1}" aria-hidden="true">')
    return start.format(width, height) + marks + Markup("</svg>")


def number(value: float) -> str:
    """Up to three significant digits, without trailing zeros."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _axes(values: Sequence[Point]) -> Axes:
    xs, ys = [x for x, _ in values], [y for _, y in values]
    along, up = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    return Axes((min(xs), up[0]), (max(along[0], max(xs)), up[-1]))


def _path(points: Sequence[Point], axes: Axes) -> str:
    return "M" + "L".join(f"{axes.x(x):g} {axes.y(y):g}" for x, y in points)


def _line(line: Line, axes: Axes) -> Markup:
    mark = Markup('<path class="line s{}" d="{}"/>').format(line.style, _path(line.points, axes))
    if len(line.points) > 12:
        return mark
    return mark + Markup("").join(
        Markup('<circle class="dot s{}" cx="{}" cy="{}" r="2.6"/>').format(line.style, axes.x(x), axes.y(y))
        for x, y in line.points
    )


def _svg(name: str, title: str, axes: Axes, marks: Markup, x_label: str) -> Markup:
    grid = Markup("")
    for value in ticks(axes.low[1], axes.high[1]):
        if (
            not axes.low[1] - 1e-9 <= value <= axes.high[1] + 1e-9
        ):  # of a rounded range the steps may be others
            continue
        grid += Markup('<path class="grid" d="M{} {}H{}"/><text x="{}" y="{}" class="end">{}</text>').format(
            LEFT, axes.y(value), WIDTH - RIGHT, LEFT - 6, axes.y(value) + 3.5, number(value)
        )
    for value in ticks(axes.low[0], axes.high[0]):
        if axes.low[0] <= value <= axes.high[0] + 1e-9:
            grid += Markup('<text x="{}" y="{}" class="mid">{}</text>').format(
                axes.x(value), HEIGHT - BOTTOM + 14, number(value)
            )
    grid += Markup('<text x="{}" y="{}" class="mid label">{}</text>').format(
        (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_label
    )
    start = Markup('<svg class="chart" viewBox="0 0 {0} {1}" role="img" aria-labelledby="{2}">')
    named = Markup('<title id="{}">{}</title>').format(name, title)
    return start.format(WIDTH, HEIGHT, name) + named + grid + marks + Markup("</svg>")
