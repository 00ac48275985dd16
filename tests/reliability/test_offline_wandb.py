"""Offline W&B after kills: all parts together hold every row of metrics.csv, each once."""

import collections
import csv
import json
import re

import pytest

from tests.reliability import faults
from tests.reliability.harness import command, finish, start, tiny_model_folder
from uedpo.logger import STEP
from uedpo.logger.offline import messages, parts, written

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("base") / "tiny")


def counted(folder):
    """(step, metric) -> how often the parts hold it."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = collections.Counter()
    for file in folder.rglob("*.wandb"):
        for message in messages(file.read_bytes()):
            record = Record()
            record.ParseFromString(message)
            row = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
            if STEP in row:
                found.update((int(json.loads(row[STEP])), name) for name in row)
    return found


@pytest.mark.parametrize("late", [4, pytest.param(11, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_killed_offline_runs_hold_every_row_once(model, tmp_path, late):
    folder = tmp_path / "run"
    keys = command(folder, model, every=3, val_every=4, method="dpo")
    keys = [
        *keys,
        "resume=auto",
        "logger=[csv,wandb]",
        "logger.wandb.mode=offline",
        "callbacks.histograms=null",
    ]
    killed = start(keys, tmp_path / "log0", fault=faults.at("forward", late, faults.kill))
    assert killed.wait() < 0, killed.text()[-2000:]
    done = finish(keys, tmp_path / "log1")
    assert len(parts(folder)) == 2
    found = counted(folder)
    with (folder / "metrics.csv").open() as file:
        wanted = {
            (int(row["step"]), name)
            for row in csv.DictReader(file)
            for name, value in row.items()
            if value and name not in ("step", "epoch")
        }
    assert wanted <= set(found)
    again = {key: n for key, n in found.items() if n > 1 and re.match(r"(train|val)/", key[1])}
    assert again == {}
    assert set(found) == written(folder)
    (line,) = [line for line in done.text().splitlines() if line.startswith("W&B: this run is on disk")]
    assert all(str(part) in line for part in parts(folder))


def test_a_file_that_a_kill_cut_off_is_read_up_to_there(tmp_path):
    piece = b"\0\0\0\0" + b"\3\0\1" + b"abc"
    head = b":W&B\0\0\0"
    assert list(messages(head + 2 * piece)) == [b"abc"] * 2
    for cut in range(1, len(piece)):
        assert list(messages(head + 2 * piece + piece[:cut])) == [b"abc"] * 2
    assert list(messages(head + piece + bytes(100))) == [b"abc"]
    assert list(messages(b"")) == []
