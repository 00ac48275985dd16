"""One trial of a sweep, in a process of its own: what kills it is a failed trial, not a failed sweep.

The process is forked from one that has imported everything and trained nothing, so that a trial costs its
work and not seconds of imports, and leaves no memory, thread or open file behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from uedpo.errors import plain_line
from uedpo.results.keys import key_of, trial_config
from uedpo.runtime import preemption
from uedpo.runtime.ranks import rank, world_size
from uedpo.runtime.redact import redact
from uedpo.sweep import progress
from uedpo.sweep.journal import alone, place, read, write
from uedpo.sweep.trials import launch_problems

LOG = "trial.log"
_PR_SET_PDEATHSIG = 1
Body = Callable[[DictConfig], str | None]


def run_trial(cfg: DictConfig, body: Body) -> Path | None:
    """Run `body` unless the sweep's folder has this trial finished; the trial's folder, None if it failed.

    Args:
        body: trains; returns why it had nothing to do, or None.

    Raises:
        SystemExit: the sweep was told to stop, or one of several ranks failed.
    """
    preemption.imported()
    hydra: Any = HydraConfig.get()
    sweep_folder = Path(os.path.abspath(hydra.sweep.dir))
    wanted = os.path.relpath(hydra.runtime.output_dir, sweep_folder)
    key = key_of(trial_config(cfg))
    about: dict[str, Any] = {"key": key, "overrides": list(hydra.overrides.task)}
    writes = rank() == 0
    with alone(sweep_folder):
        sweep = read(sweep_folder)
        known = sweep.trials.get(key)
        about["trial"] = place(sweep, key, wanted)
        folder: Path = sweep_folder / about["trial"]
        done = known is not None and known.state == "finished" and (folder / "metrics.json").is_file()
        if writes:
            write(sweep_folder, "skip" if done else "begin", **about)
    if not done:
        cfg = _begin(cfg, folder, Path(hydra.runtime.output_dir), again=known is not None)
        event = _here(cfg, body) if world_size() > 1 else _forked(cfg, body, folder, sweep_folder)
        if writes:
            write(sweep_folder, **about, **event)
    elif folder != Path(hydra.runtime.output_dir):
        with contextlib.suppress(OSError):  # Hydra made it; another trial's own files stay
            Path(hydra.runtime.output_dir).rmdir()
    if writes:
        progress.tell(sweep_folder, key)
    if not done and event["event"] == "fail":
        if world_size() > 1:
            sys.exit(1)  # the other ranks may wait for this one; the next command goes on here
        return None
    return folder


def _begin(cfg: DictConfig, folder: Path, given: Path, again: bool) -> DictConfig:
    """Settle where the trial writes; one that was begun before goes on from a checkpoint, if it has any."""
    folder.mkdir(parents=True, exist_ok=True)
    hydra: Any = HydraConfig.get()
    if folder != given:
        with read_write(hydra.runtime), open_dict(hydra.runtime):
            hydra.runtime.output_dir = str(folder)
    if again and cfg.get("resume") is None:
        cfg = cfg.copy()
        OmegaConf.update(cfg, "resume", "auto", force_add=True)
    return cfg


def _here(cfg: DictConfig, body: Body) -> dict[str, Any]:
    """In this process: `torchrun` made it, and all ranks have to stay in step."""
    begin = time.perf_counter()
    try:
        stored = body(cfg)
    except preemption.Preempted:
        raise
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return _failed(_reason(error), begin)
    return _ended(stored, begin)


def _forked(cfg: DictConfig, body: Body, folder: Path, sweep_folder: Path) -> dict[str, Any]:
    """In a child, whose output goes to its folder; the line for the journal that says how it ended."""
    begin = time.perf_counter()
    hydra: Any = HydraConfig.get()
    problems = launch_problems(cfg, hydra)  # a sweep may vary the number of devices
    if problems:
        return _failed("; ".join(problems), begin)
    _import_all()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(cfg, body, folder / LOG, sender, os.getpid()))
    sys.stdout.flush()
    sys.stderr.flush()
    child.start()
    sender.close()
    try:
        while child.is_alive():
            progress.draw(sweep_folder)
            child.join(1)
    except BaseException:  # told to stop: the child finishes its step and saves
        child.terminate()
        child.join()
        raise
    said: tuple[bool, str | None] = (False, None)
    with contextlib.suppress(EOFError, OSError):
        if receiver.poll():
            said = receiver.recv()
    code = child.exitcode or 0
    if code == 0 and said[0]:
        return _ended(said[1], begin)
    return _failed(said[1] or _died(code), begin)


def _child(cfg: DictConfig, body: Body, log: Path, sender: Connection, parent: int) -> None:
    _die_with(parent)
    _write_to(log)
    preemption.install()
    code = 1
    said: tuple[bool, str | None] = (False, None)
    try:
        code, said = 0, (True, body(cfg))
    except SystemExit as error:
        code, said = error.code if isinstance(error.code, int) else 1, (False, _reason(error))
    except BaseException as error:
        traceback.print_exc()
        said = (False, _reason(error))
    with contextlib.suppress(BrokenPipeError):
        sender.send(said)
    if "wandb" in sys.modules:  # a forked process leaves without its own clean-up
        sys.modules["wandb"].finish(exit_code=code)
    sys.exit(code)


def _ended(stored: str | None, begin: float) -> dict[str, Any]:
    if stored is not None:
        return {"event": "stored", "reason": stored}
    return {"event": "finish", "seconds": round(time.perf_counter() - begin, 1)}


def _failed(reason: str, begin: float) -> dict[str, Any]:
    return {"event": "fail", "seconds": round(time.perf_counter() - begin, 1), "reason": reason}


def _reason(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, preemption.Preempted):
        return f"it was told to stop (exit code {error.code}); run the same command again"
    if isinstance(error, SystemExit):
        text = getattr(error, "line", "") or f"exit code {error.code}"
    else:
        text = f"{type(error).__name__}: {plain_line(error)}".removesuffix(": ")
    return redact(" ".join(text.split()))[:500]


def _died(code: int) -> str:
    """What an exit code says of a process that said nothing."""
    if code >= 0:
        return f"ended with exit code {code} without a word"
    name = signal.Signals(-code).name
    hint = "; the system does that where memory runs out" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"


def _die_with(parent: int) -> None:
    """Be killed when the parent dies, or the next command would find this trial at work (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _write_to(log: Path) -> None:
    """Send what this process and its own children print to the end of `log`."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(file, stream.fileno())
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.close(file)


def _import_all() -> None:
    """What every trial needs, imported once, where the children find it."""
    with preemption.importing():
        import peft  # noqa: F401
        import pytorch_lightning  # noqa: F401
        from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: F401

        import uedpo.module
        import uedpo.report.page
        import uedpo.report.trace  # noqa: F401
