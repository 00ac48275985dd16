"""One run per output directory."""

from __future__ import annotations

import contextlib
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

from uedpo.errors import ANOTHER_FOLDER, InputError
from uedpo.runtime import preemption
from uedpo.runtime.atomic import unwritable
from uedpo.runtime.folders import make
from uedpo.runtime.say import say

POLL = 0.5  # seconds
# process and file of each lock that is held: locks do not outlive a fork, this mapping does
_held: dict[tuple[int, Path], IO[str]] = {}


@contextmanager
def held(folder: Path, name: str = "run.lock", wait: bool = False, signed: bool = True) -> Iterator[None]:
    """Hold `folder`/`name`; the system frees it when the process ends, however it ends.

    A record lock, not flock: loader workers would inherit the latter and keep it for the seconds that
    they outlive a killed run.

    A process that holds it already holds it once more.

    Args:
        wait: until whoever holds it lets go, rather than raise.
        signed: write at once who holds it. Else the file is as it was, or gone again, unless `sign` is called
            meanwhile: who holds a folder may be refused yet.

    Raises:
        InputError: another process holds it; names host, process and when it started.
    """
    make(folder)
    key, new = _key(folder, name), not (folder / name).exists()
    if key in _held:  # closing the file again would let go of it
        yield
        return
    with _opened(folder / name) as file:
        told = False
        while not _taken(file):
            holder = f"{folder}: {_holder(folder / name)}"
            if not wait:
                raise InputError(f"{holder}; wait for it, or {ANOTHER_FOLDER}")
            if preemption.requested():
                raise preemption.Preempted("waited for another process")
            if not told:
                say(f"{holder}; waiting for it", flush=True)
                told = True
            time.sleep(POLL)
        _held[key] = file
        if signed:
            sign(folder, name)
        try:
            yield
        finally:
            del _held[key]
            with contextlib.suppress(FileNotFoundError):
                if new and not (folder / name).stat().st_size:
                    (folder / name).unlink()


def sign(folder: Path, name: str = "run.lock") -> None:
    """Write into a lock that this process holds who it is, for those who find the folder in use."""
    file = _held[_key(folder, name)]
    start = datetime.now().astimezone().isoformat(timespec="seconds")
    try:
        file.truncate(0)
        json.dump({"host": platform.node(), "pid": os.getpid(), "start": start}, file)
        file.flush()
    except OSError as error:
        raise unwritable(folder / name, error) from None


def _key(folder: Path, name: str) -> tuple[int, Path]:
    return os.getpid(), folder.resolve() / name


def wait_for(path: Path) -> None:
    """Until another rank has written `path`, in a folder that all ranks see.

    Raises:
        Preempted: this process was told to stop meanwhile.
    """
    while not path.is_file():
        if preemption.requested():
            raise preemption.Preempted("waited for rank 0")
        time.sleep(POLL)


def _opened(path: Path) -> IO[str]:
    """Not through a link: the folder may be shared, and what the file holds is replaced."""
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "a+")
    except OSError as error:
        raise unwritable(path, error) from None


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


def _holder(path: Path) -> str:
    try:
        by = json.loads(path.read_text())
        if by["host"] == platform.node():
            os.kill(by["pid"], 0)  # else it is of an earlier one
        return f"in use by process {by['pid']} on {by['host']}, started {by['start']}"
    except (OSError, ValueError, KeyError):
        return "in use by another process"
