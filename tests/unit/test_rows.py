"""Rows: what is rejected, how it is counted, and when the run stops."""

import dataclasses
import json
import os

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from tests.unit.test_images import encoded, noise
from uedpo.data.datamodule import PairDataModule, check_pairs
from uedpo.data.jsonl import JsonlPairs
from uedpo.data.rejects import RowProblem, TooManyRejected
from uedpo.data.rows import MAX_LINE, parse_line
from uedpo.data.texts import TextRules
from uedpo.errors import InputError, plain_line
from uedpo.model.hf import HFModel

GOOD = {"image": None, "prompt": "What?", "chosen": "A cow.", "rejected": "A pig."}


def write(path, *rows):
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows]
    path.write_bytes(b"\n".join(lines))
    return str(path)


def rejected(tmp_path, *rows):
    return JsonlPairs(write(tmp_path / "rows.jsonl", GOOD, *rows), max_bad_fraction=1.0).ledger.rejected


@pytest.fixture(scope="module")
def processor():
    return HFModel("uedpo:micro_llava").processor()


@pytest.mark.parametrize(
    ("row", "field", "code"),
    [
        (b"{", "row", "BAD_JSON"),
        (b"[1]", "row", "BAD_TYPE"),
        (b"\xff\xfe{\x00}\x00", "row", "BAD_UTF8"),
        (b"[" * 100_000, "row", "BAD_JSON"),
        (b'{"image": null, "prompt": ' + b"9" * 5000 + b"}", "row", "BAD_JSON"),
        (json.dumps(GOOD).encode()[:-1] + b', "chosen": "x"}', "chosen", "BAD_JSON"),
        (b'{"a": "' + b"x" * MAX_LINE + b'"}', "row", "LINE_TOO_LONG"),
        ({k: v for k, v in GOOD.items() if k != "chosen"} | {"choosen": "x"}, "chosen", "MISSING_COLUMN"),
        (GOOD | {"prompt": 3}, "prompt", "BAD_TYPE"),
        (GOOD | {"prompt": None}, "prompt", "BAD_TYPE"),
        (GOOD | {"prompt": float("nan")}, "prompt", "BAD_TYPE"),
        (GOOD | {"chosen": ""}, "chosen", "EMPTY_TEXT"),
        (GOOD | {"chosen": " \t\n\u00a0\u200b"}, "chosen", "EMPTY_TEXT"),
        (GOOD | {"chosen": "a\ud800"}, "chosen", "BAD_UTF8"),
        (GOOD | {"rejected": " A  cow.\n"}, "rejected", "IDENTICAL_PAIR"),
        (GOOD | {"chosen": "caf\u00e9", "rejected": "cafe\u0301"}, "rejected", "IDENTICAL_PAIR"),
        (GOOD | {"prompt": "<image>\nWhat?"}, "prompt", "PLACEHOLDER"),
        (GOOD | {"id": 1.5}, "id", "BAD_TYPE"),
        (GOOD | {"id": [1]}, "id", "BAD_TYPE"),
        (GOOD | {"id": " "}, "id", "EMPTY_TEXT"),
        (GOOD | {"negatives": [3]}, "negatives", "BAD_TYPE"),
        (GOOD | {"similarity": [float("nan"), 1]}, "similarity", "NOT_FINITE"),
        (json.dumps(GOOD).encode()[:-1] + b', "similarity": [1e999, 1]}', "similarity", "NOT_FINITE"),
        (GOOD | {"similarity": [10**400, 1]}, "similarity", "NOT_FINITE"),
        (GOOD | {"image": 3}, "image", "IMAGE_TYPE"),
        (GOOD | {"image": "none.png"}, "image", "IMAGE_MISSING"),
    ],
)
def test_a_bad_row_is_named_with_field_and_code(tmp_path, row, field, code):
    (found,) = rejected(tmp_path, row)
    assert (found.line, found.field, found.code) == (2, field, code)
    assert len(found.detail.splitlines()) == 1


def test_missing_columns_name_the_nearest(tmp_path):
    with pytest.raises(InputError, match=r"chosen is missing; columns found: .*did you mean 'choosen'"):
        JsonlPairs(write(tmp_path / "r.jsonl", {k.replace("chosen", "choosen"): v for k, v in GOOD.items()}))


def test_byte_order_mark_blank_lines_and_crlf_are_no_faults(tmp_path):
    path = tmp_path / "rows.jsonl"
    line = json.dumps(GOOD).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\n \t\n" + line + b"\r\n")
    pairs = JsonlPairs(str(path), max_bad_fraction=0.0)
    assert [pair.id for pair in pairs.rows] == ["rows.jsonl:1", "rows.jsonl:4"]
    assert pairs.ledger.read == 2


