"""Runs the program in a forked child, which can then be killed like any other process.

The parent imports everything and composes each configuration once, and trains nothing; each child is a
process of its own that runs the body of `uedpo.run.main` from there on, so that a run costs its work and
not seconds of imports. The whole command, imports included, is what test_signals runs.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import os
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import open_dict
from safetensors.torch import load_file

import uedpo.config.build
import uedpo.experiment
import uedpo.run
from tests.tiny import tiny_llava
from uedpo.callbacks.checkpoint_files import checkpoints
from uedpo.config.overrides import conf_folder
from uedpo.runtime import preemption
from uedpo.runtime.versions import versions

TIMED = "perf/"  # wall-clock columns, which no two runs share
torch.set_num_threads(1)


def tiny_model_folder(folder: Path) -> Path:
    """`tiny_llava`, once all that a run of it imports as it goes is there for every child."""
    _import_all(tiny_llava(folder))
    return folder


def _import_all(model):
    uedpo.runtime.quiet.quiet()
    cfg, _ = composed(tuple(command("none", model)))
    source = instantiate(cfg.model)
    data = instantiate(cfg.data)(processor=source.processor(), seed=0)
    module = uedpo.config.build.build_module(cfg, source, instantiate(cfg.corruption, seed=0))
    module.configure_model()
    data.collate([data.train[0]])
    uedpo.config.build.build_callbacks(cfg)
    for logger in cfg.logger.values():
        instantiate(logger, save_dir="none")
    instantiate(cfg.trainer, callbacks=[], logger=[], default_root_dir="none")
    versions()


@functools.cache
def composed(arguments):
    """(configuration, Hydra's own) of a command line."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        whole = compose("config", list(arguments), return_hydra_config=True)
        with open_dict(whole):
            whole.hydra.runtime.output_dir = whole.hydra.run.dir
        return compose("config", list(arguments)), whole


def command(
    folder, model, steps=12, accumulate=1, workers=0, every=3, val_every=4, pairs=10, method="ue_dpo"
):
    """Command line of a small run: 10 pairs in batches of 2, so an epoch is 5 micro-batches."""
    noise = ["model.lora.dropout=0.1"] if method == "dpo" else []  # draws from the global generator
    return [
        f"hydra.run.dir={folder}", f"+method={method}", *noise,
        f"model.path={model}", "model.lora.r=2", f"trainer.max_steps={steps}",
        f"trainer.accumulate_grad_batches={accumulate}",
        f"trainer.val_every_n_batches={val_every * accumulate}",
        "evaluation=none", "data.batch_size=2", f"data.train.num_pairs={pairs}", "data.val.num_pairs=4",
        f"data.num_workers={workers}", "threads=1", "callbacks.progress=null",
        f"callbacks.last.every_n_train_steps={every}",
    ]  # fmt: skip


@dataclass
class Run:
    """A child; `code` is its exit code, or minus the signal that killed it."""

    pid: int
    log: Path
    code: int | None = None
    used: float = 0.0  # seconds of processor, once it has ended

    def wait(self, timeout=120.0) -> int:
        end = time.monotonic() + timeout
        while not self.poll():
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"still running after {timeout} s: {self.text()[-2000:]}")
            time.sleep(0.005)
        return self.code

    def poll(self) -> bool:
        if self.code is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.used = usage.ru_utime + usage.ru_stime
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def processor_seconds(self) -> float:
        """Used so far, without loader workers."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def text(self) -> str:
        return self.log.read_text(errors="replace")


def start(arguments, log, fault=None, env=None, report=False) -> Run:
    """Fork a child that runs the program; `fault()` is called in it first, to plant one."""
    log.parent.mkdir(parents=True, exist_ok=True)
    cfg, whole = composed(tuple(str(a) for a in arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Run(pid, log)
    code = 1
    try:
        with log.open("ab", buffering=0) as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        os.environ.update(env or {})
        if not report:  # has no part in what is promised
            uedpo.experiment.records = lambda *a, **k: {}
            uedpo.experiment.write_report = lambda folder: folder
        if fault is not None:
            fault()
        preemption.install()
        HydraConfig.instance().set_config(whole)
        uedpo.run._job.__wrapped__(cfg)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def finish(arguments, log, **options) -> Run:
    """Run to the end, which must be exit code 0."""
    run = start(arguments, log, **options)
    assert run.wait() == 0, run.text()[-3000:]
    return run


@dataclass
class Result:
    """What two runs must share to the last bit."""

    adapter: dict
    checkpoint: dict
    rows: list

    def differs(self, other) -> str:
        """Where `other` is not the same; "" where it is."""
        if (where := _differs(self.adapter, other.adapter, "adapter")) or (
            where := _differs(self.checkpoint, other.checkpoint, "checkpoint")
        ):
            return where
        for number, (a, b) in enumerate(zip(self.rows, other.rows, strict=False)):
            if a != b:
                return f"row {number}: {a} != {b}"
        return "" if len(self.rows) == len(other.rows) else f"{len(self.rows)} rows, {len(other.rows)} rows"


def result(folder) -> Result:
    """Adapter, all of the last checkpoint, and metric rows without wall-clock columns."""
    last = checkpoints(folder / "checkpoints")[-1]
    assert last.name == (folder / "checkpoints/last.ckpt").resolve().name
    lines = (folder / "metrics.csv").read_text().splitlines()
    rows = [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in csv.DictReader(lines)]
    return Result(
        load_file(folder / "adapter/adapter_model.safetensors"), torch.load(last, weights_only=True), rows
    )


def _differs(a, b, path) -> str:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return "" if torch.equal(a, b) else path
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return f"{path}: keys {a.keys() ^ b.keys()}"
        return next((w for k in a if (w := _differs(a[k], b[k], f"{path}.{k}"))), "")
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return next(
            (w for i, (x, y) in enumerate(zip(a, b, strict=True)) if (w := _differs(x, y, f"{path}[{i}]"))),
            "",
        )
    return "" if a == b else f"{path}: {a} != {b}"


def start_ranks(arguments, folder, faulty=None, world_size=2, launcher="torchrun"):
    """Fork that many ranks of one run, launched as torchrun or srun would; `faulty` has faults by rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    runs = []
    for rank in range(world_size):
        torchrun = {
            "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": world_size,
            "LOCAL_WORLD_SIZE": world_size, "TORCHELASTIC_RUN_ID": "test",
        }  # fmt: skip
        srun = {
            "SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": 0, "SLURM_NTASKS": world_size,
            "SLURM_NTASKS_PER_NODE": world_size, "SLURM_NNODES": 1, "SLURM_JOB_ID": 12345,
            "SLURM_JOB_NAME": "test",
        }  # fmt: skip
        env = {"torchrun": torchrun, "srun": srun}[launcher]
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        log = folder / f"rank{rank}"
        fault = (faulty or {}).get(rank)
        runs.append(start(arguments, log, fault, {k: str(v) for k, v in env.items()}))
    return runs
