"""What would take time or memory without end is one line within 10 s and 1 GB."""

import base64
import io
import json
import re
import zlib

import pytest
from PIL import Image

from tests.security.limits import one_line
from tests.security.test_run_from_elsewhere import BOMB
from tests.unit.test_images import encoded, noise, png_header
from uedpo.config.overrides import check_own_config
from uedpo.data.files import FilePairs
from uedpo.data.images import check_image, load_image
from uedpo.data.reading import read_rows as data_rows
from uedpo.data.rejects import RowProblem
from uedpo.errors import InputError
from uedpo.results.keys import key_of
from uedpo.results.store import read_rows
from uedpo.sweep import journal


def packed(scenes, columns, size):
    data = zlib.compress(b"\0" * size, 9)
    for _ in range(2 if size > 2**28 else 0):
        data = zlib.compress(data, 9)
    return {"columns": columns, "scenes": scenes, "data": base64.b64encode(data).decode()}


ROWS = {
    "data": lambda: packed(2, ["a"], 2**28),
    "scenes": lambda: packed(10**12, ["a"], 10),
    "negative": lambda: packed(-1, ["a"], 10),
    "text": lambda: {"columns": ["a"], "scenes": "x", "data": ""},
    "columns": lambda: packed(10**6, ["a"] * 1000, 10),
    "deep": lambda: {"columns": json.loads("[" * 500 + "]" * 500), "scenes": 1, "data": ""},
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_unpack_to_gigabytes(tmp_path, name):
    config = {"seed": 0}
    row = {"key": key_of(config), "method": "m", "config": config, "commit": None, "seconds": 1.0,
           "metrics": {}, "counts": {"shift": ROWS[name]()}}  # fmt: skip
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert ":1: not a row of results" in one_line(lambda: read_rows(path))


@pytest.mark.parametrize("text", ["[" * 10**6, '{"event":' * 10**6, "9" * 10**6])
def test_lines_that_are_deep(tmp_path, text):
    (tmp_path / journal.NAME).write_text(text + "\n")
    assert "not a line of a sweep" in one_line(lambda: journal.read(tmp_path))
    assert "not a row of results" in one_line(lambda: read_rows(tmp_path / journal.NAME))


@pytest.mark.parametrize(
    ("place", "chosen", "instead"),
    [
        ("config.yaml", [], None),
        ("loss/x.yaml", ["+loss=x"], ["loss=x"]),
        ("a/b/x.yaml", ["+a/b=x"], ["+a/b=x"]),
    ],
)
def test_anchors_of_ones_own_configuration(tmp_path, place, chosen, instead):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text(BOMB)
    said = one_line(lambda: check_own_config(chosen, str(tmp_path), "config", None))
    assert "its anchors or nesting" in said
    if instead is not None:  # beside the shipped configuration, whose config.yaml comes first
        said = one_line(lambda: check_own_config(instead, None, None, str(tmp_path)))
        assert "its anchors or nesting" in said


def scans(count):
    """A progressive JPEG whose last scan is there so many times more."""
    buffer = io.BytesIO()
    noise((64, 64)).resize((2000, 2000)).save(buffer, "JPEG", progressive=True, quality=30)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def test_a_jpeg_of_hundreds_of_scans():
    for call in (check_image, load_image):
        with pytest.raises(RowProblem, match=r"a JPEG of \d+ scans, allowed 64"):
            call(scans(500))
    assert isinstance(load_image(scans(1)), Image.Image)


JPEG, GIF = (encoded(noise((64, 64)), kind) for kind in ("JPEG", "GIF"))
PNG_HEADER = png_header(64, 64)[:33]
PIECES = {
    "comments": JPEG[:2] + b"\xff\xfe\x00\x03x" * 2_000_000 + JPEG[2:],
    "filling": JPEG[:2] + b"\xff" * 20_000_000 + JPEG[2:],
    "junk": JPEG[:2] + b"\xff\xfe\0\3x" + b"\0" * 20_000_000 + JPEG[2:],
    "blocks": GIF[:13] + b"!\xfe" + b"\x01x" * 10_000_000 + b"\0;",
    "extensions": GIF[:13] + b"!\xfe\0" * 5_000_000 + b";",
    "chunks": PNG_HEADER + b"\0\0\0\0tEXt\x36\x29\x9e\x2e" * 2_000_000,
}


@pytest.mark.parametrize("name", PIECES)
def test_pictures_of_millions_of_pieces(name):
    def call():
        try:
            return check_image(PIECES[name])
        except RowProblem as problem:
            raise InputError(str(problem)) from None

    assert re.search("pieces; save it anew|damaged or cut short|cannot be decoded", one_line(call))


def test_a_row_of_thousands_of_keys(tmp_path):
    keys = b",".join(b'"k%d":1' % i for i in range(70_000))
    for name, line in (("a.jsonl", b'{%s,"k69999":1}' % keys), ("a.json", b'[{%s,"k69999":1}]' % keys)):
        (tmp_path / name).write_bytes(line)
        rows = data_rows(str(tmp_path / name))
        assert rows[0][1].field == "k69999"
        assert "is there twice" in str(rows[0][1])


def test_an_array_of_rows_needs_no_more_memory_than_its_size(tmp_path):
    (tmp_path / "a.json").write_text("[" + "{}," * 1000 + "{}]")
    assert "is in no format known" in one_line(
        lambda: FilePairs(data_rows(str(tmp_path / "a.json")), range(1), max_bad_fraction=1.0)
    )
