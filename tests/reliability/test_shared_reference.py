"""A reference cache that runs share, are killed in, and meet in; 10 + 4 pairs in batches of 2."""

import csv
import functools
import os
import signal
import time

import pytest

from tests.reliability import faults
from tests.reliability.harness import command, finish, result, start, start_ranks, tiny_model_folder
from uedpo.callbacks.checkpoint_files import checkpoints
from uedpo.reference import cache as reference_cache
from uedpo.reference.cache import ReferenceCache

STEPS = {"steps": 6, "every": 3, "val_every": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


def arguments(folder, model, cache, *more):
    return [*command(folder, model, **STEPS), f"reference_cache={cache}", *more]


def batches(action, nth=None):
    """A fault: shards of one batch, and `action()` after the nth batch was scored, or after each."""

    def plant():
        reference_cache.SHARD = 2
        real, calls = ReferenceCache._as_stored, 0

        @functools.wraps(real)
        def faulty(*given):
            nonlocal calls
            calls += 1
            if calls == nth or nth is None:
                action()
            return real(*given)

        ReferenceCache._as_stored = faulty

    return plant


def shards(cache):
    return sorted(cache.glob("shard-*"))


def losses(folder):
    with (folder / "metrics.csv").open() as file:
        return [float(row[k]) for row in csv.DictReader(file) for k in ("train/loss", "val/loss") if row[k]]


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """(cache, folder of the run that made it)."""
    folder = tmp_path_factory.mktemp("whole")
    finish(arguments(folder / "run", model, folder / "cache"), folder / "log", fault=batches(int))
    return folder / "cache", folder / "run"


@pytest.mark.slow
def test_a_killed_run_loses_one_shard_at_most_and_the_next_computes_the_rest(model, whole, tmp_path):
    cache = tmp_path / "cache"
    run = start(arguments(tmp_path / "run", model, cache), tmp_path / "log", fault=batches(faults.kill, 4))
    assert run.wait() == -signal.SIGKILL, run.text()[-3000:]
    kept = {path: path.stat().st_mtime_ns for path in shards(cache)}
    assert len(kept) == 3
    marks = tmp_path / "marks"
    again = batches(lambda: marks.open("a").write("x"))
    finish(arguments(tmp_path / "run", model, cache), tmp_path / "log2", fault=again)
    assert "reference cache: 8 pairs more (6 are there), about " in (tmp_path / "log2").read_text()
    assert marks.read_text() == "xxxx"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert [path.name for path in shards(cache)] == [path.name for path in shards(whole[0])]
    assert result(whole[1]).differs(result(tmp_path / "run")) == ""


def test_a_run_that_is_told_to_stop_stores_what_it_has(model, tmp_path):
    cache = tmp_path / "cache"
    fault = batches(lambda: os.kill(os.getpid(), signal.SIGTERM), 2)
    run = start(arguments(tmp_path / "run", model, cache), tmp_path / "log", fault=fault)
    assert run.wait() == 75, run.text()[-3000:]
    assert "preempted by SIGTERM: what is computed of the reference cache is stored" in run.text()
    assert len(shards(cache)) == 2
    assert not checkpoints(tmp_path / "run/checkpoints")


@pytest.mark.slow
def test_trials_share_a_cache_and_lose_as_with_a_live_reference(model, whole, tmp_path):
    finish(
        arguments(tmp_path / "run", model, whole[0], "seed=1"),
        tmp_path / "log",
        fault=batches(faults.kill, 1),
    )
    assert f"reference cache: all 14 pairs are in {whole[0]}" in (tmp_path / "log").read_text()
    finish([*command(tmp_path / "live", model, **STEPS), "seed=1"], tmp_path / "log")
    got, want = losses(tmp_path / "run"), losses(tmp_path / "live")
    assert len(got) == len(want) == 8
    assert max(abs(a - b) for a, b in zip(got, want, strict=True)) < 1e-6


@pytest.mark.slow
def test_two_runs_at_once_compute_once(model, whole, tmp_path):
    cache, first = tmp_path / "cache", tmp_path / "first"
    slow = batches(lambda: time.sleep(0.5))
    runs = [start(arguments(first, model, cache), tmp_path / "log0", fault=slow)]
    while not shards(cache):
        assert not runs[0].poll(), runs[0].text()[-3000:]
        time.sleep(0.01)
    runs.append(
        start(arguments(tmp_path / "second", model, cache), tmp_path / "log1", fault=batches(faults.kill, 1))
    )
    assert [run.wait() for run in runs] == [0, 0], runs[1].text()[-3000:]
    assert f"{cache}: in use by process {runs[0].pid}" in runs[1].text()
    assert "waiting for it" in runs[1].text()
    assert [path.name for path in shards(cache)] == [path.name for path in shards(whole[0])]
    assert result(first).differs(result(tmp_path / "second")) == ""


@pytest.mark.slow
def test_of_two_runs_at_once_one_is_killed_and_the_other_fills_the_cache(model, whole, tmp_path):
    cache, marks = tmp_path / "cache", tmp_path / "marks"
    stuck = batches(lambda: time.sleep(600), 3)
    runs = [start(arguments(tmp_path / "a", model, cache), tmp_path / "log0", fault=stuck)]
    again = batches(lambda: marks.open("a").write("x"))
    while len(shards(cache)) < 2:
        assert not runs[0].poll(), runs[0].text()[-3000:]
        time.sleep(0.01)
    runs.append(start(arguments(tmp_path / "b", model, cache), tmp_path / "log1", fault=again))
    log, end = tmp_path / "log1", time.monotonic() + 60
    while not (log.exists() and "waiting for it" in log.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(runs[0].pid, signal.SIGKILL)
    assert [run.wait() for run in runs] == [-signal.SIGKILL, 0], runs[1].text()[-3000:]
    assert len(marks.read_text()) == 7 - 2  # the batches that the other had not stored
    assert [path.name for path in shards(cache)] == [path.name for path in shards(whole[0])]
    assert result(whole[1]).differs(result(tmp_path / "b")) == ""


@pytest.mark.slow
def test_ranks_compute_a_share_each(model, tmp_path):
    cache = tmp_path / "cache"
    more = ["trainer=ddp_cpu", "timeout=60"]
    runs = start_ranks(
        arguments(tmp_path / "run", model, cache, *more), tmp_path, {r: batches(int) for r in (0, 1)}
    )
    assert [run.wait() for run in runs] == [0, 0], runs[0].text()[-2000:] + runs[1].text()[-2000:]
    assert len(shards(cache)) == 6  # of each rank: 2, 2, and 1 training pair with 2 of validation
    assert runs[0].text().count("reference cache: 14 pairs, about") == 1
    assert "reference cache" not in runs[1].text()
    finish(arguments(tmp_path / "one", model, cache), tmp_path / "log", fault=batches(faults.kill, 1))


def test_a_stale_cache_is_one_line_and_exit_code_2(model, whole, tmp_path):
    run = start(arguments(tmp_path / "run", model, whole[0], "scoring=plain"), tmp_path / "log")
    assert run.wait() == 2
    (line,) = run.text().splitlines()
    assert line == (
        f"{whole[0]}: reference cache of another setting: scoring (prefix_shared there, plain here); "
        "name another folder, or delete this one"
    )