def test_duplicate_ids_are_left_out_or_stop(tmp_path):
    first = GOOD | {"id": "a"}
    (found,) = rejected(tmp_path, first, first)
    assert (found.line, found.row_id, found.code) == (3, "a", "DUPLICATE")
    with pytest.raises(TooManyRejected, match=r"rows\.jsonl:3: id 'a' was read before, with other content"):
        rejected(tmp_path, first, first | {"chosen": "Else."})


def test_addresses_stop_whatever_the_ceiling(tmp_path):
    with pytest.raises(TooManyRejected, match=r"rows\.jsonl:2: image 'http://a/b\.png' is an address"):
        rejected(tmp_path, GOOD | {"image": "http://a/b.png"})


def test_one_bad_row_in_ten_thousand_is_left_out(tmp_path):
    rows = [GOOD | {"id": f"r{i}"} for i in range(10_000)]
    rows[5000] = rows[5000] | {"chosen": ""}
    pairs = JsonlPairs(write(tmp_path / "rows.jsonl", *rows))
    assert [pair.id for pair in pairs.rows] == [f"r{i}" for i in range(10_000) if i != 5000]
    ledger = pairs.ledger
    assert (ledger.read, ledger.used, [r.line for r in ledger.rejected]) == (10_000, 9_999, [5001])
    assert ledger.summary().endswith(
        "10000 rows read = 9999 used + 1 rejected (1 EMPTY_TEXT; see rejected.jsonl)"
    )


def test_the_ceiling_counts_in_fractions_of_rows_read(tmp_path):
    rows = [GOOD] * 8 + [b"{"] * 2
    assert len(JsonlPairs(write(tmp_path / "a.jsonl", *rows), max_bad_fraction=0.2)) == 8
    with pytest.raises(TooManyRejected) as caught:
        JsonlPairs(write(tmp_path / "a.jsonl", *rows), max_bad_fraction=0.19)
    text = str(caught.value)
    assert "2 of 10 rows rejected, data.max_bad_fraction=0.19 allows 1: 2 BAD_JSON" in text
    assert "a.jsonl:9: row is not JSON" in text
    assert len(caught.value.rejected) == 2


def test_a_file_of_bad_rows_stops_under_any_ceiling(tmp_path):
    with pytest.raises(TooManyRejected, match="2 of 2 rows rejected, none is left"):
        JsonlPairs(write(tmp_path / "a.jsonl", b"{", b"{"), max_bad_fraction=1.0)


