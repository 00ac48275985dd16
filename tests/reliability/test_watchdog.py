"""The watchdog ends what hangs, whatever holds the interpreter, and counts no pauses."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.reliability.harness import command, start, tiny_model_folder
from uedpo.callbacks.preemption import Watchdog
from uedpo.module import PreferenceModule
from uedpo.runtime import watch

HANGS = {
    "waits": lambda: time.sleep(60),
    "computes": lambda: re.fullmatch("(a|a)*b", "a" * 60),
    "holds the interpreter": lambda: ctypes.PyDLL(None).sleep(60),
}


def child(work, log, seconds=0.5):
    """A process with a watchdog."""
    pid = os.fork()
    if not pid:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
        Watchdog(seconds)._again()
        work()
        os._exit(0)
    return pid


@pytest.mark.parametrize("name", HANGS)
def test_what_hangs_is_ended_with_the_line(tmp_path, name):
    begin = time.monotonic()
    pid = child(HANGS[name], tmp_path / "log")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -watch.ENDS
    assert 0.4 < time.monotonic() - begin < 5
    said = (tmp_path / "log").read_text()
    assert said.startswith("Timeout (0.5 s): no batch has begun")
    assert "test_watchdog.py" in said


def test_a_pause_of_the_process_does_not_count(tmp_path):
    pid = child(lambda: time.sleep(1.2), tmp_path / "log", seconds=1.0)
    time.sleep(0.2)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(pid, signal.SIGCONT)
    # 0.2 s before the pause and none after it: sleep has counted the pause
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (tmp_path / "log").read_text() == ""


def test_a_pause_of_the_watcher_does_not_count(tmp_path):
    """A terminal stops both."""
    read, write = os.pipe()
    code = [sys.executable, "-I", "-S", watch.__file__, str(os.getpid()), "0.5"]
    outside = subprocess.Popen(code, stdin=read, stderr=subprocess.PIPE)
    time.sleep(0.2)
    outside.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    outside.send_signal(signal.SIGCONT)
    os.write(write, b".")
    time.sleep(0.2)
    assert outside.poll() is None
    os.close(read)
    os.close(write)
    assert outside.wait(5) == 0


def test_signals_for_the_process_are_none_for_its_watcher():
    code = [sys.executable, "-I", "-S", watch.__file__, str(os.getpid()), "60"]
    outside = subprocess.Popen(code, stdin=subprocess.PIPE)
    time.sleep(0.3)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        outside.send_signal(number)
    time.sleep(0.1)
    assert outside.poll() is None
    outside.stdin.close()
    assert outside.wait(5) == 0


def test_the_watcher_goes_with_its_process(tmp_path):
    pid = child(lambda: time.sleep(60), tmp_path / "log", seconds=60.0)
    own, end = [], time.monotonic() + 10
    while not own:
        assert time.monotonic() < end
        own = [p for p in os.listdir("/proc") if p.isdigit() and parent(p) == pid]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while os.path.exists(f"/proc/{own[0]}"):
        assert time.monotonic() < end
        time.sleep(0.02)


def parent(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return None


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(tmp_path):
    def slow():
        real = PreferenceModule.training_step

        def step(self, *args):
            time.sleep(0.2)
            return real(self, *args)

        PreferenceModule.training_step = step

    model = tiny_model_folder(tmp_path / "model")
    arguments = [*command(tmp_path / "run", model, steps=8), "timeout=1.5", "data.num_workers=1"]
    run = start(arguments, tmp_path / "log", fault=slow)
    csv = tmp_path / "run" / "metrics.csv"
    while not csv.exists() and not run.poll():
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(run.pid, signal.SIGCONT)
    assert run.wait() == 0, run.text()[-2000:]
