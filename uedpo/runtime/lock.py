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


@contextmanager
def held(folder: Path, name: str = "run.lock", wait: bool = False) -> Iterator[None]:
    """Hold `folder`/`name`; the system frees it when the process ends, however it ends.

    A record lock, not flock: loader workers would inherit the latter and keep it for the seconds that
    they outlive a killed run.

    Args:
        wait: until whoever holds it lets go, rather than raise.

    Raises:
        InputError: another process holds it; names host, process and when it started.
    """
    folder.mkdir(parents=True, exist_ok=True)
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
        yield


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
