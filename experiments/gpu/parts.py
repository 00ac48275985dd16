"""The parts of the kit: each gives rows, in the order in which they are measured."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate

from experiments.gpu.profiled import profiled
from experiments.gpu.shapes import (
    LLAVA,
    QWEN,
    SIZES,
    Random,
    Shape,
    batch_of,
    checkpointing,
    configuration,
    module_of,
    setting_of,
)
from experiments.gpu.steps import adamw, guarded, measured, our_step, trl_step, trl_trainer

ROOT = Path(__file__).parents[2]
Row = dict[str, Any]
SETTINGS = [(size, recompute) for recompute in (False, True) for size in SIZES]
REHEARSED = [SETTINGS[0], SETTINGS[-1]]


def machine(rehearse: bool) -> Iterator[Row]:
    """What runs, and how fast a plain matrix product is on it."""
    from uedpo.runtime.versions import versions
    from uedpo.scoring.varlen import branch

    device = torch.device("cpu" if rehearse else "cuda")
    found: Row = {"versions": versions(), "name": "CPU"}
    found["versions"]["trl"] = _version("trl")
    if device.type == "cuda":
        found["name"] = torch.cuda.get_device_name()
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
        found["memory_gb"] = torch.cuda.mem_get_info()[1] / 1e9
        found["versions"]["cuda"] = torch.version.cuda
    found["attention"] = branch(device, True, 128)
    yield {"what": "machine", **found}
    side = 256 if device.type == "cpu" else 8192
    yield guarded({"what": f"bf16 matrix product of {side}"}, lambda: _product(side, device))


def _product(side: int, device: torch.device) -> Row:
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))

    def step() -> float:
        for _ in range(10):
            made = left @ right
        return float(made[0, 0])

    seconds = median(measured(step, 1, device.type)["seconds"])
    return {"tflops": 20 * side**3 / max(seconds, 1e-6) / 1e12}


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


class Outcomes:
    """A plugin of pytest that keeps how many tests ended how, and why the first one failed."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed and not self.first:
            reason = str(report.longrepr).strip().splitlines()[-1]
            self.first = f"{report.nodeid.rsplit('::', 1)[-1]}: {reason[:150]}"


def tests(rehearse: bool) -> Iterator[Row]:
    """The tests marked `gpu`, file by file; in a rehearsal their neighbours that need none."""
    try:
        import pytest
    except ImportError:
        yield {"what": "tests", "error": "pytest is not installed"}
        return
    files = sorted(p for p in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in p.read_text())
    for file in files:
        seen = Outcomes()
        name = str(file.relative_to(ROOT))
        few = ["-m", "not gpu and not slow", "-k", "rehearsed and (smolvlm or lengths1)"]
        chosen = few if rehearse else ["-m", "gpu"]
        pytest.main([str(file), *chosen, "-p", "no:cacheprovider", f"--rootdir={ROOT}"], plugins=[seen])
        row: Row = {"what": name, **seen.counts}
        yield row | ({"error": seen.first} if seen.first else {} if seen.counts else {"error": "no test ran"})


def ours(shape: Shape, rehearse: bool) -> Iterator[Row]:
    """Steps of UE-DPO and of DPO, on one policy."""
    shape, device = _on(shape, rehearse)
    cfg = configuration(shape, device)
    source = Random(instantiate(cfg.model), shape, device)
    module = module_of(cfg, source, device)
    plain = module_of(configuration(shape, device, "+method=dpo"), source, device, module.policy)
    optimizer, setting = adamw(module.policy), setting_of(cfg, shape)
    for method, which in (("UE-DPO", module), ("DPO", plain)):
        for size, recompute in REHEARSED if rehearse else SETTINGS:
            checkpointing(module.policy, recompute)
            step = our_step(which, batch_of(setting, size, device), device, optimizer)
            yield guarded(_named(shape, method, size, recompute), partial(measured, step, size, device))


def theirs(shape: Shape, rehearse: bool) -> Iterator[Row]:
    """Steps of TRL's DPO."""
    if find_spec("trl") is None:
        yield {"what": "TRL's DPO", "model": shape.name, "error": "trl is not installed"}
        return
    shape, device = _on(shape, rehearse)
    cfg = configuration(shape, device)
    source, setting = Random(instantiate(cfg.model), shape, device), setting_of(cfg, shape)
    trainer = trl_trainer(source, device)
    optimizer = adamw(trainer.model)
    for size, recompute in REHEARSED if rehearse else SETTINGS:
        checkpointing(trainer.model, recompute)
        step = trl_step(trainer, batch_of(setting, size, device), device, optimizer)
        yield guarded(_named(shape, "TRL's DPO", size, recompute), partial(measured, step, size, device))


