"""`trials.jsonl` in a sweep's folder: one line for each thing that happened to a trial.

Lines are only ever added, each in one write, by any number of processes. What a trial is now follows
from its lines; a trial that began and has no end was killed with its sweep, or is running.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uedpo.errors import InputError
from uedpo.runtime.lines import append_line, whole_lines
from uedpo.runtime.small_json import loads

NAME = "trials.jsonl"
STATES = {
    "begin": "running",
    "finish": "finished",
    "stored": "finished",
    "skip": "finished",
    "fail": "failed",
}


@dataclass
class Trial:
    """A trial as its lines leave it; `seconds` of the run that finished it, None where nothing ran."""

    key: str
    folder: str
    overrides: list[str]
    state: str
    seconds: float | None = None
    reason: str = ""


@dataclass
class Sweep:
    """All trials of a folder by key, and what the newest command on it has done so far.

    `total` of that command is None where nobody knows, `swept` are the keys that it varies; `touched`, key
    of a trial to its last event, is what it came to, `seconds` are those of the trials it ran to their end.
    """

    trials: dict[str, Trial] = field(default_factory=dict)
    total: int | None = None
    jobs: int = 1
    flags: list[str] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)
    touched: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    @property
    def ended(self) -> int:
        """Trials that the newest command is done with."""
        return sum(event != "begin" for event in self.touched.values())


def write(folder: Path, event: str, **fields: Any) -> None:
    """Add one line.

    Raises:
        InputError: no room; the file is as it was.
    """
    append_line(folder / NAME, {"event": event, "time": round(time.time(), 3), **fields})


def read(folder: Path) -> Sweep:
    """The state that the lines of `folder` add up to; no file: nothing has happened yet.

    Raises:
        InputError: a line that is none of ours.
    """
    sweep = Sweep()
    path = folder / NAME
    if not path.is_file():
        return sweep
    for number, line in whole_lines(path, "event"):
        try:
            _add(sweep, loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{path}:{number}: not a line of a sweep; remove it") from None
    return sweep


def _add(sweep: Sweep, line: dict[str, Any]) -> None:
    event = line["event"]
    if event == "sweep":
        sweep.total, sweep.jobs = line["total"], line["jobs"]
        sweep.flags, sweep.swept = line["flags"], line["swept"]
        sweep.touched, sweep.seconds = {}, []
        return
    key = line["key"]
    known = sweep.trials.get(key)
    if event == "skip" and known is not None:
        sweep.touched[key] = event
        return
    sweep.trials[key] = Trial(
        key, line["trial"], line["overrides"], STATES[event], line.get("seconds"), line.get("reason", "")
    )
    sweep.touched[key] = event
    if event == "finish":
        sweep.seconds.append(line["seconds"])


def place(sweep: Sweep, key: str, wanted: str) -> str:
    """The folder of a trial: the one it had, else `wanted`, else a new one where another trial has that."""
    if key in sweep.trials:
        return sweep.trials[key].folder
    taken = {trial.folder for trial in sweep.trials.values()}
    return f"{wanted}_{key[:6]}" if wanted in taken else wanted


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other trial looks for its place in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".trials.lock").open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def shown(overrides: Sequence[str], swept: Sequence[str]) -> str:
    """Those of a trial's overrides that set `swept` keys; all of them where none does."""
    chosen = [o for o in overrides if o.partition("=")[0].lstrip("+") in swept]
    return " ".join(chosen or overrides)
