"""Runs grouped by the parameters they differ in, and their scores over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from uedpo.errors import InputError
from uedpo.results.keys import differing, flat, moves_results, value_of
from uedpo.results.metrics import Metric
from uedpo.results.runs import Run, is_base
from uedpo.results.statistics import mean_interval

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
            pairs = [f"{key}={v}" if v else f"no {key}" for key, v in zip(by, name, strict=True)]
            of = f" of {', '.join(pairs)}" if any(name) else ""
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


def base_of(runs: Sequence[Run]) -> dict[str, float]:
    """Metrics of the untrained model, where any run has them."""
    of_file = next((run.values for run in runs if is_base(run)), None)
    return of_file or next((run.base for run in runs if run.base), {})
