"""One run per output directory."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from uedpo.types import InputError


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold `folder`/run.lock; the system frees it when the process ends, however it ends.

    A record lock, not flock: loader workers would inherit the latter and keep it for the seconds that
    they outlive a killed run.

    Raises:
        InputError: another process holds it; names host, process and when it started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "run.lock").open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{folder}: {_holder(folder)}; wait for it, or set another hydra.run.dir"
            ) from None
        file.truncate(0)
        start = datetime.now().astimezone().isoformat(timespec="seconds")
        json.dump({"host": platform.node(), "pid": os.getpid(), "start": start}, file)
        file.flush()
        yield


def _holder(folder: Path) -> str:
    try:
        by = json.loads((folder / "run.lock").read_text())
        return f"in use by process {by['pid']} on {by['host']}, started {by['start']}"
    except (OSError, ValueError, KeyError):
        return "in use by another process"
