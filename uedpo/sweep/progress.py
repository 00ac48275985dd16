"""How far a sweep is: one bar on a terminal, elsewhere and in CI a plain line for each trial that ends."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from uedpo.runtime.progress import interactive
from uedpo.runtime.say import say
from uedpo.sweep.journal import Sweep, read, shown

_WIDTH = 24
_CLEAR = "\r\x1b[K"


def remaining(sweep: Sweep) -> float | None:
    """Seconds until the newest command ends: median of its trials x those to go / those at a time.

    None where no trial of it has run to its end yet, or nobody knows how many there are.
    """
    if sweep.total is None or not sweep.seconds:
        return None
    return statistics.median(sweep.seconds) * max(sweep.total - sweep.ended, 0) / max(sweep.jobs, 1)


def duration(seconds: float) -> str:
    """As one says it: 40 s, 12 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def line(sweep: Sweep, key: str) -> str:
    """What became of a trial that has just ended, and how far the sweep is."""
    trial, event = sweep.trials[key], sweep.touched[key]
    what = {
        "finish": f"finished in {duration(trial.seconds or 0)}",
        "stored": f"skipped, {trial.reason}",
        "skip": "skipped, it was finished before",
        "fail": f"FAILED: {trial.reason}",
    }[event]
    of = f"/{sweep.total}" if sweep.total is not None else ""
    left = remaining(sweep)
    ahead = f"; about {duration(left)} left" if left else ""
    return f"[{sweep.ended}{of}] {trial.folder}: {shown(trial.overrides, sweep.swept)}: {what}{ahead}"


def bar(sweep: Sweep) -> str:
    """One line to redraw while trials run."""
    total = sweep.total or sweep.ended
    full = round(_WIDTH * sweep.ended / total) if total else 0
    failed = sum(event == "fail" for event in sweep.touched.values())
    left = remaining(sweep)
    parts = [
        f"{sweep.ended}/{sweep.total if sweep.total is not None else '?'} trials",
        *([f"{failed} failed"] if failed else []),
        f"about {duration(left)} left" if left is not None else "no trial has ended yet",
    ]
    return f"[{'#' * full}{'.' * (_WIDTH - full)}] {', '.join(parts)}"


def draw(folder: Path) -> None:
    """Redraw the bar; nothing where nobody looks."""
    if interactive():
        say(bar(read(folder)), start=_CLEAR, end="", file=sys.stderr, flush=True)


def tell(folder: Path, key: str) -> None:
    """Print the line of a trial that has ended; on a terminal only where it failed."""
    sweep = read(folder)
    if not interactive():
        say(line(sweep, key), flush=True)
        return
    failed = sweep.touched[key] == "fail"
    said = line(sweep, key) if failed else ""
    say(said, start=_CLEAR, end="\n" * failed, file=sys.stderr, flush=True)
