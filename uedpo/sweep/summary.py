"""Begins and ends a sweep: journal, exit code, and at the end a table, a plot and what to run again."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from uedpo.errors import ANOTHER_FOLDER, InputError
from uedpo.report.summary import best_text, table
from uedpo.report.tables import cell
from uedpo.results.runs import Run, choose_metric, read_run
from uedpo.results.settings import base_of, columns, parameters, settings
from uedpo.runtime import preemption
from uedpo.runtime.atomic import replace
from uedpo.runtime.folders import make, unmake
from uedpo.runtime.lock import held, sign
from uedpo.runtime.ranks import rank
from uedpo.runtime.say import say
from uedpo.sweep.journal import Sweep, Trial, read, shown, write
from uedpo.sweep.trial import LOG
from uedpo.sweep.trials import jobs, launch_problems, swept_keys, trial_count

SUMMARY = "uedpo.sweep.summary.SweepSummary"
EXIT_FAILED = 4
_exit_codes: list[int] = []
_open: list[tuple[SweepSummary, DictConfig]] = []
_locks = contextlib.ExitStack()  # until this process ends


def sweep_exit_code() -> int:
    """0, or what the sweep of this process ended with."""
    return max(_exit_codes, default=0)


def end_sweep() -> None:
    """The summary of a sweep that began and has not had one."""
    for callback, config in list(_open):
        callback.on_multirun_end(config)


class SweepSummary(Callback):
    """Hydra callback: opens the journal of a sweep, and writes summary.md and its plots in the end.

    Args:
        split: of the evaluation.
    """

    def __init__(self, split: str = "shift") -> None:
        self.split = split

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the directory of a single run before Hydra does, so that a refused command can unmake it."""
        try:
            make(Path(config.hydra.run.dir))
        except InputError as error:
            say(error, file=sys.stderr)
            sys.exit(2)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        problems = launch_problems(config, config.hydra)
        first = rank() == 0
        if problems:
            say("\n".join(problems if first else []), file=sys.stderr)
            sys.exit(2)
        if not first:
            return
        folder = Path(config.hydra.sweep.dir)
        try:
            check_sweep_folder(folder)
            read(folder)  # what cannot be read is refused before a lock is made beside it
            _locks.enter_context(held(folder, signed=False))
            known = read(folder).trials
            sign(folder)
        except InputError as error:
            _locks.close()
            unmake()
            say(str(error).replace("hydra.run.dir", "hydra.sweep.dir"), file=sys.stderr)
            sys.exit(2)
        _open.append((self, config))
        write(
            folder, "sweep", total=trial_count(config), jobs=jobs(config), swept=swept_keys(config),
            flags=_flags(sys.argv[1:]),
        )  # fmt: skip
        preemption.go_on_with(f"hydra.sweep.dir={folder}")
        if known:
            done = sum(trial.state == "finished" for trial in known.values())
            say(f"{folder}: {done} of its trials are finished and stay; others run again")
        else:
            say(f"to go on after a stop: the same command with hydra.sweep.dir={folder}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if rank():
            return
        _open.clear()
        folder = Path(config.hydra.sweep.dir)
        sweep = read(folder)
        unfinished = [t for key in sweep.touched if (t := sweep.trials[key]).state != "finished"]
        _exit_codes.append(EXIT_FAILED if unfinished else 0)
        try:
            text = summary(folder, sweep, unfinished, config.get("metric"), config.get("mode"), self.split)
        except InputError as error:
            say(error, file=sys.stderr)
            _exit_codes.append(2)
            text = failures(folder, sweep, unfinished)
        replace(folder / "summary.md", lambda file: file.write(text.encode()))
        shown = "\n".join(line for line in text.splitlines() if not line.startswith("!["))
        say(f"\n{shown}\nsummary: {folder}/summary.md")


def check_sweep_folder(folder: Path) -> None:
    """Refuse a folder that a single run has filled.

    Raises:
        InputError: another folder is needed.
    """
    if (folder / "config.yaml").is_file():
        raise InputError(f"{folder}: is the directory of a run; {ANOTHER_FOLDER}")


def summary(
    folder: Path, sweep: Sweep, unfinished: Sequence[Trial], metric: str | None, mode: str | None, split: str
) -> str:
    """Text of summary.md; writes the plots.

    Raises:
        InputError: finished trials that cannot be read, or none of which has the metric.
    """
    from uedpo.report.plots import write_plots

    runs = trial_runs(folder, sweep)
    earlier = len(sweep.trials) - len(runs) - len(unfinished)  # of another grid in this directory
    left = f", {earlier} that this command does not ask for did not finish" * (earlier > 0)
    skipped = min(len(runs), sum(event in ("stored", "skip") for event in sweep.touched.values()))
    ran = f"{len(runs) - skipped} finished" + f", {skipped} skipped (had before)" * bool(skipped)
    head = f"{len(sweep.trials)} trials: {ran}, {len(unfinished)} failed{left}.\n"
    if not runs:
        return head + failures(folder, sweep, unfinished)
    by = parameters(runs)
    groups = settings(runs, by)
    chosen = choose_metric(runs, metric, mode, split)
    names = columns(runs, chosen, split)
    base = base_of(runs)
    plots = write_plots(groups, by, chosen, names, base, folder / "summary")
    pictures = "".join(f"![{path.stem}]({path.name})\n" for path in plots)
    parts = [
        head + "Mean and 95 % t interval over seeds.\n",
        table(groups, by, names, base),
        best_text(groups, by, chosen, sweep.flags),
        failures(folder, sweep, unfinished),
        pictures,
    ]
    return "\n".join(part for part in parts if part)


def trial_runs(folder: Path, sweep: Sweep) -> list[Run]:
    """The finished trials, in the order in which they first began.

    Raises:
        InputError: one that cannot be read.
    """
    runs = [read_run(folder / t.folder, t.overrides) for t in sweep.trials.values() if t.state == "finished"]
    return [run for run in runs if run is not None]


def failures(folder: Path, sweep: Sweep, unfinished: Sequence[Trial]) -> str:
    """One line for each trial that did not finish: which, why, and where its output is."""
    if not unfinished:
        return ""
    lines = [
        f"- {cell(t.folder)} ({cell(shown(t.overrides, sweep.swept))}): "
        f"{cell(t.reason or 'no end recorded: killed with its launcher, or still running')}; "
        f"log: {cell(folder / t.folder / LOG)}"
        for t in unfinished
    ]
    return "Failed (the same command tries these again):\n\n" + "\n".join(lines) + "\n"


def _flags(arguments: Sequence[str]) -> list[str]:
    """Those that say where configurations are."""
    long, short = ("--config-path", "--config-name", "--config-dir"), ("-cp", "-cn", "-cd")
    kept: list[str] = []
    for at, argument in enumerate(arguments):
        if argument in (*long, *short):
            kept += arguments[at : at + 2]
        elif argument.startswith(tuple(f"{name}=" for name in long)):
            kept.append(argument)
    return kept
