import json

import pytest
from PIL import Image

from uedpo.data.jsonl import JsonlPairs

GOOD = {"image": "a.png", "prompt": "What?", "chosen": "A cow.", "rejected": "A pig."}


@pytest.fixture
def write(tmp_path):
    Image.new("RGBA", (8, 6), "red").save(tmp_path / "a.png")

    def go(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), encoding="utf-8")
        return str(path)

    return go


def test_rows_become_pairs(write):
    pairs = JsonlPairs(write(GOOD, "", GOOD | {"image": None, "id": "x"}))
    assert len(pairs) == 2
    assert pairs[0].image.mode == "RGB"
    assert pairs[0].image.size == (8, 6)
    assert (pairs[1].id, pairs[1].image, pairs[1].chosen) == ("x", None, "A cow.")
    assert len(JsonlPairs(write(GOOD, GOOD), num_pairs=1)) == 1


def test_rows_of_napo_and_da_dpo(write):
    row = JsonlPairs(write(GOOD | {"negatives": ["A tree.", "A bus."], "similarity": [0.5, 1]}))[0]
    assert row.negatives == ("A tree.", "A bus.")
    assert row.similarity == (0.5, 1.0)


@pytest.mark.parametrize(
    ("row", "part"),
    [
        (GOOD | {"negatives": "A tree."}, "rows.jsonl:2: negatives must be"),
        (GOOD | {"negatives": [""]}, "rows.jsonl:2: negatives must be"),
        (GOOD | {"similarity": [0.5]}, "rows.jsonl:2: similarity must be"),
        (GOOD | {"similarity": [0.5, "1"]}, "rows.jsonl:2: similarity must be"),
        ("{not json", "rows.jsonl:2: row is not JSON"),
        ("[1]", "rows.jsonl:2: row is a list; one object a line"),
        (GOOD | {"prompt": " "}, "rows.jsonl:2: prompt must be"),
        (GOOD | {"chosen": 3}, "rows.jsonl:2: chosen must be"),
        (GOOD | {"rejected": "A cow. "}, "are the same"),
        (GOOD | {"image": "b.png"}, "'b.png' is not a file inside"),
        (GOOD | {"image": "../a.png"}, "is not a file inside"),
        (GOOD | {"image": "/etc/hostname"}, "is not a file inside"),
        (GOOD | {"image": 5}, "image must be a path"),
    ],
)
def test_bad_rows_name_file_and_line(write, row, part):
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: ") as caught:
        JsonlPairs(write(GOOD, row))
    assert part in str(caught.value)


def test_missing_and_empty_files_are_errors(write, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        JsonlPairs(str(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match="no rows"):
        JsonlPairs(write(""))


def test_text_may_hold_unicode_line_separators(write):
    assert (
        JsonlPairs(write(json.dumps(GOOD | {"chosen": "A\u2028cow."}, ensure_ascii=False)))[0].chosen
        == "A\u2028cow."
    )


def test_rows_without_image_key_or_picture_are_refused(write, tmp_path):
    (tmp_path / "t.png").write_text("no picture")
    for row in (
        {k: v for k, v in GOOD.items() if k != "image"},
        GOOD | {"image": "t.png"},
        GOOD | {"image": "a\0b"},
    ):
        with pytest.raises(ValueError, match=r"rows\.jsonl:1: "):
            JsonlPairs(write(row))