def plan(rehearse: bool) -> Iterator[Row]:
    """What `uedpo.plan` counts for the steps of UE-DPO: on the CPU, on all of its cores."""
    todo = [(_on(s, rehearse)[0], rehearse, *setting) for s in (LLAVA, QWEN) for setting in SETTINGS]
    if rehearse:
        yield _planned(todo[-1])
        return
    with multiprocessing.get_context("fork").Pool(min(len(todo), os.cpu_count() or 1)) as pool:
        yield from pool.imap_unordered(_planned, todo)


def _planned(todo: tuple[Shape, bool, int, bool]) -> Row:
    shape, rehearse, size, recompute = todo

    def count() -> Row:
        setting = setting_of(configuration(shape, "cpu" if rehearse else "cuda"), shape)
        counted = setting.count(data__batch_size=size, model__gradient_checkpointing=recompute)
        return {"planned_gb": counted.peak / 1e9, "tflop": sum(counted.flops.values()) / 1e12}

    return guarded(_named(shape, "UE-DPO", size, recompute), count)


def profile(rehearse: bool) -> Iterator[Row]:
    """Where the time of a step of UE-DPO on LLaVA goes, without checkpointing."""
    shape, device = _on(LLAVA, rehearse)
    cfg = configuration(shape, device)
    module = module_of(cfg, Random(instantiate(cfg.model), shape, device), device)
    checkpointing(module.policy, False)
    optimizer, setting = adamw(module.policy), setting_of(cfg, shape)
    for size in SIZES[:1] if rehearse else SIZES:
        step = our_step(module, batch_of(setting, size, device), device, optimizer)
        seconds = median(measured(step, size, device)["seconds"])
        yield from profiled(step, size, seconds, device)


def four_bit(rehearse: bool) -> Iterator[Row]:
    """A step of QLoRA: four layers of LLaVA, written to disk and loaded as any model is."""
    what = {"what": "4-bit, LLaVA-1.5-7B of 4 layers, B=1"}
    if find_spec("bitsandbytes") is None:
        yield what | {"error": "bitsandbytes is not installed"}
    elif rehearse:
        yield what | {"error": "needs a GPU"}
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield guarded(what, partial(_four_bit, folder))


def _four_bit(folder: str) -> Row:
    shape = replace(LLAVA, layers=4)
    cfg = configuration(shape, "cuda", f"model.path={folder}", "model.quantize=4bit")
    Random(instantiate(cfg.model), shape, "cuda")._weights(None).save_pretrained(folder)
    torch.cuda.empty_cache()
    module = module_of(cfg, instantiate(cfg.model), "cuda")
    batch = batch_of(setting_of(cfg, shape), 1, "cuda")
    return measured(our_step(module, batch, "cuda", adamw(module.policy)), 1, "cuda")


def run(rehearse: bool) -> Iterator[Row]:
    """A whole run of the shipped model: training, captions, forced choice, report."""
    with tempfile.TemporaryDirectory() as folder:
        yield guarded({"what": "uedpo.run, 2 steps"}, partial(_run, folder, "cpu" if rehearse else "gpu"))


def _run(folder: str, trainer: str) -> Row:
    sys.argv = [
        "uedpo.run", f"trainer={trainer}", "trainer.max_steps=2", "data.batch_size=2", "data.val.num_pairs=2",
        "evaluation.num_shift=2", "evaluation.num_train=2", "evaluation.max_new_tokens=8", "report_pairs=1",
        f"hydra.run.dir={folder}/run",
    ]  # fmt: skip
    try:
        runpy.run_module("uedpo.run", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if error.code not in (0, None):
            raise RuntimeError(f"exit code {error.code}") from None
    if not Path(folder, "run/report.html").is_file():
        raise RuntimeError("wrote no report")
    return {"note": "trained, captioned, reported"}


def _on(shape: Shape, rehearse: bool) -> tuple[Shape, str]:
    return (replace(shape, tiny=True), "cpu") if rehearse else (shape, "cuda")


def _named(shape: Shape, method: str, size: int, recompute: bool) -> Row:
    what = f"{method}, B={size}, checkpointing {'on' if recompute else 'off'}"
    return {"what": what, "model": shape.name, "method": method, "batch": size, "checkpointing": recompute}


class Part(NamedTuple):
    """Name, what gives its rows, and seconds that it may take."""

    name: str
    rows: Callable[[bool], Iterator[Row]]
    seconds: float


PARTS = (
    Part("machine", machine, 30),
    Part("tests", tests, 60),
    Part("llava", partial(ours, LLAVA), 75),
    Part("llava TRL", partial(theirs, LLAVA), 50),
    Part("qwen", partial(ours, QWEN), 65),
    Part("qwen TRL", partial(theirs, QWEN), 45),
    Part("plan", plan, 60),
    Part("profile", profile, 40),
    Part("4-bit", four_bit, 35),
    Part("run", run, 40),
)
