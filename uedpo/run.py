"""Train and evaluate what the command line asks for: `python -m uedpo.run [key=value ...]`.

  key=value            any key of the configuration; --cfg job prints what a command line makes of it
  GROUP=NAME           a file of a group below; +GROUP=NAME for experiment, method, recipe, sweep and tuned
  -m key=A,B           a sweep: one run for each combination
Exit code 0: done; 2: bad configuration or input; 3: numbers that are not finite; 4: trials of a sweep failed;
75: told to stop, run the same command again. The run itself is `uedpo.experiment.Experiment`.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any, NoReturn

from uedpo.runtime import preemption

if __name__ == "__main__":
    preemption.install()  # before the imports below, which take seconds

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig

from uedpo.config.choices import conf_folder, groups
from uedpo.config.flags import check_flags, command_line_parser, flags_first
from uedpo.config.overrides import BAD_COMMAND_LINE, check_command_line
from uedpo.config.validate import validate
from uedpo.errors import (
    ConfigError,
    GuardError,
    InputError,
    Stopped,
    os_line,
    plain_line,
    stop_on,
)
from uedpo.results.keys import base_config, key_of, trial_config
from uedpo.results.runs import accept, check_free, finished, objective
from uedpo.results.store import OWN_ROWS, append_row, check_appendable, read_rows, write_rows
from uedpo.runtime import redact
from uedpo.runtime.atomic import UNWRITABLE, unwritable, write_json
from uedpo.runtime.folders import unmake
from uedpo.runtime.hub import check_present
from uedpo.runtime.lock import held
from uedpo.runtime.ranks import folder_problems, launch_problems, rank, world_size
from uedpo.runtime.say import say
from uedpo.sweep.summary import SUMMARY, end_sweep, sweep_exit_code
from uedpo.sweep.trial import run_trial


def run(cfg: DictConfig) -> str | None:
    """One experiment; returns why there was nothing to do, or None."""
    redact.install()
    validate(cfg)
    stop_on(launch_problems(cfg.trainer))
    check_present(cfg.model.get("path"), cfg.model.get("revision"))
    preemption.imported()
    folder = Path(HydraConfig.get().runtime.output_dir)
    overrides = list(HydraConfig.get().overrides.task)
    with held(folder, signed=False) if rank() == 0 else contextlib.nullcontext():
        stored = use_stored(cfg, folder, overrides)
        if stored is None:
            with preemption.importing():  # Lightning among others, which a stored trial does without
                from uedpo.experiment import Experiment
                from uedpo.logger.wandb import closing

            sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
            shared = Path(HydraConfig.get().sweep.dir) if sweeps else None
            with closing():
                Experiment.from_config(cfg, folder, shared, overrides).run()
    return stored


def use_stored(cfg: DictConfig, folder: Path, overrides: list[str]) -> str | None:
    """What there is of this trial, in its folder or in the results file, is not trained again, and that is
    said; None where there is nothing, or less than a run leaves.

    Raises:
        InputError: a file that cannot be written, a broken line, a run without an evaluation, or a folder
            that holds a finished run.
    """
    key, rows, results = key_of(trial_config(cfg)), {}, cfg.get("results")
    if results:
        rows = _rows_to_add_to(cfg)
    row, base = rows.get(key), rows.get(key_of(base_config(cfg)))
    said = f"{results} has this trial (key {key}, commit {row['commit']})" if row else ""
    own = finished(folder) == key
    if (folder / "checkpoints").is_dir():
        # what was begun here is finished here: its adapter and report are in no row
        if not (row and own and any(folder.glob("*/*.safetensors"))):
            return None
    elif not own and row:
        check_free(folder, key)
        if rank() == 0:
            accept(cfg, folder, overrides)
            write_rows(folder / OWN_ROWS, [r for r in (base, row) if r is not None])
            metrics = {"before": base["metrics"] if base else None, "after": row["metrics"]}
            write_json(folder / "metrics.json", metrics)
    elif not own or not (row or cfg.get("resume") == "auto"):
        return None
    if own and rank() == 0:
        _add_what_is_left_out(folder, None if row or not results else Path(results))
    said = said or f"{folder} holds this trial, finished"
    say(f"skipped: {said}")
    return said


def _rows_to_add_to(cfg: DictConfig) -> dict[str, dict[str, Any]]:
    if "_target_" not in cfg.evaluation:
        raise InputError(f"results={cfg.results}: evaluation=none measures nothing to store; choose another")
    check_appendable(Path(cfg.results))
    return read_rows(Path(cfg.results))


def _add_what_is_left_out(folder: Path, results: Path | None) -> None:
    """What a run that was stopped after its last measurement has not written: its report, its row."""
    if not (folder / "report.html").is_file():
        from uedpo.report.page import write_report

        say(f"open {write_report(folder)}")
    if results is not None:
        for row in read_rows(folder / OWN_ROWS).values():
            append_row(results, row)


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
    except OSError as error:
        _stop(
            unwritable(Path(error.filename or HydraConfig.get().runtime.output_dir), error)
            if error.errno in UNWRITABLE
            else InputError(os_line(error))
        )
    except Exception as error:
        if world_size() > 1:  # before the tracebacks of all ranks
            line = str(error).strip().splitlines()[:1]
            say(f"rank {rank()} stopped: {type(error).__name__}: {' '.join(line)}", file=sys.stderr)
        raise


def _stop(error: BaseException, code: int = 2) -> NoReturn:
    unmake()
    say(plain_line(error), file=sys.stderr)
    raise Stopped(plain_line(error), code)


def main() -> None:
    """Entry point: exit code 0 done, 2 bad configuration or input, 3 guard, 4 failed trials, 75 preempted."""
    preemption.install()
    redact.install()
    try:
        check_flags(sys.argv[1:])
        sys.argv[1:] = flags_first(sys.argv[1:])
        arguments = command_line_parser().parse_args()
        if arguments.hydra_help:  # Hydra's own lists flags that do nothing here
            command_line_parser().print_usage()
            sys.exit()
        if arguments.help:
            say(f"{__doc__}\n{groups()}")
            sys.exit()
        check_command_line(arguments)
        stop_on(folder_problems(arguments.overrides))
    except BAD_COMMAND_LINE as error:
        _stop(error)
    if arguments.config_path or arguments.config_name:  # a saved configuration has nothing of Hydra's
        own = (f"++hydra.callbacks.summary._target_={SUMMARY}", "hydra.output_subdir=null")
        # Hydra would write before a command is accepted
        sys.argv += [*own, "hydra/job_logging=stdout"]
    try:
        _job()
    except SystemExit as error:
        if error.code == 1:  # the sweeper itself gave up: what its trials did is told all the same
            end_sweep()
        raise
    sys.exit(sweep_exit_code())


if __name__ == "__main__":
    main()
