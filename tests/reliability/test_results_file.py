"""A run with results=, killed or stopped late: the same command finishes it, and its row is there once."""

import json
import signal

import pytest

import uedpo.experiment
from tests.reliability import faults
from tests.reliability.harness import command, start, tiny_model_folder
from uedpo.errors import InputError
from uedpo.export import export

SMALL = ["evaluation=microworld", "evaluation.num_shift=3", "evaluation.num_train=0", "report_pairs=0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


def arguments(folder, model):
    kept = [a for a in command(folder, model, steps=2, every=1, val_every=1) if a != "evaluation=none"]
    return [*kept, *SMALL, f"results={folder.parent / 'results.jsonl'}", "resume=auto"]


def before(owner, name, nth, action):
    """Plants `action` before the nth call of a function."""

    def plant():
        real, calls = getattr(owner, name), 0

        def faulty(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == nth:
                action()
            return real(*args, **kwargs)

        setattr(owner, name, faulty)

    return plant


LATE = {
    "told to stop": before(uedpo.experiment, "records", 1, faults.term),
    "metrics.json": before(uedpo.experiment, "write_json", 2, faults.kill),
    "own row": before(uedpo.experiment, "write_rows", 1, faults.kill),
    "records": before(uedpo.experiment, "records", 1, faults.kill),
    "end of logs": before(uedpo.experiment, "log_end", 1, faults.kill),
    "report": before(uedpo.experiment, "write_report", 1, faults.kill),
    "row": before(uedpo.experiment, "append_row", 2, faults.kill),
}


@pytest.mark.parametrize("where", LATE)
@pytest.mark.slow
def test_a_run_stopped_late_is_finished_by_the_same_command(model, tmp_path, where):
    folder = tmp_path / "run"
    whole = arguments(folder, model)
    run = start(whole, tmp_path / "log", fault=LATE[where], report=True)
    assert run.wait() in (-signal.SIGKILL, 75), run.text()[-2000:]
    assert start(whole, tmp_path / "log2", report=True).wait() == 0, (tmp_path / "log2").read_text()[-2000:]
    assert {"report.html", "environment.json", "adapter", "metrics.json"} <= {
        p.name for p in folder.iterdir()
    }
    rows = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(rows) == len({json.loads(row)["key"] for row in rows}) == 2  # the base model, and the run
    assert export([str(folder)], str(tmp_path / "out")) == 0
    again = start(whole, tmp_path / "log3", report=True)
    assert again.wait() == 0
    assert "skipped: " in again.text()


@pytest.mark.slow
def test_a_row_of_a_run_that_left_none_of_the_rest_does_not_end_it(model, tmp_path):
    folder = tmp_path / "run"
    whole = arguments(folder, model)
    assert start(whole, tmp_path / "log", report=True).wait() == 0
    for name in ("environment.json", "report.html"):  # as of a version that stored the row first
        (folder / name).unlink()
    with pytest.raises(InputError, match="go on with resume=auto"):
        export([str(folder)])
    assert start(whole, tmp_path / "log2", report=True).wait() == 0
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2
    assert export([str(folder)], str(tmp_path / "out")) == 0


@pytest.mark.slow
def test_a_trial_that_was_never_trained_here_says_how_to_train_it(model, tmp_path):
    folder = tmp_path / "run"
    whole = arguments(folder, model)
    assert start(whole, tmp_path / "log", report=True).wait() == 0
    other = [a.replace(f"hydra.run.dir={folder}", f"hydra.run.dir={tmp_path / 'other'}") for a in whole]
    run = start(other, tmp_path / "log2", report=True)
    assert run.wait() == 0
    assert "skipped: " in run.text()
    with pytest.raises(InputError, match="train it with its command and results=null"):
        export([str(tmp_path / "other")])
