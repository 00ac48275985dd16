"""Runs as a table: the parameters they differ in, what each setting scores over its seeds, the best."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from uedpo.errors import InputError
from uedpo.metrics import mean_interval
from uedpo.report.page import SPLITS, cell
from uedpo.report.runs import Metric, Run, is_base, number, per_cent, title
from uedpo.results import BASE, differing, flat, moves_results, value_of

HEADLINES = ("chair_i", "chair_s", "coverage", "small_coverage", "attribute_accuracy", "pope_accuracy")
TRAINED = ("val/loss", "val/margin", "val/accuracy", "train/loss")  # shown where nothing was evaluated
MOST = 6  # keys that a message names
PRESETS = ("method", "tuned")  # groups of conf/ that set several keys under one name
Name = tuple[str, ...]  # values of the parameters that tell settings apart
Settings = dict[Name, list[Run]]


def parameters(runs: Sequence[Run]) -> list[str]:
    """Keys in which `runs` differ, other than their seeds: those their command lines set to different
    values, else those of their configurations. Presets of conf/method/ and conf/tuned/ count as "method".
    """
    if runs and all(run.overrides is not None for run in runs):
        return _overridden([_pairs(run) for run in runs])
    keys = [k for k in differing([run.config for run in runs], ["method"]) if not _is_seed(k)] if runs else []
    methods = [value_of(run.config, "method") for run in runs]
    if len(set(methods)) < 2:
        return keys
    # what follows from the method is not a second parameter
    leaves = [flat(run.config) for run in runs]
    pairs = {k: {(m, str(f.get(k))) for m, f in zip(methods, leaves, strict=True)} for k in keys}
    return ["method", *(k for k in keys if len(pairs[k]) > len(set(methods)))]


def _pairs(run: Run) -> dict[str, str]:
    pairs = (override.lstrip("+").partition("=")[::2] for override in run.overrides or [])
    return {"method" if key in PRESETS else key: value for key, value in pairs}


def _overridden(pairs: Sequence[Mapping[str, str]]) -> list[str]:
    keys = list(dict.fromkeys(key for one in pairs for key in one))
    keys = [k for k in keys if moves_results(k) and not _is_seed(k)]
    return [k for k in keys if len({one.get(k) for one in pairs}) > 1]


def _is_seed(key: str) -> bool:
    return key.rsplit(".", 1)[-1] == "seed"


def value(run: Run, key: str) -> str:
    """A parameter's value: the configuration's, for a group the name of its file, "" for neither."""
    found = value_of(run.config, key)
    if isinstance(found, Mapping):
        return _pairs(run).get(key, "") if run.overrides else str(found.get("_target_", ""))
    return str(found) if found != "" else _pairs(run).get(key, "")


def short(value: str) -> str:
    """A parameter's value for a table: numbers to four digits."""
    try:
        return value if len(value) < 8 else f"{float(value):.4g}"
    except ValueError:
        return value


def settings(runs: Sequence[Run], by: Sequence[str]) -> Settings:
    """Runs of each setting in the order of their seeds; the untrained model is left out.

    Raises:
        InputError: runs of one setting that differ in more than the seed.
    """
    groups: Settings = {}
    for run in runs:
        if not is_base(run):
            groups.setdefault(tuple(value(run, key) for key in by), []).append(run)
    for name, group in groups.items():
        keys = differing([run.config for run in group], ["seed"])
        if keys:
            of = f" of {', '.join(name)}" if any(name) else ""
            named = ", ".join(keys[:MOST]) + f" and {len(keys) - MOST} more" * (len(keys) > MOST)
            raise InputError(
                f"{len(group)} runs{of} differ in {named}: add it to --by, or choose one with "
                f"--where {keys[0]}=VALUE"
            )
        group.sort(key=lambda run: run.seed or 0)
    return groups


def columns(runs: Sequence[Run], metric: Metric, split: str) -> list[str]:
    """Metrics to show: the one asked for, and the headlines of the evaluation or of training."""
    names = [f"{split}/{name}" for name in HEADLINES]
    if not any(name in run.values for run in runs for name in names):
        names = [name for name in TRAINED if any(name in run.values for run in runs)]
    return names if metric.name in names else [metric.name, *names]


def scores(runs: Sequence[Run], name: str) -> list[float]:
    """The metric of those runs that have it."""
    return [run.values[name] for run in runs if name in run.values]


def finite_means(groups: Settings, name: str) -> dict[Name, tuple[float, float]]:
    """Setting -> mean and half width of a metric over seeds, of those whose mean is a number to rank."""
    means = {setting: mean_interval(found) for setting, g in groups.items() if (found := scores(g, name))}
    return {setting: found for setting, found in means.items() if math.isfinite(found[0])}


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


def base_of(runs: Sequence[Run]) -> dict[str, float]:
    """Metrics of the untrained model, where any run has them."""
    of_file = next((run.values for run in runs if is_base(run)), None)
    return of_file or next((run.base for run in runs if run.base), {})


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
    lines += [f"Best run: {cell(top.where)}{seed}, {number(metric.name, top.values[metric.name])}{unit}."]
    command = rerun_command(top, flags)
    return "\n".join([*lines, *([f"Run it again:\n\n    {command}"] if command else [])]) + "\n"


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
