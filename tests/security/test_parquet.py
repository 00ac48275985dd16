"""Parquet files: those that become far larger tables are refused; replaced ones are read anew."""

import json
import os
import shutil

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.security.limits import one_line
from tests.unit.test_images import encoded, noise
from uedpo.data import reading
from uedpo.data.files import FilePairs
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
    "repeated text": ({"prompt": ["x" * 2**16] * 20_000}, {}),
    "repeated": ({"image": [b"\0" * 2**19] * 2000}, {"compression": "zstd"}),
    "page": ({"image": [b"\0" * 2**28, b"\0" * 2**28]}, {"compression": "zstd", "use_dictionary": False}),
    "in structures": ({"image": [{"bytes": b"\0" * 2**22, "path": "p"}] * 400}, {"compression": "zstd"}),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.cases(1)
def test_small_files_that_become_large_tables_are_one_line(tmp_path, name):
    columns, options = BOMBS[name]
    path = written(tmp_path / "bomb.parquet", columns, **options)
    assert path.stat().st_size < 3 * 2**20
    assert "unpack to more than" in one_line(lambda: read_rows(str(path)))
    assert "unpack to more than" in one_line(lambda: read_rows(str(tmp_path)))
    stored = sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*") if p.is_file())
    assert stored < 2**20


def many_nulls(path):
    return written(path, {"prompt": pa.nulls(2**21)})


def many_numbers(path):
    return written(path, {"chosen": pa.array([[0] * 2**21], pa.list_(pa.int8()))})


def many_groups(path):
    return written(path, {"prompt": ["a"] * 400}, row_group_size=1)


COUNTS = {
    "nulls": (many_nulls, "more rows or values than bytes"),
    "numbers": (many_numbers, "more rows or values than bytes"),
    "columns": (lambda path: written(path, {f"c{i}": [1] for i in range(1001)}), "1001 columns in 1 row"),
    "groups": (many_groups, "1 columns in 400 row groups"),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parts_without_number_are_one_line(tmp_path, name, monkeypatch):
    monkeypatch.setattr(reading, "MOST_GROUPS", 100)  # thousands take seconds to write
    write, said = COUNTS[name]
    path = write(tmp_path / "a.parquet")
    assert said in one_line(lambda: read_rows(str(path)))


def test_a_bomb_beside_honest_bytes_is_one_line(tmp_path, monkeypatch):
    """Whatever the size of the file: there is none above which nothing is checked."""
    monkeypatch.setattr(reading, "LEAST_TABLE", 2**20)
    honest = {"image": [os.urandom(2**16) for _ in range(64)]}
    written(tmp_path / "a.parquet", honest)
    assert len(read_rows(str(tmp_path / "a.parquet"))) == 64
    written(tmp_path / "b.parquet", honest | {"prompt": ["x" * 2**21] * 64})
    assert "unpack to more than" in one_line(lambda: read_rows(str(tmp_path / "b.parquet")))


NO_UTF8 = [pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
VALUES = {
    "text": (pa.Array.from_buffers(pa.string(), 1, [None, *NO_UTF8]), "BAD_UTF8"),
    "time": (pa.array([10**18], pa.duration("s")), "BAD_TYPE"),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_that_python_has_none_for_are_rejected_rows(tmp_path, name):
    values, code = VALUES[name]
    rows = read_rows(str(written(tmp_path / "a.parquet", {"prompt": values})))
    place, problem = rows[0]
    assert (place, problem.code) == (1, code)
    assert "FilePairs" not in one_line(lambda: FilePairs(rows, range(1), max_bad_fraction=1.0))


def test_a_folder_holds_its_own_regular_files(tmp_path):
    place = tmp_path / "data"
    other = written(tmp_path / "b.parquet", {"prompt": ["a"]})
    ways = {
        "a link that leaves": lambda path: os.symlink(other, path),
        "no regular file": lambda path: os.symlink(path, path),
        "a.parquet: no regular": os.mkfifo,
    }
    for said, make in ways.items():
        place.mkdir()
        make(place / "a.parquet")
        assert said in one_line(lambda: read_rows(str(place)))
        shutil.rmtree(place)


def test_a_file_that_was_converted_is_not_unpacked_twice(tmp_path, monkeypatch):
    path = written(tmp_path / "a.parquet", {"prompt": ["a"]})
    read_rows(str(path))
    monkeypatch.setattr(reading, "_check_expansion", lambda path: pytest.fail("unpacked again"))
    assert len(read_rows(str(path))) == 1


FEATURES = ["Image", "Audio", "Video", "Pdf", "Nifti"]


@pytest.mark.parametrize("kind", FEATURES)
def test_what_the_schema_calls_a_medium_is_not_opened(tmp_path, kind):
    """`datasets` would open paths and addresses of such columns."""
    table = pa.table({"image": pa.array([{"bytes": None, "path": str(tmp_path / "secret")}])})
    (tmp_path / "secret").write_text("canary")
    about = json.dumps({"info": {"features": {"image": {"_type": kind}}}})
    parquet.write_table(table.replace_schema_metadata({"huggingface": about}), tmp_path / "a.parquet")
    assert "canary" not in str(read_rows(str(tmp_path / "a.parquet"))[0])


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
