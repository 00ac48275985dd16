"""Runs as text: a table of what each setting scores over its seeds, the best one, how to repeat it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uedpo.report.tables import cell
from uedpo.results.keys import BASE, key_of
from uedpo.results.metrics import SPLITS, Metric, number, per_cent, title
from uedpo.results.runs import Run
from uedpo.results.settings import Settings, finite_means, scores, short, value
from uedpo.results.statistics import mean_interval


def interval_text(name: str, values: Sequence[float]) -> str:
    """Mean and, of several values, 95 % t interval, of those that are numbers; "none" where no share is."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "none" if per_cent(name) or not values else "nan"
    mean, half = mean_interval(finite)
    of = f" ({len(finite)} of {len(values)} runs)" * (len(finite) < len(values))
    return (number(name, mean) if half != half else f"{number(name, mean)} ± {number(name, half)}") + of


def table(groups: Settings, by: Sequence[str], names: Sequence[str], base: Mapping[str, float]) -> str:
    """Markdown: mean and interval over seeds of each metric, one row a setting, the untrained model first."""
    by = by or ["method"]  # or nobody could tell the untrained model from the trained one
    head = [*by, "runs", *(title(name) + " (%)" * per_cent(name) for name in names)]
    lines = ["| " + " | ".join(map(cell, head)) + " |", "|" + "---|" * len(head)]
    rows = [(name, group, [scores(group, n) for n in names]) for name, group in groups.items()]
    if base:
        label = (BASE, *[""] * (len(by) - 1))[: len(by)]
        rows.insert(0, (label, [], [[base[n]] if n in base else [] for n in names]))
    for name, group, found in rows:
        name = name or (value(group[0], "method"),)
        texts = [interval_text(n, values) for n, values in zip(names, found, strict=True)]
        cells = [*(cell(short(part)) for part in name), str(len(group) or 1), *texts]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def best_text(groups: Settings, by: Sequence[str], metric: Metric, flags: Sequence[str] = ()) -> str:
    """Best setting by its mean over seeds, best run, and the command that repeats that run."""
    means = finite_means(groups, metric.name)
    if not means:
        return f"No setting has a finite {metric.name}.\n"
    best = metric.best([mean for mean, _ in means.values()])
    winner = next(name for name, (mean, _) in means.items() if mean == best)
    near = sum(
        abs(mean - best) <= half + means[winner][1] for name, (mean, half) in means.items() if name != winner
    )
    runs = [r for g in groups.values() for r in g if math.isfinite(r.values.get(metric.name, math.nan))]
    top = next(r for r in runs if r.values[metric.name] == metric.best(scores(runs, metric.name)))
    lower = "lower" if metric.mode == "min" else "higher"
    unit = " %" * per_cent(metric.name)
    lines = []
    if by:
        named = " ".join(f"{k}={short(v)}" for k, v in zip(by, winner, strict=True))
        shared = f"; the intervals of {near} other{'s' * (near > 1)} overlap with it" if near else ""
        score = interval_text(metric.name, scores(groups[winner], metric.name))
        lines += [f"Best setting by {metric.name} ({lower} is better): {cell(named)}, {score}{unit}{shared}."]
    seed = f" (seed {top.seed})" if top.seed is not None else ""
    lines += [f"Best run: {_place(top)}{seed}, {number(metric.name, top.values[metric.name])}{unit}."]
    command = rerun_command(top, flags)
    return "\n".join([*lines, *([f"Run it again:\n\n    {command}"] if command else [])]) + "\n"


def _place(run: Run) -> str:
    """Where a run is; where no model of it is kept, its key."""
    folder = Path(run.where)
    if not folder.is_dir() or any((folder / part).is_dir() for part in ("adapter", "model")):
        return cell(run.where)
    return f"key {key_of(run.config)}, of which a results file has the numbers and nobody the model"


def rerun_command(run: Run, flags: Sequence[str] = ()) -> str:
    """The command that repeats a run in a directory of its own; "" where only a row of it is left.

    Args:
        flags: --config-dir and the like of the sweep.
    """
    alone = ["results=null", "hydra.mode=RUN"]
    if run.overrides is not None:
        skipped = ("results=", "resume=", "hydra.", "hydra/")
        kept = [o for o in run.overrides if not o.lstrip("+").startswith(skipped)]
        return shlex.join(["python", "-m", "uedpo.run", *flags, *kept, *alone])
    return ""


def scenes_text(runs: Sequence[Run], split: str) -> str:
    """How many scenes of which split the rows of results count; "" where there are no rows."""
    counts: list[dict[str, Any]] = [run.row["counts"] for run in runs if run.row]
    found = [c[split]["scenes"] for c in counts if split in c]
    return f"; {max(found)} {SPLITS[split].lower()}" if found else ""
