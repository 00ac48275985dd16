"""Commands of the program as processes of their own, without the seconds that their imports take.

`python -m MODULE` imports torch, Lightning and transformers for longer than a tiny run trains. Here a process
is forked from one that has imported those and done nothing else. It has its own pid, signals, streams,
environment, folder and exit code, and it runs MODULE as `__main__`. Two tests of integration/test_run.py
start whole processes, imports and all, and expect the same of both.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path

# not uedpo.run, which has to run as __main__; not wandb, whose folder for media goes with the first process
PRELOADED = [
    "torch", "pytorch_lightning", "transformers", "peft", "matplotlib.pyplot", "requests",
    "diffusers.schedulers.scheduling_ddpm", "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava", "transformers.models.clip.modeling_clip",
    "transformers.models.clip.image_processing_pil_clip", "uedpo.config.build", "uedpo.config.validate",
    "uedpo.module", "uedpo.trainer", "uedpo.microworld.evaluation", "uedpo.report.page",
    "uedpo.report.record", "tests.warm",
]  # fmt: skip
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


class Command:
    """A running `python -m module *arguments`, with what tests use of `subprocess.Popen`.

    Args:
        env: the whole environment; by default that of the tests.
        cwd: the folder it runs in; by default that of the tests.
        own_group: whether it leads a process group of its own.
    """

    def __init__(self, module, *arguments, env=None, cwd=None, own_group=False):
        self.folder = tempfile.TemporaryDirectory(prefix="uedpo-command-")
        self.argv = [module, *map(str, arguments)]
        env, cwd = dict(os.environ if env is None else env), str(cwd or Path.cwd())
        given = (self.argv, env, cwd, self.folder.name, own_group)
        self.process = _context.Process(target=_become, args=given)
        self.process.start()
        weakref.finalize(self, self.process.kill)  # a test that fails leaves none behind

    @property
    def pid(self):
        return self.process.pid

    @property
    def stdout(self):
        return self._text("stdout")

    @property
    def stderr(self):
        return self._text("stderr")

    def _text(self, name):
        file = Path(self.folder.name) / name
        return file.read_text() if file.is_file() else ""

    def poll(self):
        """The exit code, or minus the signal that killed it; None while it runs."""
        return self.process.exitcode

    def wait(self, timeout=600):
        self.process.join(timeout)
        if self.poll() is None:
            self.process.kill()
            raise subprocess.TimeoutExpired(self.argv, timeout, self.stdout, self.stderr)
        return self.poll()

    def kill(self):
        self.process.kill()

    def terminate(self):
        self.process.terminate()


def run(module, *arguments, timeout=600, **options):
    """`subprocess.run` of `python -m module *arguments` that captures text; `options` as of `Command`."""
    command = Command(module, *arguments, **options)
    code = command.wait(timeout)
    return subprocess.CompletedProcess(command.argv, code, command.stdout, command.stderr)


def _become(argv, env, cwd, folder, own_group):
    """In the forked process: be `python -m argv[0] argv[1:]`, and leave as Python leaves."""
    if own_group:
        os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    own = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:] = [*own, *(p for p in sys.path if p and p not in own)]
    sys.argv = [argv[0], *argv[1:]]
    code = 1
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except KeyboardInterrupt:
        code = -signal.SIGINT
    except BaseException:
        sys.excepthook(*sys.exc_info())
    with contextlib.suppress(Exception):
        threading._shutdown()  # joblib ends its workers here
        atexit._run_exitfuncs()
        sys.stdout.flush()
    if code < 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)
