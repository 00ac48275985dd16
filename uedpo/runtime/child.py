"""Programs of others, such as templates and patterns, tried in a child that may take so much and no more."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from uedpo.errors import out_of_memory

SECONDS, MEMORY = 5, 2**30  # bytes beyond what this process has
SAID = f"takes more than {SECONDS} s or {MEMORY / 2**20:.0f} MB, or crashes"


def ends(work: Callable[[], Any]) -> bool:
    """Whether `work` comes to an end within `SECONDS` and `MEMORY`, be it an ordinary exception."""
    pid = os.fork()
    if pid == 0:
        _limit()
        try:
            work()
        except Exception as error:  # told where the same is done in earnest
            os._exit(out_of_memory(error) or "MemoryError" in str(error))
        except BaseException:  # a panic of Rust
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def _limit() -> None:
    with contextlib.suppress(Exception):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        faulthandler.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries say of a crash
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
