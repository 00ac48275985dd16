"""Runs that are shorter than their settings think, or for which there is no memory, from Python."""

import json

import pytest
import torch

from tests.reliability.harness import tiny_model_folder
from uedpo import Experiment, compose
from uedpo.errors import InputError

SMALL = [
    "callbacks.progress=null", "threads=1", "data.batch_size=2", "data.train.num_pairs=8",
    "data.val.num_pairs=2", "report_pairs=0", "evaluation=none", "trainer.max_steps=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return f"model.path={tiny_model_folder(tmp_path_factory.mktemp('base') / 'tiny')}"


@pytest.mark.parametrize(("every", "accumulate", "times"), [(20, 1, 1), (20, 2, 1), (2, 1, 1), (1, 1, 2)])
@pytest.mark.cases(2)
def test_a_run_shorter_than_its_validation_validates_once_at_its_end(
    model, tmp_path, capsys, every, accumulate, times
):
    keys = [f"trainer.val_every_n_batches={every}", f"trainer.accumulate_grad_batches={accumulate}"]
    experiment = Experiment.from_config(compose([*SMALL, *keys, model]), tmp_path / "run")
    experiment.fit()
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()
    at = rows[0].split(",").index("val/loss")
    assert sum(bool(row.split(",")[at]) for row in rows[1:]) == times
    assert (tmp_path / "run/checkpoints/best.ckpt").exists()
    note = f"trainer.val_every_n_batches={every}: the run has {2 * accumulate} micro-batches"
    assert (note in capsys.readouterr().out) == (every > 2 * accumulate)


def no_memory(*args, **kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


@pytest.mark.parametrize(
    ("place", "said"),
    [("uedpo.model.hf.HFModel.base", "while loading the model"),
     ("uedpo.module.PreferenceModule.training_step", "in step 1 of 2"),
     ("uedpo.module.PreferenceModule.validation_step", "in step 2 of 2")],
)  # fmt: skip
def test_used_up_memory_says_when_and_what_makes_a_run_smaller(model, tmp_path, monkeypatch, place, said):
    keys = ["trainer.val_every_n_batches=2", "scoring=plain"]
    experiment = Experiment.from_config(compose([*SMALL, *keys, model]), tmp_path / "run")
    monkeypatch.setattr(place, no_memory)
    with pytest.raises(InputError) as caught:
        experiment.fit()
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    for part in (
        f"out of memory on cpu {said}", "model.gradient_checkpointing=true",
        "data.batch_size=1 trainer.accumulate_grad_batches=2", "scoring=prefix_shared", "uedpo.plan",
    ):  # fmt: skip
        assert part in line


def test_used_up_memory_in_an_evaluation_names_the_model(model, tmp_path, monkeypatch):
    keys = [k for k in SMALL if k != "evaluation=none"]
    experiment = Experiment.from_config(compose([*keys, model]), tmp_path / "run")
    monkeypatch.setattr(type(experiment.evaluation), "run", no_memory)
    with pytest.raises(InputError, match="while evaluating the base model"):
        experiment.evaluate_base()


def test_saved_weights_may_be_read_by_whom_the_umask_lets(model, tmp_path):
    experiment = Experiment.from_config(compose([*SMALL, model]), tmp_path / "run")
    experiment.fit()
    experiment.evaluate()
    experiment.report()
    probe = tmp_path / "probe"
    probe.touch()
    files = [f for f in (tmp_path / "run").rglob("*") if f.is_file()]
    assert {f.name for f in files} >= {"adapter_model.safetensors", "last.ckpt", "report.html"}
    assert {f.stat().st_mode for f in files} == {probe.stat().st_mode}
    about = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())
    assert about["r"] > 0
