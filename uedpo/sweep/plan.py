"""What a sweep will run, read from its composed configuration: how many trials, how many at a time."""

from __future__ import annotations

import math
import os
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig


def sweep_overrides(cfg: DictConfig) -> list[Override]:
    """Overrides of the sweeper's own parameters, then of the command line; the later of two with one key."""
    sweeper = cfg.hydra.sweeper
    own = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*own, *cfg.hydra.overrides.task])
    return list({override.key_or_group: override for override in parsed}.values())


def swept_keys(cfg: DictConfig) -> list[str]:
    return [str(o.key_or_group) for o in sweep_overrides(cfg) if o.is_sweep_override()]


def is_grid(cfg: DictConfig) -> bool:
    """Whether every combination is known before the first trial."""
    return str(cfg.hydra.sweeper.get("_target_", "")).endswith("BasicSweeper")


def trial_count(cfg: DictConfig) -> int | None:
    """Trials of the whole sweep; None where the sweeper does not say."""
    if is_grid(cfg):
        return math.prod(
            len(list(o.sweep_string_iterator())) for o in sweep_overrides(cfg) if o.is_discrete_sweep()
        )
    total = cfg.hydra.sweeper.get("n_trials")
    return int(total) if total is not None else None


def jobs(cfg: DictConfig) -> int:
    """Trials that run at a time."""
    launcher = cfg.hydra.launcher
    at_a_time: Any = launcher.get("n_jobs", launcher.get("array_parallelism"))
    if at_a_time is None:
        local = str(launcher.get("_target_", "")).endswith("LocalLauncher")  # starts all at once
        at_a_time = (trial_count(cfg) or 1) if local else 1
    if at_a_time < 0:  # joblib: all processors but so many
        at_a_time = max((os.cpu_count() or 1) + 1 + at_a_time, 1)
    offered = [at_a_time, cfg.hydra.sweeper.get("n_jobs"), trial_count(cfg)]
    return min(int(n) for n in offered if n is not None)
