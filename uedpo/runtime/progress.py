"""Progress of long steps: a bar on a terminal once it has taken a while, nothing in CI or in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from uedpo.runtime.ranks import rank

T = TypeVar("T")
PATIENCE = 3.0  # seconds before a bar appears


def interactive(stream: TextIO | None = None) -> bool:
    """Whether someone looks at `stream` (default: the error stream), and this process is the one of its run
    to say something."""
    return rank() == 0 and (stream or sys.stderr).isatty() and not os.environ.get("CI")


def tracked(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """`items` behind a `late_bar`."""
    with late_bar(what, total) as advance:
        for item in items:
            yield item
            advance()


@contextmanager
def late_bar(what: str, total: int | None, show: bool = True) -> Iterator[Callable[..., None]]:
    """A bar on the error stream once `PATIENCE` has passed; yields what advances it: by 1, or a number.

    Args:
        total: steps; None where nobody knows, which shows how many are done.
        show: False for none at all.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    bars, begin, done = Progress(*columns, console=Console(stderr=True), transient=True), time.monotonic(), 0
    task: Any = None

    def advance(by: int = 1) -> None:
        nonlocal done, task
        done += by
        if task is None and show and interactive() and time.monotonic() - begin > PATIENCE:
            bars.start()
            task = bars.add_task(what, total=total)
        if task is not None:
            bars.update(task, completed=done)

    try:
        yield advance
    finally:
        if task is not None:  # else it prints an empty line
            bars.stop()
