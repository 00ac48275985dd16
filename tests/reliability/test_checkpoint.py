"""The checkpoint files by themselves: never half a file, never a wrong byte, never another run's."""

import copy
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

import uedpo.callbacks.checkpoint_files
from tests.reliability import faults
from uedpo.callbacks.checkpoint_files import (
    DamagedError,
    Identity,
    VerifiedIO,
    checkpoints,
    choose,
    manifest_of,
    sweep,
    verify,
)
from uedpo.errors import InputError
from uedpo.logger.csv import MetricsCSV
from uedpo.runtime.lock import held

CONFIG = {"seed": 0, "optim": {"lr": 0.1}, "trainer": {"max_steps": 9}, "resume": None}
IO = VerifiedIO(Identity(CONFIG, "data"))


def state(step, size=2000):
    return {
        "global_step": step,
        "state_dict": {"w": torch.arange(size) + step},
        "loops": {"a": [1, None, "x"]},
    }


def saved(folder, *steps, io=IO):
    for step in steps:
        io.save_checkpoint(state(step), folder / f"step-{step:08d}.ckpt")
    return checkpoints(folder)


def test_checkpoint_comes_back_as_it_was(tmp_path):
    path = saved(tmp_path, 3)[0]
    found = IO.load_checkpoint(path)
    assert torch.equal(found["state_dict"]["w"], state(3)["state_dict"]["w"])
    about = verify(path)
    assert (about["step"], about["bytes"]) == (3, path.stat().st_size)
    assert {"torch", "uedpo", "commit"} <= about["versions"].keys()
    assert [f.name for f in sorted(tmp_path.iterdir())] == ["step-00000003.ckpt", "step-00000003.json"]


