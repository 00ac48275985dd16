"""Parquet files: small ones that become large tables are refused; replaced ones are read anew."""

import json
import os
import shutil

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.marks import slow_but
from tests.security.limits import one_line
from tests.unit.test_images import encoded, noise
from uedpo.data.fingerprint import fingerprint
from uedpo.data.reading import read_rows
from uedpo.data.rlhf_v import RLHFVPairs


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def written(path, columns, **options):
    parquet.write_table(pa.table(columns), path, **options)
    return path


BOMBS = {
    "repeated": ({"image": [b"\0" * 2**19] * 2000}, {"compression": "zstd"}),
    "repeated text": ({"prompt": ["x" * 2**16] * 20_000}, {}),
    "page": ({"image": [b"\0" * 2**28, b"\0" * 2**28]}, {"compression": "zstd", "use_dictionary": False}),
    "in structures": ({"image": [{"bytes": b"\0" * 2**22, "path": "p"}] * 400}, {"compression": "zstd"}),
}


@pytest.mark.parametrize("name", slow_but(("repeated text",), BOMBS))
def test_small_files_that_become_large_tables_are_one_line(tmp_path, name):
    columns, options = BOMBS[name]
    path = written(tmp_path / "bomb.parquet", columns, **options)
    assert path.stat().st_size < 3 * 2**20
    assert "unpack to more than" in one_line(lambda: read_rows(str(path)))
    assert "unpack to more than" in one_line(lambda: read_rows(str(tmp_path)))
    stored = sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*") if p.is_file())
    assert stored < 2**20


def test_one_picture_in_many_rows_is_no_bomb(tmp_path):
    path = written(tmp_path / "a.parquet", {"image": [encoded(noise((64, 64)), "PNG")] * 500})
    assert len(read_rows(str(path))) == 500


def rows(word):
    text = json.dumps({"question": "What?", "chosen": word, "rejected": "A cat."})
    image = {"bytes": encoded(noise((64, 64)), "PNG"), "path": "x.png"}
    return {"idx": [1, 2], "image": [image] * 2, "text": [text] * 2, "ds_name": ["d"] * 2}


def test_a_replaced_file_with_the_same_time_is_read_anew(tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    path = written(place / "a.parquet", {"chosen": ["old"]})
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    old = [read_rows(str(p))[0][1]["chosen"] for p in (path, place)]
    written(path, {"chosen": ["new"]})
    os.utime(path, ns=times)
    assert path.stat().st_mtime_ns == times[1]
    assert (old, [read_rows(str(p))[0][1]["chosen"] for p in (path, place)]) == (["old"] * 2, ["new"] * 2)
    shutil.copy2(written(tmp_path / "b.parquet", {"chosen": ["newer"]}), path)
    os.utime(path, ns=times)
    assert read_rows(str(path))[0][1]["chosen"] == "newer"


def test_the_fingerprint_of_a_replaced_file_is_another(tmp_path):
    path = written(tmp_path / "a.parquet", rows("A dog."))
    stat = path.stat()
    found = [fingerprint(RLHFVPairs(str(path), part="train", val_share=0.5))]
    written(path, rows("A cow."))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    found.append(fingerprint(RLHFVPairs(str(path), part="train", val_share=0.5)))
    assert found[0] != found[1]
