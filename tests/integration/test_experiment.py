"""A run from Python: the program in the docs, folders that are left alone, devices outside `fit`."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.processes import run
from tests.reliability.harness import tiny_model_folder
from uedpo import Experiment, compose
from uedpo.errors import ConfigError, InputError
from uedpo.types import PairBatch

ROOT = Path(__file__).parents[2]
SMALL = [
    "trainer.max_steps=2", "trainer.val_every_n_batches=0", "callbacks.best=null", "callbacks.progress=null",
    "threads=1", "data.batch_size=2", "data.train.num_pairs=4", "data.val.num_pairs=2", "report_pairs=1",
    "evaluation.num_shift=4", "evaluation.num_train=0", "evaluation.pope_every=2",
    "evaluation.max_new_tokens=24",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("base") / "tiny")


def program():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    return code


def whole_process(folder, *arguments):
    """The program as a user starts it, imports and the end of Python included."""
    command = [sys.executable, "-c", program(), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def forked(folder, *arguments):
    (folder / "program.py").write_text(program())
    return run("program", *arguments, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("start", [forked, pytest.param(whole_process, marks=pytest.mark.slow)])
def test_the_program_in_the_docs_trains_and_reads_its_metrics(model, tmp_path, start):
    assert len(program().splitlines()) <= 15
    done = start(tmp_path, *SMALL, f"model.path={model}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Exception ignored" not in done.stderr  # what the experiment holds is let go of before Python ends
    lines = done.stdout.splitlines()[-2:]
    assert [line.split()[0] for line in lines] == ["chair_s", "coverage"]
    assert all(re.fullmatch(r"\w+ [\d.]+ % [\d.]+ %", line) for line in lines), lines
    for name in ("metrics.json", "report.html", "adapter/adapter_model.safetensors", "config.yaml"):
        assert (tmp_path / "outputs/from_python" / name).is_file(), name


def test_a_refused_experiment_leaves_its_folder_as_it_was(model, tmp_path):
    with pytest.raises(ConfigError, match=r"did you mean weights\.alpha"):
        compose(["weights.alpa=0.2"])
    with pytest.raises(ConfigError, match="one value, no sweep"):
        compose(["weights.alpha=0.1,0.2"])
    folder = tmp_path / "run"
    small = [*SMALL, f"model.path={model}", "evaluation=none"]
    small = [o for o in small if not o.startswith("evaluation.")]
    Experiment.from_config(compose(small), folder).fit()
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "run.lock"}
    for changed in ("seed=1", "resume=required seed=1"):
        with pytest.raises(InputError, match=r"resume=auto|another configuration"):
            Experiment.from_config(compose([*small, *changed.split()]), folder)
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "run.lock"}


class Claims:
    """Which device modules claim to be on: real ones stay on the CPU, where their numbers are."""

    def __init__(self, monkeypatch, device):
        self.seen, self.at = [], {}
        to, cpu = torch.nn.Module.to, torch.nn.Module.cpu

        def moved(module, *args, **kwargs):
            if device in args:
                self._claim(module, str(device))
                return module
            return to(module, *args, **kwargs)

        def home(module):
            self._claim(module, "cpu")
            return cpu(module)

        monkeypatch.setattr(torch.nn.Module, "to", moved)
        monkeypatch.setattr(torch.nn.Module, "cpu", home)

    def _claim(self, module, device):
        self.at.update((id(m), device) for m in module.modules())

    def spy(self, monkeypatch, model_class):
        forward = model_class.forward

        @functools.wraps(forward)
        def spied(module, *args, **kwargs):
            self.seen.append((self.phase, self.at.get(id(module), "cpu")))
            return forward(module, *args, **kwargs)

        monkeypatch.setattr(model_class, "forward", spied)


def test_everything_outside_fit_runs_on_the_device_that_trains(model, tmp_path, monkeypatch):
    from transformers import LlavaModel

    experiment = Experiment.from_config(compose([*SMALL, f"model.path={model}"]), tmp_path / "run")
    device = torch.device("meta")  # a name that nothing here is on
    monkeypatch.setattr(Experiment, "device", device)
    monkeypatch.setattr(PairBatch, "to", lambda batch, device: batch)
    claims = Claims(monkeypatch, device)
    claims.spy(monkeypatch, LlavaModel)
    for phase in ("evaluate_base", "fit", "evaluate", "report"):
        claims.phase = phase
        getattr(experiment, phase)()
    found = {phase: {at for p, at in claims.seen if p == phase} for phase, _ in claims.seen}
    outside = {phase: found[phase] for phase in ("evaluate_base", "evaluate", "report")}
    assert outside == {phase: {"meta"} for phase in outside}
