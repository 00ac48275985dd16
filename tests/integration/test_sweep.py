"""Sweeps as a user runs them: killed, failing, resumed, searched."""

import json
import os
import re
import shlex
import signal
import time
from collections import Counter

import pytest

from tests.processes import Command, run
from uedpo.results.statistics import mean_interval
from uedpo.sweep.journal import NAME, read

pytestmark = pytest.mark.slow  # test_tracking.py has a sweep of one trial, tests/unit/test_sweep.py the rest
TINY = [
    "threads=1", "trainer.max_steps=1", "trainer.val_every_n_batches=0", "evaluation.num_shift=3",
    "evaluation.num_train=0", "evaluation.max_new_tokens=8", "data.batch_size=2", "data.val.num_pairs=1",
    "data.train.num_pairs=4", "report_pairs=0",
    "callbacks.best=null", "callbacks.last=null", "callbacks.progress=null",
]  # fmt: skip


def command(folder, *arguments):
    return ["uedpo.run", "-m", *TINY, *arguments, f"hydra.sweep.dir={folder}"]


def uedpo(folder, *arguments):
    return run(*command(folder, *arguments))


def wait_for(condition, process, timeout=600):
    end = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, "the sweep ended before"
        assert time.monotonic() < end
        time.sleep(0.02)


def lines(folder):
    return [json.loads(line) for line in (folder / NAME).read_text().splitlines()]


