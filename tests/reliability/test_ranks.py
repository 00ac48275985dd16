"""Numbers that are not finite, and ranks that fail: everyone leaves, the cause comes first."""

import os
import re
import time

import pytest
import torch

from tests.reliability import faults
from tests.reliability.harness import command, finish, start, start_ranks, tiny_model_folder
from uedpo.callbacks.checkpoint_files import checkpoints
from uedpo.microworld.evaluation import MicroWorldEvaluation

STEPS = {"steps": 5, "every": 1, "val_every": 5, "accumulate": 2}
TIMEOUT = 15  # seconds; a batch of the tiny model takes far less, also on a busy machine
DDP = ["trainer=ddp_cpu", "data.batch_size=1", f"timeout={TIMEOUT}"]
FAULTS = {"killed": faults.kill, "hung": faults.hang, "raising": faults.crash}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


def head(run):
    """First three lines of what a process said that is no notice of a start."""
    starts = ("trains ", "attention: ")
    lines = [line for line in run.text().splitlines() if line.strip() and not line.startswith(starts)]
    lines = [line for line in lines if "Initializing" not in line]
    return "\n".join(lines[:3])


def only_finite(folder):
    found = checkpoints(folder / "run/checkpoints")
    return all(faults.finite(torch.load(path, weights_only=True)["state_dict"]) for path in found), len(found)


@pytest.mark.slow
def test_the_untrained_and_the_trained_model_are_evaluated_once(model, tmp_path):
    measured = tmp_path / "measured"

    def spy():
        run = MicroWorldEvaluation.run

        def counted(*args, **kwargs):
            with measured.open("a") as file:
                file.write(f"rank {os.environ['RANK']}\n")
            time.sleep(1)  # the other rank is long at the place where it waits
            return run(*args, **kwargs)

        MicroWorldEvaluation.run = counted

    arguments = [a for a in command(tmp_path / "run", model, **STEPS) if a != "evaluation=none"]
    arguments += [*DDP, "evaluation.num_shift=2", "evaluation.num_train=0", "evaluation.max_new_tokens=8"]
    runs = start_ranks([*arguments, f"results={tmp_path}/rows.jsonl"], tmp_path, {0: spy, 1: spy})
    assert [run.wait(TIMEOUT + 60) for run in runs] == [0, 0], runs[0].text()[-2000:] + runs[1].text()[-2000:]
    assert measured.read_text() == "rank 0\n" * 2
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "where",
    [
        "loss nan",
        *(
            pytest.param(w, marks=pytest.mark.exhaustive)
            for w in ("loss inf", "gradient nan", "gradient inf")
        ),
    ],
)
def test_guard_stops_before_the_step(model, tmp_path, where):
    run = start(command(tmp_path / "run", model, **STEPS), tmp_path / "log", faults.not_finite(6, where))
    assert run.wait() == 3, run.text()[-3000:]
    cause = "stopped before step 3: " + ("loss" if where.startswith("loss") else "largest gradient")
    assert cause in head(run)
    assert re.search(r"rows \w+-\d+", head(run))
    assert only_finite(tmp_path) == (True, 2)


@pytest.mark.slow
def test_guard_leaves_out_what_it_may(model, tmp_path):
    arguments = [*command(tmp_path / "run", model, **STEPS), "callbacks.guard.skip=1"]
    finish(arguments, tmp_path / "log", fault=faults.not_finite(6, "loss nan"))
    assert re.search(r"left out step 3: loss nan on rank 0, rows \w+-\d+", (tmp_path / "log").read_text())
    assert only_finite(tmp_path)[0]
    last = [line.split(",") for line in (tmp_path / "run/metrics.csv").read_text().splitlines()]
    assert {row[last[0].index("guard/skipped")] for row in last[1:]} - {""} == {"0.0", "1.0"}


@pytest.mark.exhaustive
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("nth", [5, 6], ids=["first of the window", "last of the window"])
@pytest.mark.parametrize("where", ["loss nan", "gradient inf"])
def test_guard_stops_all_ranks(model, tmp_path, where, nth, rank):
    arguments = [*command(tmp_path / "run", model, **STEPS), *DDP]
    runs = start_ranks(arguments, tmp_path, {rank: faults.not_finite(nth, where)})
    assert [run.wait(TIMEOUT + 40) for run in runs] == [3, 3], runs[0].text()[-2000:]
    cause = f"loss nan on rank {rank}" if where == "loss nan" else "largest gradient"
    assert all(f"stopped before step 3: {cause}" in head(run) for run in runs)
    assert only_finite(tmp_path) == (True, 2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_rank_that_fails_ends_all(model, tmp_path, fault, rank):
    marker = tmp_path / "marker"

    def happens():
        marker.touch()
        FAULTS[fault]()

    arguments = [*command(tmp_path / "run", model, **STEPS), *DDP]
    runs = start_ranks(arguments, tmp_path, {rank: faults.at("forward", 5, happens)})
    while not marker.exists():
        assert not any(run.poll() for run in runs), runs[0].text()[-2000:] + runs[1].text()[-2000:]
        time.sleep(0.01)
    begin = time.monotonic()
    codes = [run.wait(TIMEOUT + 60) for run in runs]
    took = time.monotonic() - begin
    assert all(codes), codes
    assert took < TIMEOUT + 10, f"{took:.1f} s"
    said = {"killed": "RuntimeError", "hung": "Timeout (", "raising": "ZeroDivisionError: planted"}[fault]
    witness = runs[1 - rank] if fault == "killed" else runs[rank]
    assert said in head(witness), witness.text()[:2000]
    if fault == "hung":
        assert "in hang" in head(witness)
    assert only_finite(tmp_path) == (True, 2)