def test_every_flipped_bit_and_truncation_is_detected(tmp_path):
    path = saved(tmp_path, 1)[0]
    draw = random.Random(0)
    for number in range(200):
        target = manifest_of(path) if number % 10 == 0 else path
        good = target.read_bytes()
        bad = bytearray(good)
        bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        target.write_bytes(bad)
        with pytest.raises(DamagedError):
            IO.load_checkpoint(path)
        target.write_bytes(good)
    for number in range(20):
        target = manifest_of(path) if number % 5 == 0 else path
        good = target.read_bytes()
        target.write_bytes(good[: len(good) * number // 20])
        with pytest.raises(DamagedError):
            IO.load_checkpoint(path)
        target.write_bytes(good)
    assert IO.load_checkpoint(path)["global_step"] == 1


def test_auto_falls_back_and_says_so_required_stops(tmp_path, capsys):
    first, second = saved(tmp_path, 1, 2)
    second.write_bytes(second.read_bytes()[:-1])
    assert choose("auto", tmp_path, IO) == first
    out = capsys.readouterr().out
    assert f"{second}: damaged" in out
    assert f"resuming from {first}" in out
    with pytest.raises(DamagedError, match="instead of"):
        choose("required", tmp_path, IO)
    with pytest.raises(DamagedError, match="instead of"):
        choose(str(second), tmp_path, IO)
    first.write_bytes(b"")
    with pytest.raises(InputError, match="no checkpoint is whole"):
        choose("auto", tmp_path, IO)


def test_start_from_scratch_is_explicit(tmp_path):
    assert choose("auto", tmp_path / "new", IO) is None
    assert choose(None, tmp_path / "new", IO) is None
    with pytest.raises(InputError, match="resume=required: no checkpoint"):
        choose("required", tmp_path / "new", IO)
    saved(tmp_path, 1)
    with pytest.raises(InputError, match="add resume=auto"):
        choose(None, tmp_path, IO)


@pytest.mark.parametrize(
    ("keys", "value", "listed"),
    [
        (("seed",), 1, r"seed \(0 there, 1 here\)"),
        (("optim", "lr"), 0.2, r"optim.lr \(0.1 there, 0.2 here\)"),
        (("trainer", "max_steps"), 10, "trainer.max_steps"),  # decides the learning rates of all steps
        (("new",), "x", r"new \(absent there, x here\)"),
    ],
)
def test_checkpoint_of_another_configuration_is_refused(tmp_path, keys, value, listed):
    path = saved(tmp_path, 1)[0]
    other = copy.deepcopy(CONFIG)
    node = other
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    with pytest.raises(InputError, match=listed) as caught:
        choose("auto", tmp_path, VerifiedIO(Identity(other, "data")))
    assert not isinstance(caught.value, DamagedError)
    with pytest.raises(InputError, match="another data set"):
        VerifiedIO(Identity(CONFIG, "other")).load_checkpoint(path)
    VerifiedIO(Identity(CONFIG | {"resume": "auto", "method": "DPO"}, "data")).load_checkpoint(path)


def test_checkpoints_that_hold_code_are_refused(tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "step-00000001.ckpt"
    IO.save_checkpoint(state(1) | {"evil": Evil()}, path)
    with pytest.raises(Exception, match=r"[Ww]eights"):
        IO.load_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(InputError, match="unset it"):
        IO.load_checkpoint(saved(tmp_path, 2)[-1])


def test_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    path = saved(tmp_path, 1)[0]

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(uedpo.callbacks.checkpoint_files._Hashing, "write", full)
    with pytest.raises(InputError, match=r"step-00000002.ckpt: cannot be written \(No space left"):
        saved(tmp_path, 2)
    monkeypatch.undo()
    assert choose("auto", tmp_path, IO) == path
    assert not list(tmp_path.glob(".*.tmp"))


def test_rows_after_the_checkpoint_are_written_again_once(tmp_path):
    def log(logger, *steps):
        for step in steps:
            logger.log_metrics({"a": step / 3} | ({"b": 1.0} if step > 2 else {}), step)

    whole = MetricsCSV(str(tmp_path / "whole"))
    Path(whole.save_dir).mkdir()
    log(whole, 0, 1, 2, 3, 4)
    broken = MetricsCSV(str(tmp_path))
    log(broken, 0, 1, 2, 3)
    with broken.path.open("a") as file:
        file.write("0.123,1")  # killed in the middle of a row
    again = MetricsCSV(str(tmp_path))
    again.keep(2)
    log(again, 2, 3, 4)
    assert again.path.read_text() == whole.path.read_text()
    with pytest.raises(InputError, match="5 rows, the checkpoint was saved after 9"):
        MetricsCSV(str(tmp_path)).keep(9)


def test_second_run_in_a_folder_stops_and_names_the_first(tmp_path):
    code = f"""
import sys
from pathlib import Path
from uedpo.runtime.lock import held
with held(Path({str(tmp_path)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    first = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match=f"in use by process {first.pid} on .+, started 20"), held(tmp_path):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    with held(tmp_path):  # a killed run holds nothing
        pass


def writer(folder, pipe):
    """Save steps 1, 2, ... as `Checkpoints` does, saying which are done."""
    found = checkpoints(folder)
    step = verify(found[-1])["step"] if found else 0
    while True:
        step += 1
        saved(folder, step)
        os.write(pipe, bytes([step % 256]))
        for path in checkpoints(folder)[:-2]:
            uedpo.callbacks.checkpoint_files.remove(path)


def kill_writer(folder, number, draw):
    """Kill a writer, at a place or at a time; returns the checkpoints it had finished, a byte each."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            if number % 4 == 0:
                faults.after_bytes(draw.randrange(1, 4), draw.randrange(1, 15000))()
            elif number % 4 == 1:
                place = draw.choice(["before rename", "between rename and manifest"])
                faults.at(place, draw.randrange(1, 12), faults.kill)()
            writer(folder, theirs)
        finally:
            os._exit(1)
    os.close(theirs)
    if number % 4 > 1:
        time.sleep(draw.uniform(0.001, 0.08))
        os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    done = b""
    while chunk := os.read(ours, 4096):
        done += chunk
    os.close(ours)
    return done


KILLS = 100 if os.environ.get("CI") else 25


@pytest.mark.parametrize("elsewhere", [False, True], ids=["TMPDIR here", "TMPDIR on another file system"])
@pytest.mark.cases(1)
def test_no_kill_in_the_writer_costs_a_checkpoint(tmp_path, monkeypatch, elsewhere):
    other = Path("/dev/shm")
    if elsewhere and (not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev):
        pytest.skip("no second file system here")
    temporary = Path(tempfile.mkdtemp(dir=other if elsewhere else tmp_path))
    monkeypatch.setenv("TMPDIR", str(temporary))
    folder, draw, latest = tmp_path / "checkpoints", random.Random(elsewhere), 0
    folder.mkdir()
    try:
        for number in range(KILLS):
            done = kill_writer(folder, number, draw)
            found = choose("auto", folder, IO)
            step = 0 if found is None else IO.load_checkpoint(found)["global_step"]
            assert step >= latest + len(done), number  # what was reported as saved is there
            latest = step
            sweep(folder)
            assert not list(folder.glob(".*.tmp"))
        assert latest > KILLS / 4
        assert not list(temporary.iterdir())
    finally:
        shutil.rmtree(temporary)
