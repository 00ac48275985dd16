import json
import threading

import pytest

from uedpo.errors import InputError
from uedpo.evaluation.append_file import AppendFile, read, sealed

HEADER = {"kind": 1, "name": "é", "options": {"beams": 3, "cut": None}}
ROWS = [
    {"id": i, "answer": text} for i, text in enumerate(["a", "", "line\nbreak", "\ud800 \u2028 ü", "e" * 90])
]


def go_on(path):
    with AppendFile(path, HEADER) as file:
        for row in ROWS[len(file.rows) :]:
            file.append(row)


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "sub" / "rows.jsonl"
    go_on(path)
    return path


def test_file_reads_back(whole):
    header, rows = read(whole, "kind")
    assert header == sealed(HEADER)
    assert rows == list(enumerate(ROWS, start=2))
    assert len(whole.read_bytes().split(b"\n")) == len(ROWS) + 2


def test_file_cut_at_any_byte_goes_on_to_the_same_file(whole):
    data = whole.read_bytes()
    for size in range(len(data) + 1):
        whole.write_bytes(data[:size])
        go_on(whole)
        assert whole.read_bytes() == data, size


def test_cut_line_is_an_error_to_a_reader(whole):
    whole.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"rows.jsonl:6: the last line is cut"):
        read(whole, "kind")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "b"}, r"name='é' \(now 'b'\)"),
        ({"options": {"beams": 1, "cut": None}}, r"options.beams=3 \(now 1\)"),
        ({"options": {"beams": 3}}, "options.cut=None"),
        ({"more": 1}, r"more=None \(now 1\)"),
        ({"name": "b", "options": {"beams": 1, "cut": 0}}, "name=.*options.beams=.*options.cut="),
    ],
)
def test_other_settings_are_refused_and_named(whole, change, named):
    before = whole.read_bytes()[:-3]
    whole.write_bytes(before)
    with pytest.raises(InputError, match=f"rows.jsonl:1: written with other settings: .*{named}"):
        AppendFile(whole, HEADER | change)
    assert whole.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("precious notes", ":1: no kind"),
        ("precious notes\nmore", ":1: not JSON"),
        ('{"other": 1}\n', ":1: no kind"),
        ("[1]\n", ":1: must be an object"),
        ("\n\n", ":1: not JSON"),
    ],
)
def test_other_files_are_refused_and_left_alone(tmp_path, text, message):
    path = tmp_path / "notes"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        AppendFile(path, HEADER)
    assert path.read_text() == text


def test_broken_rows_are_named(whole):
    lines = whole.read_bytes().split(b"\n")
    for bad, message in ((b"{", "not JSON"), (b"3", "must be an object"), (b'{"a": "\xff"}', "not UTF-8")):
        whole.write_bytes(b"\n".join([*lines[:3], bad, *lines[4:]]))
        for opened in (lambda: AppendFile(whole, HEADER), lambda: read(whole, "kind")):
            with pytest.raises(InputError, match=f"rows.jsonl:4: {message}"):
                opened()


def test_changed_header_is_refused(whole):
    lines = whole.read_text().split("\n")
    header = json.loads(lines[0])
    header["options"]["beams"] = 1
    whole.write_text("\n".join([json.dumps(header), *lines[1:]]))
    with pytest.raises(InputError, match=":1: sha256 is not that"):
        read(whole, "kind")


def test_second_writer_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    with AppendFile(path, HEADER), pytest.raises(InputError, match="another process is writing it"):
        AppendFile(path, HEADER)
    go_on(path)


def test_threads_never_mix_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    with AppendFile(path, HEADER) as file:
        threads = [
            threading.Thread(
                target=lambda k=k: [file.append({"id": k, "text": "x" * 5000}) for _ in range(20)]
            )
            for k in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(read(path, "kind")[1]) == 160
