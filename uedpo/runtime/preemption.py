"""SIGTERM and SIGINT as a request to stop, heard from the first moment of the process on.

Only the standard library is imported here and there: the handler has to be in place before torch is, whose
import takes seconds. While a run trains, the handler sets a flag, which `uedpo.callbacks.preemption` reads
after each optimiser step; at any other time there is nothing to save and the process leaves at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from uedpo.runtime.ranks import world_size
from uedpo.runtime.say import say

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again
EXIT_KILLED = 128 + signal.SIGINT

_requested: list[int] = []  # signals so far
_deferred = False
_importing = True  # from the start of the process
_remedy = ""


class Preempted(SystemExit):
    """Leaves the process with exit code 75."""

    def __init__(self, saved: str) -> None:
        super().__init__(EXIT_PREEMPTED)
        name = signal.Signals(_requested[0]).name if _requested else "a signal to another rank"
        say(f"preempted by {name}: {saved}{_remedy}; exit code {EXIT_PREEMPTED}", file=sys.stderr, flush=True)


def install() -> None:
    """Handle SIGTERM and SIGINT from now on; Lightning puts its own handler in place, so call again then.

    Ranks of a distributed run wait for each other before they train, so there the request always waits
    for the first step.
    """
    global _deferred
    _deferred = _deferred or world_size() > 1
    signal.signal(signal.SIGTERM, _handle)
    signal.signal(signal.SIGINT, _handle)


def imported() -> None:
    """From here on a signal unwinds the stack, except within `importing`."""
    global _importing
    _importing = False


@contextmanager
def importing() -> Iterator[None]:
    """Within, a signal leaves the process without unwinding: some libraries turn whatever is raised while
    they are imported into an error of their own and go on."""
    global _importing
    before, _importing = _importing, True
    try:
        yield
    finally:
        _importing = before


def go_on_with(keys: str) -> None:
    """Say, when this process is told to stop, that the same command goes on with `keys`; of two the first."""
    global _remedy
    _remedy = _remedy or f"; go on with the same command and {keys}"


def requested() -> bool:
    """Whether this process was asked to stop."""
    return bool(_requested)


@contextmanager
def deferred() -> Iterator[None]:
    """Within, a signal waits for someone to ask `requested`."""
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False
    if _requested:
        raise Preempted("training is complete, its last checkpoint is saved")


def _handle(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and signal.SIGINT in _requested:
        os._exit(EXIT_KILLED)  # asked twice by hand: no clean-up that could hang
    _requested.append(number)
    if not _deferred:
        leaving = Preempted("not training, nothing to save")
        if _importing:
            os._exit(EXIT_PREEMPTED)
        raise leaving
