"""Files that `generate` did not write, and paths that cannot be: one line each."""

import sys

import pytest

from uedpo.errors import InputError
from uedpo.evaluation.append_file import ANSWERS, line_of, sealed
from uedpo.evaluation.merge import merge
from uedpo.evaluation.options import command


def write(folder, header, *rows):
    path = folder / "shard.jsonl"
    path.write_bytes(b"".join(map(line_of, [sealed({ANSWERS: 1, **header}), *rows])))
    return str(path)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ({"num": 1}, {"id": 1}, r"shard.jsonl:1: shard must be a text"),
        ({"shard": "0/1"}, {"id": 1}, r"shard.jsonl:1: num must be a whole number"),
        ({"shard": "x", "num": 1}, {"id": 1}, r"shard.jsonl:1: shard must be i/n"),
        ({"shard": "0/0", "num": 1}, {"id": 1}, r"shard.jsonl:1: shard must be i/n"),
        ({"shard": "0/1", "num": 1}, {"id": [1]}, r"shard.jsonl:2: id must be a whole number"),
        ({"shard": "0/1", "num": 1}, {"answer": "a"}, r"shard.jsonl:2: id must be a whole number"),
    ],
)
def test_headers_and_rows_of_other_files_are_named(tmp_path, header, row, message):
    with pytest.raises(InputError, match=message):
        merge(str(tmp_path / "out.jsonl"), [write(tmp_path, header, row)])


def test_a_path_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, capsys):
    shard = write(tmp_path, {"shard": "0/1", "num": 1}, {"id": 1, "answer": "a"})
    monkeypatch.setattr(sys, "argv", ["merge", f"output={shard}/x.jsonl", shard])
    with pytest.raises(SystemExit) as ended:
        command(merge, bare="shards")
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(shard)
    assert error.count("\n") == 1
