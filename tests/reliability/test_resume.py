"""A run killed anywhere, any number of times, ends as the run that was not."""

import os
import random
import shutil
import signal
import time

import pytest

from tests.reliability import faults
from tests.reliability.harness import command, finish, result, start, tiny_model_folder
from uedpo.callbacks.checkpoint_files import checkpoints, remove

# accumulation, workers -> options of `command`; 10 pairs in batches of 2: 5 micro-batches an epoch
ONCE, FOUR = {"accumulate": 1, "steps": 12}, {"accumulate": 4, "steps": 6}
KINDS = {
    "1 x, 0 workers": {**ONCE, "workers": 0, "every": 3, "val_every": 4},
    "4 x, 0 workers": {**FOUR, "workers": 0, "every": 2, "val_every": 3, "method": "dpo"},
    "1 x, 2 workers": {**ONCE, "workers": 2, "every": 4, "val_every": 3, "method": "dpo"},
    "4 x, 2 workers": {**FOUR, "workers": 2, "every": 1, "val_every": 2},
}
# three or four kills a chain: (point, nth time there in that process)
PLACED = {
    "1 x, 0 workers": [
        [("forward", 5), ("restore", 1), ("after step", 4), ("adapter", 1)],
        [("validation", 1), ("between rename and manifest", 1), ("before links", 2), ("end of training", 1)],
    ],
    "4 x, 0 workers": [[("backward", 14), ("before rename", 2), ("before row", 3), ("dump", 1)]],
    "1 x, 2 workers": [[("before step", 6), ("after row", 5), ("after links", 1)]],
}
CHAINS = [(kind, i) for kind, chains in PLACED.items() for i in range(len(chains))]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reference(model, tmp_path_factory):
    """kind -> (result, processor seconds) of the run that nobody touches."""
    known = {}

    def run(kind):
        if kind not in known:
            folder = tmp_path_factory.mktemp("reference") / "run"
            run = finish(command(folder, model, **KINDS[kind]), folder.with_name("log"))
            known[kind] = result(folder), run.used
        return known[kind]

    return run


def chain(folder, arguments, planted):
    """Kill one process after another, each going on where the last one left, then let one finish."""
    for number, fault in enumerate(planted):
        run = start(arguments, folder / f"log{number}", fault=fault)
        assert run.wait() == -signal.SIGKILL, f"{number}: {run.text()[-3000:]}"
    finish(arguments, folder / "log")
    return result(folder / "run")


def kill_at_random(run, seconds, draw):
    """Kill a process at a random time of its own; False where it was done before.

    Its own processor time, because how fast a shared machine is changes from run to run.
    """
    end = draw.uniform(0.1, 0.6) * seconds
    while not run.poll():
        if run.processor_seconds() >= end:
            os.kill(run.pid, signal.SIGKILL)
            return run.wait() == -signal.SIGKILL
        time.sleep(0.002)
    assert run.code == 0, run.text()[-3000:]
    return False


@pytest.mark.slow  # integration/test_training.py resumes a run in the process
def test_chain_of_kills_is_bit_identical(model, reference, tmp_path):
    kind = "1 x, 0 workers"
    arguments = [*command(tmp_path / "run", model, **KINDS[kind]), "resume=auto"]
    points = [("forward", 6), ("between rename and manifest", 1), ("validation", 1)]
    found = chain(tmp_path, arguments, [faults.at(p, n, faults.kill) for p, n in points])
    assert found.differs(reference(kind)[0]) == ""
    assert not list((tmp_path / "run/checkpoints").glob(".*.tmp"))


@pytest.mark.exhaustive
@pytest.mark.parametrize(("kind", "number"), CHAINS)
def test_placed_kills_are_bit_identical(model, reference, tmp_path, kind, number):
    arguments = [*command(tmp_path / "run", model, **KINDS[kind]), "resume=auto"]
    planted = [faults.at(p, n, faults.kill) for p, n in PLACED[kind][number]]
    assert chain(tmp_path, arguments, planted).differs(reference(kind)[0]) == ""


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_random_kills_are_bit_identical(model, reference, tmp_path, kind, number):
    expected, seconds = reference(kind)
    arguments = [*command(tmp_path / "run", model, **KINDS[kind]), "resume=auto"]
    draw = random.Random(f"{kind} {number}")
    kills, wanted = 0, 4 if kind == "1 x, 0 workers" and number < 2 else 3
    for attempt in range(20):
        run = start(arguments, tmp_path / f"log{attempt}")
        kills += kill_at_random(run, seconds, draw)
        if kills == wanted:
            break
        if run.code == 0:  # it got there first: once more from the start
            shutil.rmtree(tmp_path / "run")
            kills = 0
    assert kills == wanted
    finish(arguments, tmp_path / "log")
    assert result(tmp_path / "run").differs(expected) == ""


@pytest.fixture(scope="module", params=[1, 4], ids=["1 x", "4 x"])
def three_epochs(request, model, tmp_path_factory):
    """(folder of a run with every step's checkpoint, options of its command line)."""
    folder = tmp_path_factory.mktemp("epochs")
    # three epochs of five steps
    options = {"steps": 15, "every": 1, "val_every": 5, "method": "dpo"}
    options |= {"accumulate": request.param, "pairs": 10 * request.param}
    arguments = [*command(folder / "run", model, **options), "callbacks.last.keep=100", "resume=auto"]
    finish(arguments, folder / "log")
    return folder, options


@pytest.mark.exhaustive
def test_resume_from_every_step_is_bit_identical(three_epochs, model, tmp_path):
    folder, options = three_epochs
    expected = result(folder / "run")
    for step in range(1, options["steps"]):
        run = tmp_path / f"from{step}" / "run"
        shutil.copytree(folder / "run", run, symlinks=True)
        for path in checkpoints(run / "checkpoints")[step:]:
            remove(path)
        arguments = [*command(run, model, **options), "callbacks.last.keep=100", "resume=required"]
        finish(arguments, tmp_path / f"from{step}" / "log")
        assert result(run).differs(expected) == "", step
        # those in between, too: they are what a second kill would go on from
        assert len(checkpoints(run / "checkpoints")) == options["steps"]


@pytest.mark.exhaustive
def test_chain_through_every_step_is_bit_identical(three_epochs, model, tmp_path):
    folder, options = three_epochs
    arguments = [*command(tmp_path / "run", model, **options), "resume=auto"]
    planted = [faults.at("after links", 1, faults.kill)] * options["steps"]
    assert chain(tmp_path, arguments, planted).differs(result(folder / "run")) == ""