def without_pictures(text):
    """As a terminal gets it."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("![")).strip()


def spoil(folder, trial):
    """Make one trial fail, and it alone: a directory where it would write its metrics."""
    (folder / trial / "metrics.csv").mkdir(parents=True)


SWEEP = ["weights.alpha=0.1,0.5", "seed=range(6)"]
FAILING = "7"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """(folder, result of the second command, lines and times of files as the kill left them)."""
    folder = tmp_path_factory.mktemp("sweep") / "all"
    spoil(folder, FAILING)
    first = Command(*command(folder, *SWEEP), own_group=True)

    def four_are_done_and_the_next_is_training():
        if not (folder / NAME).is_file():
            return False
        events = [line["event"] for line in lines(folder)]
        return events.count("finish") >= 4 and events[-1] == "begin"

    wait_for(four_are_done_and_the_next_is_training, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = lines(folder)
    times = {p: p.stat().st_mtime_ns for p in folder.glob("*/metrics.json")}
    return folder, uedpo(folder, *SWEEP), before, times


def test_a_killed_sweep_goes_on_and_runs_each_trial_once(sweep):
    folder, done, before, times = sweep
    finished = [line["key"] for line in before if line["event"] == "finish"]
    assert len(finished) == len(times) >= 4
    assert {p: p.stat().st_mtime_ns for p in times} == times
    counts = {
        e: Counter(x["key"] for x in lines(folder) if x["event"] == e) for e in ("begin", "finish", "fail")
    }
    assert len(counts["finish"]) == 11
    assert set(counts["finish"].values()) == {1}
    killed = before[-1]["key"]
    begun = counts["begin"]
    assert begun.pop(killed) == 2
    (failed,) = counts["fail"]
    assert begun.pop(failed) == counts["fail"][failed] == 1
    assert set(begun.values()) == {1}
    assert done.stdout.count("skipped, it was finished before") == len(finished)
    assert "[12/12] " in done.stdout


def test_a_resumed_sweep_names_the_failed_trial_and_exits_4(sweep):
    folder, done, _, _ = sweep
    assert done.returncode == 4, done.stderr[-3000:]
    text = (folder / "summary.md").read_text()
    assert without_pictures(text) in done.stdout
    ran, skipped = map(
        int, re.findall(r"12 trials: (\d+) finished, (\d+) skipped \(had before\), 1 failed", text)[0]
    )
    assert ran + skipped == 11
    (line,) = [line for line in text.splitlines() if line.startswith("- ")]
    assert line.startswith(f"- {FAILING} (weights.alpha=0.5 seed=1): ")
    assert "metrics.csv: cannot be written (Is a directory)" in line
    assert line.endswith(f"log: {folder / FAILING / 'trial.log'}")
    assert "cannot be written" in (folder / FAILING / "trial.log").read_text()
    assert "Traceback" not in done.stderr


def test_the_summary_of_a_resumed_sweep_is_that_of_its_trials(sweep):
    folder, _, _, _ = sweep
    text = (folder / "summary.md").read_text()
    for alpha, runs in (("0.1", 6), ("0.5", 5)):
        values = []
        for trial in read(folder).trials.values():
            if f"weights.alpha={alpha}" in trial.overrides and trial.state == "finished":
                metrics = json.loads((folder / trial.folder / "metrics.json").read_text())
                values.append(100 * metrics["after"]["shift"]["coverage"]["value"])
        assert len(values) == runs
        mean, half = mean_interval(values)
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {alpha} |")]
        assert row.startswith(f"| {alpha} | {runs} | ")
        assert f" | {mean:.1f} ± {half:.1f} | " in row
    assert (folder / "summary.png").stat().st_size > 1000


def test_the_printed_command_repeats_the_best_run(sweep, tmp_path):
    folder, done, _, _ = sweep
    (best,) = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("Best run: ")]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("    python -m uedpo.run")]
    again = run(*shlex.split(line)[2:], f"hydra.run.dir={tmp_path}")
    assert again.returncode == 0, again.stderr[-3000:]
    there, here = ((f / "metrics.json").read_text() for f in (folder / best.split("/")[-1], tmp_path))
    assert json.loads(there)["after"] == json.loads(here)["after"]


def test_failed_trials_run_again_and_compare_reads_the_sweep(sweep):
    folder, _, _, _ = sweep
    (folder / FAILING / "metrics.csv").rmdir()
    done = uedpo(folder, *SWEEP)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "12 trials: 1 finished, 11 skipped (had before), 0 failed." in done.stdout
    assert sum(line["event"] == "finish" for line in lines(folder)) == 12
    told = run("uedpo.compare", folder, "--against", "0.1", "--out", folder / "x")
    assert told.returncode == 0, told.stderr[-3000:]
    table = (folder / "summary.md").read_text().split("\n\n")[1]
    assert table in told.stdout
    assert "Difference from 0.1" in told.stdout
    assert (folder / "x_differences.png").is_file()


def test_a_trial_killed_by_the_system_is_a_failed_trial_of_joblib(tmp_path):
    folder = tmp_path / "all"
    joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = Command(*command(folder, "weights.alpha=0.1,0.5,0.9", *joblib))
    lock = folder / "1" / "run.lock"
    wait_for(lambda: lock.is_file() and lock.read_text().endswith("}"), process)
    os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
    assert process.wait() == 4
    out = process.stdout + process.stderr
    assert "3 trials: 2 finished, 1 failed." in out
    assert "- 1 (weights.alpha=0.5): killed by SIGKILL; the system does that where memory runs out" in out
    states = [trial.state for trial in sorted(read(folder).trials.values(), key=lambda t: t.folder)]
    assert states == ["finished", "failed", "finished"]


def test_a_sweep_told_to_stop_saves_and_exits_75(tmp_path):
    folder = tmp_path / "all"
    kept = [a for a in TINY if not a.startswith(("evaluation.", "callbacks.last", "trainer.max_steps"))]
    more = ["seed=0,1", "trainer.max_steps=60", "evaluation=none", "callbacks.last.every_n_train_steps=1"]
    words = ["uedpo.run", "-m", *kept, *more, f"hydra.sweep.dir={folder}"]
    process = Command(*words)
    wait_for(lambda: list(folder.glob("0/checkpoints/step-*.json")), process)
    process.terminate()
    assert process.wait() == 75, process.stdout + process.stderr
    said = f"go on with the same command and hydra.sweep.dir={folder}"
    assert said in (folder / "0/trial.log").read_text()
    done = run(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming from" in (folder / "0/trial.log").read_text()


def test_a_search_survives_a_failed_trial_and_is_replayed(tmp_path):
    folder = tmp_path / "all"
    spoil(folder, "1")
    search = [
        "weights.alpha=interval(0,1)", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3",
        "hydra.sweeper.n_jobs=1", "hydra.sweeper.sampler.seed=0",
    ]  # fmt: skip
    first = uedpo(folder, *search)
    assert first.returncode == 4, first.stderr[-3000:]
    assert "3 trials: 2 finished, 1 failed." in first.stdout
    (folder / "1" / "metrics.csv").rmdir()
    again = uedpo(folder, *search)
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.count("skipped, it was finished before") == 2
    assert "3 trials: 1 finished, 2 skipped (had before), 0 failed." in again.stdout


def test_submitit_runs_trials_and_keeps_failures_apart(tmp_path):
    folder = tmp_path / "all"
    spoil(folder, "1")
    done = uedpo(folder, "weights.alpha=0.1,0.5", "hydra/launcher=submitit_local")
    assert done.returncode == 4, done.stderr[-3000:]
    assert "2 trials: 1 finished, 1 failed." in done.stdout
