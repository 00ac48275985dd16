"""Differences between settings on the same scenes and seeds, with paired-bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from uedpo.errors import InputError
from uedpo.results.keys import differing
from uedpo.results.runs import Run, is_base
from uedpo.results.settings import HEADLINES, Name, Settings
from uedpo.results.statistics import CAPTION_RATIOS, paired_bootstrap
from uedpo.results.store import unpack
from uedpo.runtime.progress import tracked

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
