"""Validation pairs that are in training are found by id and by picture, and by nothing else."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from uedpo.data.datamodule import PairDataModule
from uedpo.data.jsonl import JsonlPairs
from uedpo.data.overlap import find_overlap
from uedpo.errors import InputError
from uedpo.model.hf import HFModel


def _file(folder: Path, name: str, rows: list[dict[str, object]]) -> JsonlPairs:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    texts = {"prompt": "Describe.", "chosen": "A cat.", "rejected": "A dog."}
    path.write_text("".join(json.dumps(texts | {"image": None} | row) + "\n" for row in rows))
    return JsonlPairs(str(path))


def _picture(path: Path, color: str) -> str:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), color).save(path)
    return path.name


def _sets(tmp_path: Path) -> tuple[JsonlPairs, JsonlPairs]:
    red, blue = (_picture(tmp_path / "a" / f"{c}.png", c) for c in ("red", "blue"))
    # the same content under another name, and another content under the same name
    copy, other = _picture(tmp_path / "b" / "x.png", "red"), _picture(tmp_path / "b" / "blue.png", "green")
    train = _file(tmp_path, "a/pairs.jsonl", [{"id": 7, "image": red}, {"image": blue}, {}])
    val = _file(tmp_path, "b/pairs.jsonl", [{"image": copy}, {"image": other}, {}, {"id": 7}, {"id": 8}])
    return train, val


def test_find_overlap_by_id_and_by_content(tmp_path: Path) -> None:
    found = find_overlap(*_sets(tmp_path))
    assert found.id == [3]
    assert found.image == [0]


def test_find_overlap_of_stored_pictures(tmp_path: Path) -> None:
    train, val = _sets(tmp_path)
    for part in (train, val):
        kept = [(pair, pair.image.read_bytes()) for pair in part.rows if pair.image]
        part.rows = [replace(pair, image=functools.partial(bytes, raw)) for pair, raw in kept]
        part.lines = list(range(1, len(part.rows) + 1))
    assert find_overlap(train, val).image == [0]


def test_datamodule_warns_or_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, val = _sets(tmp_path)
    processor = HFModel("uedpo:micro_llava").processor()
    PairDataModule(train, val, processor).report(tmp_path)
    warning = capsys.readouterr().out.splitlines()[-1]
    assert warning.startswith("WARNING: 2 of 5 validation pairs")
    assert "(1 by id, 1 by image content; first: 'pairs.jsonl:1')" in warning
    with pytest.raises(InputError, match="2 of 5 validation pairs"):
        PairDataModule(train, val, processor, overlap="stop")
    apart = _file(tmp_path, "c/pairs.jsonl", [{}])
    PairDataModule(train, apart, processor, overlap="stop").report(tmp_path)
    assert "WARNING" not in capsys.readouterr().out
