"""Ends the process that started it where no sign of life comes for a while.

A program by itself: `watch.py PID SECONDS`; each byte of its input is a sign of life. It stands outside,
because a call that never lets go of the interpreter stops every thread inside.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

ENDS = signal.SIGALRM  # what the watched process dies of, after faulthandler has written where it hangs
PATIENCE = 5.0  # seconds for that


def watch(pid: int, seconds: float) -> None:
    """Wait for signs of life of process `pid` until its end; time in which it was stopped does not count."""
    tick, waited = min(1.0, seconds / 20), 0.0
    while os.getppid() == pid:
        # ticks are counted, not the time: this process may have been stopped, too
        if select.select([0], [], [], tick)[0]:
            if not os.read(0, 65536):
                return
            waited = 0.0
        elif not _stopped(pid):
            waited += tick
        if waited > seconds:
            os.write(2, f"Timeout ({seconds:g} s): no batch has begun\n".encode())
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, ENDS)
                time.sleep(PATIENCE)
                if os.getppid() == pid:
                    os.kill(pid, signal.SIGKILL)
            return


def _stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal or a debugger; False where the system has no /proc."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the watched process, whose end it waits for
    watch(int(sys.argv[1]), float(sys.argv[2]))
