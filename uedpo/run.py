"""Train and evaluate what the command line asks for: `python -m uedpo.run [key=value ...]`.

What Hydra needs and no more: the run itself is `uedpo.experiment.Experiment`.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import NoReturn

from uedpo.runtime import preemption

if __name__ == "__main__":
    preemption.install()  # before the imports below, which take seconds

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from uedpo.config.overrides import BAD_COMMAND_LINE, check_command_line, conf_folder
from uedpo.config.validate import validate
from uedpo.data.rejects import TooManyRejected, write_rejected
from uedpo.errors import ConfigError, GuardError, InputError, Stopped, plain_line, stop_on
from uedpo.results.keys import base_config, key_of, trial_config
from uedpo.results.runs import objective
from uedpo.results.store import OWN_ROWS, check_appendable, read_rows, write_rows
from uedpo.runtime import redact
from uedpo.runtime.atomic import write_json
from uedpo.runtime.lock import held
from uedpo.runtime.ranks import folder_problems, launch_problems, rank, world_size
from uedpo.sweep.summary import SUMMARY, end_sweep, sweep_exit_code
from uedpo.sweep.trial import run_trial


def run(cfg: DictConfig) -> str | None:
    """One experiment; returns why there was nothing to do, or None."""
    redact.install()
    validate(cfg)
    stop_on(launch_problems(cfg.trainer))
    preemption.imported()
    folder = Path(HydraConfig.get().runtime.output_dir)
    with held(folder) if rank() == 0 else contextlib.nullcontext():
        stored = use_stored(cfg, folder)
        if stored is None:
            # they import Lightning, which a stored trial does without
            from uedpo.experiment import Experiment
            from uedpo.logger.wandb import closing

            sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
            shared = Path(HydraConfig.get().sweep.dir) if sweeps else None
            with closing():
                Experiment.from_config(cfg, folder, shared).run()
    return stored


def use_stored(cfg: DictConfig, folder: Path) -> str | None:
    """Write what the results file has of this trial to `folder`, and say so; None where it has nothing.

    Raises:
        InputError: a file that cannot be written, a broken line, or a run without an evaluation.
    """
    if not cfg.get("results"):
        return None
    if "_target_" not in cfg.evaluation:
        raise InputError(f"results={cfg.results}: evaluation=none measures nothing to store; choose another")
    check_appendable(Path(cfg.results))
    rows = read_rows(Path(cfg.results))
    row, base = rows.get(key_of(trial_config(cfg))), rows.get(key_of(base_config(cfg)))
    if row is None:
        return None
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    write_rows(folder / OWN_ROWS, [r for r in (base, row) if r is not None])
    metrics = {"before": base["metrics"] if base else None, "after": row["metrics"]}
    write_json(folder / "metrics.json", metrics)
    stored = f"{cfg.results} has this trial (key {row['key']}, commit {row['commit']})"
    print(f"skipped: {stored}")
    return stored


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
def _job(cfg: DictConfig) -> float | None:
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        _one(cfg)
        return None
    redact.install()  # in launchers' processes too
    folder = run_trial(cfg, _one)
    try:
        return objective(folder, cfg.get("metric"), cfg.get("mode")) if folder else None
    except InputError as error:  # before all trials have trained for a metric that none has
        _stop(error)


def _one(cfg: DictConfig) -> str | None:
    """`run`; bad input is one line and an exit code."""
    try:
        return run(cfg)
    except ConfigError as error:
        _stop(error)
    except InputError as error:
        _stop(error)
    except GuardError as error:
        _stop(error, 3)
    except InstantiationException as error:
        if not isinstance(error.__cause__, (ValueError, ImportError, OSError)):
            raise
        _stop(error.__cause__)
    except Exception as error:
        if world_size() > 1:  # before the tracebacks of all ranks
            line = str(error).strip().splitlines()[:1]
            print(f"rank {rank()} stopped: {type(error).__name__}: {' '.join(line)}", file=sys.stderr)
        raise


def _stop(error: BaseException, code: int = 2) -> NoReturn:
    if isinstance(error, TooManyRejected) and HydraConfig.initialized():
        write_rejected(Path(HydraConfig.get().runtime.output_dir) / "rejected.jsonl", error.rejected)
    print(plain_line(error), file=sys.stderr)
    raise Stopped(plain_line(error), code)


def main() -> None:
    """Entry point: exit code 0 done, 2 bad configuration or input, 3 guard, 4 failed trials, 75 preempted."""
    preemption.install()
    redact.install()
    arguments = get_args_parser().parse_args()
    try:
        check_command_line(arguments)
        stop_on(folder_problems(arguments.overrides))
    except BAD_COMMAND_LINE as error:
        _stop(error)
    if arguments.config_path or arguments.config_name:  # a saved configuration has nothing of Hydra's
        sys.argv.append(f"++hydra.callbacks.summary._target_={SUMMARY}")
    if rank():  # rank 0's notes and log are those of the run
        sys.argv += ["hydra.output_subdir=null", "hydra/job_logging=stdout"]
    try:
        _job()
    except SystemExit as error:
        if error.code == 1:  # the sweeper itself gave up: what its trials did is told all the same
            end_sweep()
        raise
    sys.exit(sweep_exit_code())


if __name__ == "__main__":
    main()
