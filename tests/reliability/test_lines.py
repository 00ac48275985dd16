"""Files that grow by lines: full disks, kills and missing newlines cost no line and end no later run."""

import errno
import json
import multiprocessing
import os

import pytest

from uedpo.errors import InputError
from uedpo.evaluation.append_file import AppendFile
from uedpo.results.keys import key_of
from uedpo.results.store import append_row, read_rows
from uedpo.sweep import journal


def row(number):
    config = {"seed": number}
    return {"key": key_of(config), "method": "m", "config": config, "commit": None, "seconds": 1.0,
            "metrics": {}, "counts": {}}  # fmt: skip


def begin(number):
    return {"key": f"k{number}", "trial": str(number), "overrides": []}


FILES = {
    "results": (
        lambda p, n: append_row(p, row(n)),
        lambda p: [r["config"]["seed"] for r in read_rows(p).values()],
    ),
    "journal": (
        lambda p, n: journal.write(p.parent, "begin", **begin(n)),
        lambda p: [int(t.folder) for t in journal.read(p.parent).trials.values()],
    ),
}  # fmt: skip
both = pytest.mark.parametrize("kind", FILES)


def made(kind, tmp_path):
    write, read = FILES[kind]
    path = tmp_path / journal.NAME
    write(path, 0)
    write(path, 1)
    return path, write, read


@both
@pytest.mark.parametrize("left", [1, 20, 60])
def test_half_a_line_is_passed_over_and_cut_by_the_next(kind, tmp_path, left, capsys):
    path, write, read = made(kind, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[1][:left])
    assert read(path) == [0, 1]
    assert "was cut by a full disk or a kill" in capsys.readouterr().out
    write(path, 2)
    assert "and was removed" in capsys.readouterr().out
    assert read(path) == [0, 1, 2]
    assert path.read_bytes().startswith(whole)


@both
@pytest.mark.parametrize(
    "tail", [b"\0" * 100, b'{"key": "a' + b"\0" * 50, b"{", b'{"key": "' + b"x" * 200_000]
)
def test_what_a_machine_without_power_leaves_is_passed_over(kind, tmp_path, tail):
    path, write, read = made(kind, tmp_path)
    if kind == "journal":
        tail = tail.replace(b"key", b"event")
    path.write_bytes(path.read_bytes() + tail)
    assert read(path) == [0, 1]
    write(path, 2)
    assert read(path) == [0, 1, 2]


@both
def test_a_missing_newline_is_added(kind, tmp_path, capsys):
    path, write, read = made(kind, tmp_path)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert read(path) == [0, 1]
    write(path, 2)
    assert "had no end, which was added" in capsys.readouterr().out
    assert read(path) == [0, 1, 2]


@both
def test_zeros_after_a_whole_line_cost_no_line(kind, tmp_path):
    path, write, read = made(kind, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole.rstrip(b"\n") + b"\0" * 50)
    assert read(path) == [0, 1]
    write(path, 2)
    assert read(path) == [0, 1, 2]
    assert path.read_bytes().startswith(whole)


@both
@pytest.mark.parametrize(
    "text", ["buy milk", "{todo: buy milk}", "{'a': 1}", '{"a": ', "[1, 2", "\u00e9", "{ "]
)
def test_text_of_somebody_else_is_named_and_kept(kind, tmp_path, text):
    path, write, read = made(kind, tmp_path)
    path.write_bytes(path.read_bytes() + text.encode())
    with pytest.raises(InputError, match=r"jsonl:3: not a (row of results|line of a sweep).*remove"):
        read(path)
    write(path, 2)
    lines = path.read_text().splitlines()
    assert lines[2] == text
    path.write_text("\n".join([*lines[:2], *lines[3:]]))  # as it says
    assert read(path) == [0, 1, 2]


@both
@pytest.mark.parametrize("room", [0, 1, 40, None])
def test_a_full_disk_leaves_the_file_as_it_was(kind, tmp_path, room, monkeypatch):
    path, write, read = made(kind, tmp_path)
    whole, real = path.read_bytes(), os.write

    def full(handle, data):
        if room is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data[:room])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(InputError, match="make room"):
        write(path, 2)
    monkeypatch.undo()
    assert path.read_bytes() == whole
    write(path, 2)
    assert read(path) == [0, 1, 2]


def test_answers_and_replies_keep_the_same_rule(tmp_path, monkeypatch):
    path, real = tmp_path / "a.jsonl", os.write
    with AppendFile(path, {"kind": 1}) as file:
        file.append({"a": 1})
        whole = path.read_bytes()
        monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:5]))
        with pytest.raises(InputError, match="make room"):
            file.append({"a": 2})
        monkeypatch.undo()
        assert path.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path, _, read = made("results", tmp_path)
    path.write_bytes(b'{"key"\n' + path.read_bytes())
    with pytest.raises(InputError, match=r":1: not a row of results"):
        read(path)


def _many(path, start):
    for number in range(start, start + 50):
        append_row(path, row(number))


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    path = tmp_path / "results.jsonl"
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_many, args=(path, 100 * i)) for i in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert len(read_rows(path)) == 200
    assert all(json.loads(line) for line in path.read_text().splitlines())
