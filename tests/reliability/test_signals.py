"""SIGTERM and SIGINT at any time: the step is finished and saved, exit code 75, and the run goes on."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.reliability import faults
from tests.reliability.harness import command, finish, result, start, start_ranks, tiny_model_folder
from uedpo.callbacks.checkpoint_files import checkpoints, verify

GRACE = 60  # seconds that schedulers commonly give
STEPS = {"steps": 6, "every": 5, "val_every": 3, "accumulate": 2}
# phase -> (point, nth time there, step that is saved or None)
PHASES = {
    "model load": ("load", 1, None),
    "first forward": ("forward", 1, 1),
    "accumulation": ("backward", 5, 3),
    "optimiser step": ("before step", 2, 2),
    "validation": ("validation", 1, 3),
    "checkpoint": ("dump", 1, 4),  # of step 3, the best
    "last step": ("after step", 12, 6),
    "after training": ("adapter", 1, 6),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def references(model, tmp_path_factory):
    """ranks -> result of a run that nobody signals."""
    known = {}

    def run(ranks):
        if ranks not in known:
            folder = tmp_path_factory.mktemp("reference")
            arguments = command(folder / "run", model, **STEPS)
            if ranks == 1:
                finish(arguments, folder / "log")
            else:
                runs = start_ranks([*arguments, *DDP], folder)
                assert [r.wait() for r in runs] == [0, 0], runs[0].text()[-3000:] + runs[1].text()[-3000:]
            known[ranks] = result(folder / "run")
        return known[ranks]

    return run


DDP = ["trainer=ddp_cpu", "data.batch_size=1", "timeout=60"]


def saved_step(folder):
    found = checkpoints(folder / "run/checkpoints")
    return verify(found[-1])["step"] if found else None


@pytest.mark.parametrize("phase", ["accumulation", pytest.param("validation", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("number", [signal.SIGINT])
@pytest.mark.slow
def test_interrupt_saves_as_sigterm_does(model, references, tmp_path, phase, number):
    point, nth, step = PHASES[phase]
    arguments = [*command(tmp_path / "run", model, **STEPS), "resume=auto"]
    run = start(arguments, tmp_path / "log", faults.at(point, nth, lambda: os.kill(os.getpid(), number)))
    assert run.wait() == 75, run.text()[-3000:]
    assert f"preempted by SIGINT: saved after step {step} of 6; go on with the same command" in run.text()
    assert f"hydra.run.dir={tmp_path / 'run'} resume=auto; exit code 75" in run.text()
    assert saved_step(tmp_path) == step
    finish(arguments, tmp_path / "log")
    assert result(tmp_path / "run").differs(references(1)) == ""


@pytest.mark.exhaustive
@pytest.mark.parametrize("phase", PHASES)
def test_sigterm_in_every_phase(model, references, tmp_path, phase):
    point, nth, step = PHASES[phase]
    arguments = [*command(tmp_path / "run", model, **STEPS), "resume=auto"]
    run = start(arguments, tmp_path / "log", faults.at(point, nth, faults.term))
    assert run.wait(GRACE) == 75, run.text()[-3000:]
    assert saved_step(tmp_path) == step
    finish(arguments, tmp_path / "log")
    assert result(tmp_path / "run").differs(references(1)) == ""


@pytest.mark.exhaustive
@pytest.mark.parametrize("who", [(0,), (1,), (0, 1)], ids=["rank 0", "rank 1", "both"])
@pytest.mark.parametrize("phase", PHASES)
def test_sigterm_with_two_ranks(model, references, tmp_path, phase, who):
    point, nth, step = PHASES[phase]
    arguments = [*command(tmp_path / "run", model, **STEPS), *DDP, "resume=auto"]
    # after the last step there is nothing left to agree on
    late = phase in ("last step", "after training")
    faulty = {rank: faults.at(point, nth, faults.term) for rank in who}
    runs = start_ranks(arguments, tmp_path, faulty)
    codes = [run.wait(GRACE) for run in runs]
    assert codes == [75 if rank in who or not late else 0 for rank in (0, 1)], (
        codes,
        runs[0].text()[-2000:],
        runs[1].text()[-2000:],
    )
    assert saved_step(tmp_path) == step
    runs = start_ranks(arguments, tmp_path)
    assert [run.wait() for run in runs] == [0, 0], runs[0].text()[-3000:]
    assert result(tmp_path / "run").differs(references(2)) == ""


def test_second_interrupt_leaves_at_once(model, tmp_path):
    def twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        faults.hang()

    run = start(command(tmp_path / "run", model, **STEPS), tmp_path / "log", faults.at("forward", 2, twice))
    begin = time.monotonic()
    assert run.wait(60) == 130
    assert saved_step(tmp_path) is None
    assert time.monotonic() - begin < 60


# a library that goes on whatever is raised while it is imported
SWALLOWS = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except BaseException:
                print("went on")

sys.meta_path.insert(0, Finder())
sys.argv = ["uedpo", "run", *sys.argv[1:]]
from uedpo.__main__ import main
main()
"""


@pytest.mark.parametrize("more", [[], ["-m", "seed=0,1"]], ids=["run", "sweep"])
def test_no_import_swallows_a_signal(tmp_path, more):
    folders = [f"hydra.{'sweep' if more else 'run'}.dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWS, *more, *folders], capture_output=True, text=True, timeout=GRACE
    )
    assert done.returncode == 75, done.stderr
    assert "went on" not in done.stdout
    assert re.search(r"preempted by SIGTERM: not training, nothing to save;.* exit code 75", done.stderr)


@pytest.mark.exhaustive
@pytest.mark.parametrize("delay", [0.3, 1.0, 3.0])
def test_sigterm_while_the_program_is_imported(tmp_path, delay):
    run = subprocess.Popen(
        [sys.executable, "-m", "uedpo", "run", f"hydra.run.dir={tmp_path / 'run'}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(delay)
    begin = time.monotonic()
    run.send_signal(signal.SIGTERM)
    _, error = run.communicate(timeout=GRACE)
    assert run.returncode == 75, error
    assert re.search("preempted by SIGTERM: not training, nothing to save; exit code 75", error)
    assert time.monotonic() - begin < 20