def test_pipes_devices_and_folders_are_no_data(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(InputError, match="no regular file"):
            JsonlPairs(str(path))


def test_num_pairs_stops_reading(tmp_path):
    pairs = JsonlPairs(write(tmp_path / "a.jsonl", GOOD, b"{", GOOD, b"{"), num_pairs=2, max_bad_fraction=0.5)
    assert (pairs.ledger.read, len(pairs)) == (3, 2)


def test_control_tokens_lengths_and_negatives_need_the_processor(tmp_path, processor):
    rows = [
        GOOD,
        GOOD | {"prompt": "What </s> is it?"},
        GOOD | {"chosen": "a cow " * 20 + "one", "rejected": "a cow " * 20 + "two"},
        GOOD | {"chosen": "a pig " * 20, "rejected": "a cow " * 20},
    ]
    pairs = JsonlPairs(write(tmp_path / "a.jsonl", *rows), max_bad_fraction=0.5)
    check_pairs(pairs, processor, 12, False, False)
    found = [(r.line, r.field, r.code) for r in pairs.ledger.rejected]
    assert found == [(2, "prompt", "CONTROL_TOKEN"), (3, "rejected", "IDENTICAL_AFTER_CUT")]
    assert pairs.ledger.cut == 2
    assert "WARNING: 2 responses (50.0 %) cut at data.max_response_tokens" in pairs.ledger.summary()
    with pytest.raises(InputError, match="negatives has 0 texts, every row needs some"):
        check_pairs(pairs, processor, 12, True, False)


def test_lengths_around_the_limit(tmp_path, processor):
    text = "a cow " * 7
    tokens = len(processor.tokenizer(" " + text.strip(), add_special_tokens=False)["input_ids"]) + 1
    pair = JsonlPairs(write(tmp_path / "a.jsonl", GOOD | {"chosen": text})).rows[0]
    for limit, cut in ((tokens - 1, 1), (tokens, 0), (tokens + 1, 0)):
        ledger = JsonlPairs(str(tmp_path / "a.jsonl")).ledger
        TextRules(processor, limit, False, ledger)(pair)
        assert ledger.cut == cut, limit


def test_prompts_beyond_the_model_are_rejected(tmp_path, processor, monkeypatch):
    monkeypatch.setattr(processor.tokenizer, "model_max_length", 8)
    pairs = JsonlPairs(
        write(tmp_path / "a.jsonl", GOOD, GOOD | {"prompt": "cow " * 40}), max_bad_fraction=0.5
    )
    check_pairs(pairs, processor, 12, False, False)
    assert [(r.line, r.code) for r in pairs.ledger.rejected] == [(2, "PROMPT_TOO_LONG")]


def broken_inside(path):
    data = bytearray(encoded(noise((200, 150)), "PNG"))
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def test_decode_check_rejects_and_counts(tmp_path, processor):
    broken_inside(tmp_path / "bad.png")
    Image.new("RGBA", (8, 8)).save(tmp_path / "good.png")
    rows = [GOOD | {"image": "good.png"}, GOOD | {"image": "bad.png"}]
    train = JsonlPairs(write(tmp_path / "a.jsonl", *rows), max_bad_fraction=0.5)
    val = JsonlPairs(write(tmp_path / "b.jsonl", rows[0]))
    data = PairDataModule(train, val, processor, max_bad_fraction=0.5, decode_check=True)
    data.report(tmp_path)
    (line,) = (tmp_path / "rejected.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert list(row) == ["row_id", "file", "line", "field", "code", "detail"]
    assert (row["line"], row["field"], row["code"]) == (2, "image", "IMAGE_UNREADABLE")
    assert len(data.train) == 1
    assert "images converted: 1 transparent" in train.ledger.summary()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_decode_failure_while_training_names_the_row(tmp_path, workers):
    broken_inside(tmp_path / "bad.png")
    pairs = JsonlPairs(write(tmp_path / "a.jsonl", GOOD | {"image": "bad.png", "id": "x7"}))
    with pytest.raises(InputError) as caught:
        list(DataLoader(pairs, num_workers=workers, collate_fn=list))
    text = plain_line(caught.value)
    assert text.startswith(f"{tmp_path}/a.jsonl:1 (id x7): image 'bad.png' cannot be decoded")
    assert text.endswith("data.decode_check=true finds such rows first")
    assert len(text.splitlines()) == 1


def test_sequences_beyond_the_model_name_the_row(tmp_path, processor, monkeypatch):
    from uedpo.data.collate import PairCollator

    pair = JsonlPairs(write(tmp_path / "a.jsonl", GOOD | {"id": "x7"}))[0]
    PairCollator(processor, 9)([pair])
    monkeypatch.setattr(processor.tokenizer, "model_max_length", 5)
    with pytest.raises(InputError, match=r"row x7: needs \d+ tokens with its image, the model takes 5"):
        PairCollator(processor, 9)([dataclasses.replace(pair, id="y"), pair][::-1])


def test_messages_do_not_act_on_a_terminal():
    assert plain_line(InputError("a\x1b[31mb\x07\nc")) == "a\\x1b[31mb\\x07\nc"


def test_problems_survive_pickling():
    import pickle

    copy = pickle.loads(pickle.dumps(RowProblem("a", "B", "c")))
    assert str(copy) == "a c [B]"


def test_parse_line_keeps_unicode_line_separators():
    assert parse_line(b'{"a": "x\xe2\x80\xa8y"}') == {"a": "x\u2028y"}


def rlhf_v(tmp_path, *rows):
    pytest.importorskip("datasets")
    import pyarrow as pa
    import pyarrow.parquet as pq

    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = pa.schema([("idx", pa.int64()), ("text", pa.string()), ("image", picture)])
    pq.write_table(pa.Table.from_pylist(list(rows), columns), tmp_path / "rows.parquet")


def test_rlhf_v_reads_stored_pictures_and_rejects_the_rest(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    text = json.dumps({"question": "What?", "chosen": "A cow.", "rejected": "A pig."})
    picture = {"bytes": encoded(noise(), "PNG"), "path": "/etc/passwd"}
    folder = tmp_path / "set"
    folder.mkdir()
    good = [{"idx": i, "text": text, "image": picture} for i in range(6)]
    bad = [
        {"idx": 6, "text": text, "image": {"bytes": None, "path": "http://127.0.0.1:9/a.png"}},
        {"idx": 7, "text": text.replace("question", "query"), "image": picture},
        {"idx": 8, "text": "{", "image": picture},
        {"idx": 9, "text": text, "image": {"bytes": b"no picture", "path": None}},
    ]
    rlhf_v(folder, *good[:5], *bad, good[5])
    from uedpo.data.rlhf_v import RLHFVPairs

    pairs = RLHFVPairs(str(folder), val_share=0.1, max_bad_fraction=0.5)
    assert [pair.id for pair in pairs.rows] == ["0", "1", "2", "3", "4"]
    assert pairs[4].image.size == (40, 30)
    found = [(r.line, r.field, r.code) for r in pairs.ledger.rejected]
    assert found == [
        (6, "image", "IMAGE_MISSING"), (7, "prompt", "MISSING_COLUMN"), (8, "row", "BAD_JSON"),
        (9, "image", "IMAGE_UNREADABLE"),
    ]  # fmt: skip
    assert [pair.id for pair in RLHFVPairs(str(folder), part="val", val_share=0.1).rows] == ["5"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no parquet file"):
        RLHFVPairs(str(tmp_path / "empty"))
