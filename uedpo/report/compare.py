"""Tables and a plot from a results file: `python -m uedpo.report.compare FILE --against DPO`.

Writes FILE's name with .md and .png: the mean of each setting over seeds, and its difference from a
reference on the same scenes and seeds with a paired-bootstrap interval.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uedpo.metrics import CAPTION_RATIOS, mean_interval, paired_bootstrap
from uedpo.report.page import SPLITS, TITLES, cell
from uedpo.report.sweep import HEADLINES
from uedpo.results import BASE, differing, read_rows, unpack, value_of
from uedpo.types import InputError

Name = tuple[str, ...]  # values of the keys that tell settings apart
Row = dict[str, Any]
Difference = dict[str, float | None]


def settings(rows: Sequence[Row], by: Sequence[str]) -> dict[Name, list[Row]]:
    """Rows of each setting in the order of their seeds, the base model first.

    Raises:
        InputError: rows of one setting that differ in more than the seed.
    """
    groups: dict[Name, list[Row]] = {}
    for row in sorted(rows, key=lambda r: r["method"] != BASE):
        groups.setdefault(tuple(str(value_of(row["config"], key)) for key in by), []).append(row)
    for name, group in groups.items():
        keys = differing([row["config"] for row in group], ["seed"])
        if keys:
            raise InputError(
                f"{len(group)} rows of {', '.join(name)} differ in {', '.join(keys)}: "
                f"add it to --by, or choose one with --where {keys[0]}=VALUE"
            )
        group.sort(key=lambda row: row["config"].get("seed", 0))
    return groups


def reference_of(name: Name, against: Name, groups: dict[Name, list[Row]]) -> Name | None:
    """`name` with its first values replaced by `against`; None where there is no such setting."""
    other = against + name[len(against) :]
    return other if other in groups and other != name else None


def difference(rows: Sequence[Row], others: Sequence[Row], split: str, metric: str) -> Difference | None:
    """`paired_bootstrap` of one metric over the seeds both have; None where they share none.

    Raises:
        InputError: the two were evaluated on different scenes.
    """
    if differing([rows[0]["config"]["evaluation"], others[0]["config"]["evaluation"]], []):
        raise InputError(
            f"{rows[0]['method']} and {others[0]['method']} were evaluated differently: "
            "choose one with --where evaluation.KEY=VALUE"
        )
    if BASE not in (rows[0]["method"], others[0]["method"]):
        shared = {r["config"]["seed"] for r in rows} & {r["config"]["seed"] for r in others}
        rows, others = ([r for r in side if r["config"]["seed"] in shared] for side in (rows, others))
        if not shared:
            return None
    return paired_bootstrap(_counts(rows, split, metric), _counts(others, split, metric))


def _counts(rows: Sequence[Row], split: str, metric: str) -> np.ndarray:
    """[seeds, scenes, 2]"""
    tables = [unpack(row["counts"][split]) for row in rows]
    return np.array([np.stack([table[name] for name in CAPTION_RATIOS[metric]], -1) for table in tables])


def means_table(groups: dict[Name, list[Row]], by: Sequence[str], split: str) -> str:
    """Mean and 95 % t interval over seeds, in per cent, one row a setting."""
    lines = _head([*by, "seeds"])
    for name, rows in groups.items():
        cells = [*map(cell, name), str(len(rows))]
        for metric in HEADLINES:
            values = [row["metrics"][split].get(metric, {}).get("value") for row in rows]
            known = [100 * value for value in values if value is not None]
            mean, half = mean_interval(known) if known else (float("nan"), float("nan"))
            cells.append(
                "" if mean != mean else f"{mean:.1f}" if half != half else f"{mean:.1f} ± {half:.1f}"
            )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def differences_table(differences: dict[Name, dict[str, Difference | None]], by: Sequence[str]) -> str:
    """Difference and interval in percentage points, bold where the interval leaves 0 out."""
    lines = _head(list(by))
    for name, row in differences.items():
        cells = [cell(part) for part in name]
        for metric in HEADLINES:
            value, low, high = _points(row[metric])
            text = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]" if value == value else ""
            cells.append(f"**{text}**" if low > 0 or high < 0 else text)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _head(first: list[str]) -> list[str]:
    cells = [*first, *(TITLES[metric] for metric in HEADLINES)]
    return ["| " + " | ".join(cells) + " |", "|" + "---|" * len(cells)]


def _points(entry: Difference | None) -> tuple[float, float, float]:
    """(value, low, high) in percentage points, nan where there is none."""
    values = [entry[key] if entry else None for key in ("value", "low", "high")]
    value, low, high = (float("nan") if v is None else 100 * v for v in values)
    return value, low, high


def forest_plot(differences: dict[Name, dict[str, Difference | None]], path: Path, reference: str) -> None:
    """One panel a metric, one line a setting; filled where the interval leaves 0 out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(differences)
    size = (13, 2.6 + 0.44 * len(names))
    figure, axes = plt.subplots(2, 3, figsize=size, layout="constrained", sharey=True)
    for axis, metric in zip(axes.flat, HEADLINES, strict=True):
        axis.axvline(0, color="0.6", lw=1)
        for y, name in enumerate(names):
            value, low, high = _points(differences[name][metric])
            face = "C0" if low > 0 or high < 0 else "white"
            span = [[value - low], [high - value]]
            axis.errorbar(value, y, xerr=span, fmt="o", color="C0", mfc=face, capsize=3)
        axis.set_title(TITLES[metric], fontsize=10)
        axis.set_yticks(range(len(names)), [", ".join(part for part in n if part) for n in names], fontsize=8)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(f"difference from {reference} in percentage points, 95 % paired bootstrap", fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def compare(
    file: Path, by: Sequence[str], against: Name | None, where: Sequence[str], split: str, out: Path
) -> str:
    """Write `out`.md and, with a reference, `out`.png; returns the text.

    Raises:
        InputError: no rows, rows that do not compare, or a reference that is not there.
    """
    rows = [row for row in read_rows(file).values() if split in row["counts"] and _chosen(row, where)]
    if not rows:
        raise InputError(
            f"{file}: no rows of split {split}{' and '.join([' with', *where]) if where else ''}"
        )
    groups = settings(rows, by)
    scenes = max(row["counts"][split]["scenes"] for row in rows)
    text = f"Per cent, mean and 95 % t interval over seeds; {scenes} {SPLITS[split].lower()}.\n\n"
    text += means_table(groups, by, split)
    if against:
        pairs = {name: reference_of(name, against, groups) for name in groups}
        differences = {
            name: {metric: difference(groups[name], groups[other], split, metric) for metric in HEADLINES}
            for name, other in pairs.items()
            if other is not None
        }
        reference = ", ".join(against)
        if not differences:
            known = "; ".join(", ".join(name) for name in groups)
            raise InputError(f"--against {reference}: nothing to compare with it; settings: {known}")
        text += (
            f"\nDifference from {reference} in percentage points, 95 % paired bootstrap interval over scenes "
        )
        text += f"and seeds; bold where it leaves 0 out.\n\n{differences_table(differences, by)}"
        forest_plot(differences, out.with_suffix(".png"), reference)
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    return text


def _chosen(row: Row, where: Sequence[str]) -> bool:
    """Whether a row has all the values; the base model need not have the keys."""
    for condition in where:
        key, _, wanted = condition.partition("=")
        value = value_of(row["config"], key)
        if str(value) != wanted and not (row["method"] == BASE and value == ""):
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path, help="results file")
    parser.add_argument("--by", default="method", help="keys that tell settings apart, comma-separated")
    parser.add_argument("--against", nargs="+", metavar="VALUE", help="reference: values of the first keys")
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="only such rows")
    parser.add_argument("--split", default="shift", choices=list(SPLITS))
    parser.add_argument("--out", type=Path, help="where to write, without suffix; default: beside FILE")
    options = parser.parse_args()
    against = tuple(options.against or ()) or None
    out = options.out or options.file.with_suffix("")
    try:
        print(compare(options.file, options.by.split(","), against, options.where, options.split, out))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
