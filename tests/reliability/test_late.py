"""Trials that keep no checkpoints, as those of a sweep, stopped late: the same command ends them."""

import json

import pytest

import uedpo.experiment
from tests.reliability import faults
from tests.reliability.harness import command, start, tiny_model_folder
from tests.reliability.test_results_file import SMALL, before
from uedpo.errors import InputError
from uedpo.export import export

LEFT = {"report.html", "environment.json", "adapter", "metrics.json"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


def arguments(folder, model, *more):
    kept = [a for a in command(folder, model, steps=2, val_every=1) if "callbacks.last" not in a]
    kept.remove("evaluation=none")
    return [*kept, *SMALL, "callbacks.last=null", *more]


def ended(whole, log, code=0):
    run = start(whole, log, report=True)
    assert run.wait() == code, run.text()[-2000:]
    return run.text()


LATE = {
    "own row": before(uedpo.experiment, "write_rows", 1, faults.kill),
    "records": before(uedpo.experiment, "records", 1, faults.kill),
    "classes.json": before(uedpo.experiment, "write_json", 4, faults.kill),
    "report": before(uedpo.experiment, "write_report", 1, faults.kill),
    "row": before(uedpo.experiment, "append_row", 2, faults.kill),
}


@pytest.mark.parametrize(
    "where", [w if w == "records" else pytest.param(w, marks=pytest.mark.slow) for w in LATE]
)
def test_a_trial_without_checkpoints_is_ended_by_the_same_command(model, tmp_path, where):
    folder, rows = tmp_path / "run", tmp_path / "results.jsonl"
    whole = arguments(folder, model, f"results={rows}", "resume=auto")
    assert start(whole, tmp_path / "log", fault=LATE[where], report=True).wait() < 0
    ended(whole, tmp_path / "log2")
    assert {p.name for p in folder.iterdir()} >= LEFT
    keys = [json.loads(line)["key"] for line in rows.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 2  # the base model, and the run
    assert export([str(folder)], str(tmp_path / "out")) == 0
    assert f"skipped: {rows} has this trial" in ended(whole, tmp_path / "log3")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["records", "report"])
def test_so_is_one_without_a_results_file(model, tmp_path, where):
    folder = tmp_path / "run"
    whole = arguments(folder, model)
    assert start(whole, tmp_path / "log", fault=LATE[where], report=True).wait() < 0
    ended([*whole, "resume=auto"], tmp_path / "log2")
    assert {p.name for p in folder.iterdir()} >= LEFT
    assert "holds a finished run; name another folder" in ended(whole, tmp_path / "log3", code=2)
    (folder / "report.html").unlink()
    assert "holds this trial, finished" in ended([*whole, "resume=auto"], tmp_path / "log4")
    assert (folder / "report.html").is_file()
    other = [*whole, "resume=auto", "optim.lr=0.5"]
    assert "holds a finished run; name another folder" in ended(other, tmp_path / "log5", code=2)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["own row", "records", "report"])
def test_so_is_one_whose_row_another_folder_has_stored(model, tmp_path, where):
    folder, rows = tmp_path / "run", tmp_path / "results.jsonl"
    whole = arguments(folder, model, f"results={rows}")
    assert start(whole, tmp_path / "log", fault=LATE[where], report=True).wait() < 0
    ended(arguments(tmp_path / "other", model, f"results={rows}"), tmp_path / "log2")
    assert "skipped: " in ended(whole, tmp_path / "log3")
    if where != "report":  # then all is there but the page, which has just been written
        with pytest.raises(InputError, match="train it with its command and results=null"):
            export([str(folder)])
        ended(arguments(folder, model, "results=null"), tmp_path / "log4")
    assert {p.name for p in folder.iterdir()} >= LEFT
    assert export([str(folder)], str(tmp_path / "out")) == 0


@pytest.mark.slow
def test_an_adapter_that_is_gone_is_written_again_from_checkpoints(model, tmp_path):
    folder = tmp_path / "run"
    kept = [a for a in arguments(folder, model) if a != "callbacks.last=null"]
    whole = [*kept, f"results={tmp_path / 'results.jsonl'}", "resume=auto"]
    ended(whole, tmp_path / "log")
    (folder / "adapter/adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="go on with resume=auto"):
        export([str(folder)])
    ended(whole, tmp_path / "log2")
    assert export([str(folder)], str(tmp_path / "out")) == 0
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2
