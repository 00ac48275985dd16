"""Differences between settings on the same scenes and seeds, with paired-bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from uedpo.errors import InputError
from uedpo.metrics import CAPTION_RATIOS, paired_bootstrap
from uedpo.progress import tracked
from uedpo.report.page import TITLES, cell
from uedpo.report.runs import Run, is_base
from uedpo.report.summary import HEADLINES, Name, Settings
from uedpo.results import differing, unpack

Difference = dict[str, float | None]


def differences(
    groups: Settings, against: Name, split: str
) -> dict[Name, dict[str, Difference | None]]:  # fmt: skip
    """Setting -> headline metric -> its difference from the reference.

    Raises:
        InputError: no setting has that reference, or the two were evaluated on different scenes.
    """
    pairs = {name: reference_of(name, against, groups) for name in groups}
    found = {
        name: {metric: difference(groups[name], groups[other], split, metric) for metric in HEADLINES}
        for name, other in tracked(pairs.items(), "bootstrap", len(pairs))
        if other is not None
    }
    if not found:
        known = "; ".join(", ".join(name) for name in groups)
        raise InputError(f"--against {', '.join(against)}: nothing to compare with it; settings: {known}")
    return found


def reference_of(name: Name, against: Name, groups: Settings) -> Name | None:
    """`name` with its first values replaced by `against`; None where there is no such setting."""
    other = against + name[len(against) :]
    return other if other in groups and other != name else None


def difference(runs: Sequence[Run], others: Sequence[Run], split: str, metric: str) -> Difference | None:
    """`paired_bootstrap` of one metric over the seeds both have; None where they share none."""
    pair = paired_counts(runs, others, split, metric)
    return None if pair is None else paired_bootstrap(*pair)


def paired_counts(
    runs: Sequence[Run], others: Sequence[Run], split: str, metric: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Counts of one metric, each [seeds, scenes, 2], over the seeds both have; None where they share none.

    Raises:
        InputError: the two were evaluated on different scenes.
    """
    if differing([runs[0].config["evaluation"], others[0].config["evaluation"]], []):
        raise InputError(
            f"{runs[0].where} and {others[0].where} were evaluated differently: "
            "choose one with --where evaluation.KEY=VALUE"
        )
    if not (is_base(runs[0]) or is_base(others[0])):
        shared = {r.seed for r in runs} & {r.seed for r in others}
        runs, others = ([r for r in side if r.seed in shared] for side in (runs, others))
        if not shared:
            return None
    return _counts(runs, split, metric), _counts(others, split, metric)


def _counts(runs: Sequence[Run], split: str, metric: str) -> np.ndarray:
    """[seeds, scenes, 2]"""
    tables = [unpack(run.row["counts"][split]) for run in runs if run.row]
    return np.array([np.stack([table[name] for name in CAPTION_RATIOS[metric]], -1) for table in tables])


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
