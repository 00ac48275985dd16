"""One run per output directory."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from uedpo.errors import InputError
from uedpo.runtime import preemption

POLL = 0.5  # seconds
_held: set[tuple[int, Path]] = set()  # process and file: locks do not outlive a fork, this set does


@contextmanager
def held(folder: Path, name: str = "run.lock", wait: bool = False) -> Iterator[None]:
    """Hold `folder`/`name`; the system frees it when the process ends, however it ends.

    A record lock, not flock: loader workers would inherit the latter and keep it for the seconds that
    they outlive a killed run.

    A process that holds it already holds it once more.

    Args:
        wait: until whoever holds it lets go, rather than raise.

    Raises:
        InputError: another process holds it; names host, process and when it started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = os.getpid(), (folder / name).resolve()
    if key in _held:  # closing the file again would let go of it
        yield
        return
    with (folder / name).open("a+") as file:
        told = False
        while not _taken(file):
            holder = f"{folder}: {_holder(folder / name)}"
            if not wait:
                raise InputError(f"{holder}; wait for it, or set another hydra.run.dir")
            if preemption.requested():
                raise preemption.Preempted("waited for another process")
            if not told:
                print(f"{holder}; waiting for it")
                told = True
            time.sleep(POLL)
        file.truncate(0)
        start = datetime.now().astimezone().isoformat(timespec="seconds")
        json.dump({"host": platform.node(), "pid": os.getpid(), "start": start}, file)
        file.flush()
        _held.add(key)
        try:
            yield
        finally:
            _held.discard(key)


def wait_for(path: Path) -> None:
    """Until another rank has written `path`, in a folder that all ranks see.

    Raises:
        Preempted: this process was told to stop meanwhile.
    """
    while not path.is_file():
        if preemption.requested():
            raise preemption.Preempted("waited for rank 0")
        time.sleep(POLL)


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


def _holder(path: Path) -> str:
    try:
        by = json.loads(path.read_text())
        return f"in use by process {by['pid']} on {by['host']}, started {by['start']}"
    except (OSError, ValueError, KeyError):
        return "in use by another process"
