"""Differences between settings as a table and as a forest plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uedpo.report.tables import cell
from uedpo.results.metrics import TITLES
from uedpo.results.paired import Difference
from uedpo.results.settings import HEADLINES, Name


def differences_table(found: dict[Name, dict[str, Difference | None]], by: Sequence[str]) -> str:
    """Difference and interval in percentage points, bold where the interval leaves 0 out."""
    head = [*map(cell, by), *(TITLES[metric] for metric in HEADLINES)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, row in found.items():
        cells = [cell(part) for part in name]
        for metric in HEADLINES:
            value, low, high = _points(row[metric])
            text = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]" if value == value else ""
            cells.append(f"**{text}**" if low > 0 or high < 0 else text)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _points(entry: Difference | None) -> tuple[float, float, float]:
    """(value, low, high) in percentage points, nan where there is none."""
    values = [entry[key] if entry else None for key in ("value", "low", "high")]
    value, low, high = (float("nan") if v is None else 100 * v for v in values)
    return value, low, high


def forest_plot(found: dict[Name, dict[str, Difference | None]], path: Path, reference: str) -> None:
    """One panel a metric, one line a setting; filled where the interval leaves 0 out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(found)
    size = (13, 2.6 + 0.44 * len(names))
    figure, axes = plt.subplots(2, 3, figsize=size, layout="constrained", sharey=True)
    for axis, metric in zip(axes.flat, HEADLINES, strict=True):
        axis.axvline(0, color="0.6", lw=1)
        for y, name in enumerate(names):
            value, low, high = _points(found[name][metric])
            face = "C0" if low > 0 or high < 0 else "white"
            span = [[value - low], [high - value]]
            axis.errorbar(value, y, xerr=span, fmt="o", color="C0", mfc=face, capsize=3)
        axis.set_title(TITLES[metric], fontsize=10)
        axis.set_yticks(range(len(names)), [", ".join(part for part in n if part) for n in names], fontsize=8)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(f"difference from {reference} in percentage points, 95 % paired bootstrap", fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)
