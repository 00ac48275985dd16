"""What a sweep will run, read from its composed configuration: how many trials, how many at a time, and
whether launcher, sweeper and trials go together."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from uedpo.results.metrics import DEFAULTS, known_mode
from uedpo.runtime.ranks import launch_problems as launch_mismatch
from uedpo.runtime.ranks import world_size


def sweep_overrides(cfg: DictConfig) -> list[Override]:
    """Overrides of the sweeper's own parameters, then of the command line; the later of two with one key."""
    return _overrides(cfg.hydra)


def _overrides(hydra: DictConfig) -> list[Override]:
    own = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*own, *hydra.overrides.task])
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


def launch_problems(cfg: DictConfig, hydra: DictConfig) -> list[str]:
    """One line for each reason why these trials cannot run with this launcher and sweeper.

    Args:
        cfg: of the sweep, or of one of its trials.
        hydra: Hydra's own part.
    """
    return [*_devices(cfg, hydra), *_ranks(hydra), *_search(cfg, hydra)]


def _ends(node: DictConfig, name: str) -> bool:
    return str(node.get("_target_", "")).endswith(name)


def _devices(cfg: DictConfig, hydra: DictConfig) -> Iterator[str]:
    trainer, launcher = cfg.trainer, hydra.launcher
    devices = (trainer.get("devices") or 1) * (trainer.get("num_nodes") or 1)
    if devices > 1 and world_size() == 1:
        yield (
            f"trainer.devices={trainer.get('devices')}: each rank would start the sweep again; start the "
            f"ranks around it: torchrun --nproc-per-node {devices} -m uedpo.run ... hydra/launcher=basic "
            "hydra.sweep.dir=DIR"
        )
    else:
        yield from launch_mismatch(trainer)
    if trainer.get("accelerator") != "gpu":
        return
    if _ends(launcher, "JoblibLauncher") and launcher.get("n_jobs") != 1:
        yield (
            f"hydra.launcher.n_jobs={launcher.get('n_jobs')}: trials that run at a time would share one GPU; "
            "set hydra.launcher.n_jobs=1"
        )
    if _ends(launcher, "LocalLauncher"):
        yield (
            "hydra/launcher=submitit_local: starts all trials at once, on one GPU; use hydra/launcher=basic, "
            "or submitit_slurm with hydra.launcher.gpus_per_node=1"
        )


def _ranks(hydra: DictConfig) -> Iterator[str]:
    if world_size() == 1:
        return
    if not _ends(hydra.launcher, "BasicLauncher"):
        yield "torchrun and a launcher that starts processes do not go together; add hydra/launcher=basic"
    if not _ends(hydra.sweeper, "BasicSweeper"):
        yield "torchrun: each rank would search by itself; add hydra/sweeper=basic, and give a grid"
    if not any(o.lstrip("+").startswith("hydra.sweep.dir=") for o in hydra.overrides.hydra):
        yield "torchrun: the ranks' clocks would name different directories; add hydra.sweep.dir=DIR"


def _search(cfg: DictConfig, hydra: DictConfig) -> Iterator[str]:
    """Rules of sweeps that are no grid."""
    sweeper = hydra.sweeper
    swept = [o for o in _overrides(hydra) if o.is_sweep_override()]
    if _ends(sweeper, "BasicSweeper"):
        for override in swept:
            if not override.is_discrete_sweep():
                yield f"{override.input_line}: a grid has no such values; add hydra/sweeper=optuna"
        return
    seeds = [o.input_line for o in swept if str(o.key_or_group).rsplit(".", 1)[-1] == "seed"]
    if seeds:
        yield f"{seeds[0]}: a search would look for the luckiest seed; give one, as in seed=0"
    if not _ends(sweeper, "OptunaSweeper"):
        return
    direction = sweeper.get("direction")
    direction = str(getattr(direction, "name", direction))
    mode = cfg.get("mode") or known_mode(cfg.get("metric") or DEFAULTS[0]) or "min"
    wanted = {"min": "minimize", "max": "maximize"}[mode]
    if direction != wanted:
        yield (
            f"hydra.sweeper.direction={direction}: metric={cfg.get('metric') or 'null'} wants {wanted}; add "
            f"hydra.sweeper.direction={wanted}"
        )
    sampler = sweeper.get("sampler") or {}
    if sweeper.get("storage") and str(sampler.get("_target_")).endswith("CmaEsSampler"):
        yield "hydra.sweeper.storage: the sampler cmaes would keep pickles in it; leave the storage out"
