"""Every format gives the same pair; what is ambiguous, unknown or not taken is said."""

import copy
import json
import pickle
import re
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from tests.rows_of_formats import (
    BLOCKS,
    CHOSEN,
    GOLDEN,
    PROMPT,
    REJECTED,
    SAME,
    TURN,
    answer,
    write_json,
    write_parquet,
)  # fmt: skip
from tests.unit.test_images import noise
from uedpo.data import images
from uedpo.data.datamodule import check_pairs
from uedpo.data.files import FilePairs, file_data
from uedpo.data.formats import FORMATS
from uedpo.data.prompts import pair_turns
from uedpo.data.reading import read_rows
from uedpo.data.rejects import TooManyRejected
from uedpo.errors import InputError
from uedpo.model.hf import HFModel


@pytest.fixture(scope="module")
def processor():
    return HFModel("uedpo:micro_llava").processor()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def pairs_of(path, format="auto", **options):
    rows = read_rows(path)
    return FilePairs(rows, range(len(rows)), format, **options)


def is_the_pair(pair):
    assert (pair.prompt, pair.chosen, pair.rejected) == (PROMPT, CHOSEN, REJECTED)
    assert (pair.image.size, pair.image.mode) == ((40, 30), "RGB")
    assert (pair.rejected_image, pair.history, pair.image_at) == (None, (), ())
    assert (pair.weight, pair.chosen_weights, pair.negatives) == (1.0, (), ())


@pytest.mark.parametrize("file", ["a.jsonl", "a.json", "a.parquet"])
@pytest.mark.parametrize(("name", "row"), GOLDEN, ids=lambda value: value if isinstance(value, str) else "")
def test_golden_rows_give_the_same_pair(tmp_path, name, row, file):
    write = write_parquet if file.endswith("parquet") else write_json
    pairs = pairs_of(write(tmp_path / file, [row]))
    is_the_pair(pairs[0])
    assert pairs[0].id == f"{file}:1"
    assert f"format {name}, detected" in pairs.ledger.summary()
    is_the_pair(pairs_of(str(tmp_path / file), name)[0])


def test_every_format_has_a_golden_row_and_a_line_of_its_own():
    assert set(SAME) == set(FORMATS)


def test_stored_images_are_read_when_their_row_is(tmp_path, monkeypatch):
    rows = [dict(SAME["trl"][0]) for _ in range(6)]
    path = write_parquet(tmp_path / "a.parquet", rows)
    decoded, decode = [], images._rgb

    def counted(image):
        decoded.append(1)
        return decode(image)

    monkeypatch.setattr(images, "_rgb", counted)
    pairs = pairs_of(path)
    assert len(pairs) == 6
    assert decoded == []
    assert all(callable(one) for pair in pairs.rows for one in pair.images)  # no bytes, no pixels
    assert pairs[2].image.size == (40, 30)
    assert decoded == [1]
    clone = pickle.loads(pickle.dumps(pairs.rows[3].image))
    assert clone() == pairs.rows[3].image()
    monkeypatch.undo()
    (batch,) = DataLoader(pairs, num_workers=1, batch_size=6, collate_fn=list)
    assert [pair.image.size for pair in batch] == [(40, 30)] * 6


def test_several_images_stand_where_the_turns_place_them(tmp_path, processor):
    turn = {"role": "user", "content": "First <image> and <image>\nthen <image>"}
    rows = [
        {"messages": [turn, *answer(CHOSEN)], "images": ["a.png", "b.png", "a.png"],
         "rejected_response": REJECTED},
        {"messages": [{"role": "user", "content": f"<image>\n<image>\n{PROMPT}"}, *answer(CHOSEN)],
         "images": ["a.png", "b.png"], "rejected_response": REJECTED},
        {"messages": [{"role": "user", "content": f"{PROMPT}\n<image>"}, *answer(CHOSEN)],
         "images": ["b.png"], "rejected_response": REJECTED},
    ]  # fmt: skip
    pairs = pairs_of(write_json(tmp_path / "a.jsonl", rows))
    first, second, third = (pairs[i] for i in range(3))
    assert first.prompt == "First  and \nthen "
    assert first.image_at == ((0, 6), (0, 11), (0, 17))
    assert [image.size for image in first.images] == [(40, 30), (20, 20), (40, 30)]
    assert asked(processor, first) == ("USER: First <image>\n and <image>\n\nthen <image>\n ASSISTANT:")
    assert (second.prompt, second.image_at, len(second.images)) == (PROMPT, (), 2)
    assert asked(processor, second) == f"USER: <image>\n<image>\n{PROMPT} ASSISTANT:"
    assert (third.prompt, third.image_at) == (PROMPT, ((0, len(PROMPT)),))


def asked(processor, pair):
    return processor.apply_chat_template(pair_turns(pair), add_generation_prompt=True)


@pytest.mark.parametrize("name", ["trl", "sharegpt", "swift"])
def test_text_only_rows_have_no_image(tmp_path, name):
    row = json.loads(json.dumps(SAME[name][0]).replace("<image>", "").replace('{"type": "image"}, ', ""))
    del row["images"]
    pairs = pairs_of(write_json(tmp_path / "a.jsonl", [row, row | {"images": []}, row | {"images": None}]))
    assert [pair.images for pair in pairs.rows] == [()] * 3
    assert pairs[0].prompt.strip() == PROMPT


@pytest.mark.parametrize("name", ["simple", "rlhf_v", "rlaif_v"])
def test_formats_with_an_image_column_insist_on_it(tmp_path, name):
    row = {k: v for k, v in SAME[name][0].items() if k != "image"}
    with pytest.raises(TooManyRejected, match=r"image (is missing|is null)"):
        pairs_of(write_json(tmp_path / "a.jsonl", [row]), name)
    row = SAME["simple"][0] | {"image": None}
    assert pairs_of(write_json(tmp_path / "a.jsonl", [row]))[0].images == ()


def test_each_side_may_have_its_own_images(tmp_path):
    same = {"messages": [TURN, *answer(CHOSEN)], "images": ["a.png"], "rejected_images": ["b.png"]}
    pair = pairs_of(write_parquet(tmp_path / "a.parquet", [same]))[0]
    assert (pair.chosen, pair.rejected) == (CHOSEN, CHOSEN)
    assert (pair.image.size, pair.rejected_image.size) == ((40, 30), (20, 20))
    pair = pairs_of(write_json(tmp_path / "a.jsonl", [same | {"rejected_response": REJECTED}]))[0]
    assert (pair.rejected, pair.rejected_images[0].size) == (REJECTED, (20, 20))
    with pytest.raises(TooManyRejected, match=r"rejected_image has 2 images, and image 1"):
        pairs_of(write_json(tmp_path / "a.jsonl", [same | {"rejected_images": ["b.png", "a.png"]}]))


def test_earlier_turns_and_system_reach_the_prompt_or_reject_the_row(tmp_path, processor):
    turns = [TURN, *answer("A table."), {"role": "user", "content": "And on it?"}]
    row = {"messages": [*turns, *answer(CHOSEN)], "images": ["a.png"], "rejected_response": REJECTED}
    pairs = pairs_of(
        write_json(tmp_path / "a.jsonl", [row, row | {"system": "Be brief."}]), max_bad_fraction=1.0
    )
    assert pairs[0].history == (("user", PROMPT), ("assistant", "A table."))
    assert (pairs[0].prompt, pairs[0].image_at) == ("And on it?", ())
    assert pairs[1].history[0] == ("system", "Be brief.")
    text = asked(processor, pairs[0])
    assert text == f"USER: <image>\n{PROMPT} ASSISTANT: A table.</s>USER: And on it? ASSISTANT:"

    template = processor.chat_template
    try:
        processor.chat_template = (
            "{% for m in messages %}{% if m['role'] == 'user' or loop.last %}{{ m['content'][-1]['text'] }}"
            "{% endif %}{% endfor %}"
        )
        with pytest.raises(TooManyRejected, match="leaves a turn out"):
            check_pairs(pairs, processor, 50, False, False)
        processor.chat_template = (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
            "{% for m in messages %}{{ m['content'][-1]['text'] }} {% endfor %}"
        )
        pairs = pairs_of(str(tmp_path / "a.jsonl"))
        with pytest.raises(TooManyRejected, match=r"refuses these turns \(no system role\)"):
            check_pairs(pairs, processor, 50, False, False)
    finally:
        processor.chat_template = template


def test_unknown_and_ambiguous_columns_name_what_was_seen_and_what_is_known(tmp_path):
    with pytest.raises(InputError) as caught:
        pairs_of(write_json(tmp_path / "a.jsonl", [{"img": "a.png", "question": "x", "good": "y", "bad": 3}]))
    text = str(caught.value)
    assert "is in no format known here; columns: img (a text), question (a text), good (a text), bad" in text
    assert all(f"{name}: " in text for name in FORMATS)
    assert len(text.splitlines()) == 1
    both = SAME["simple"][0] | {"question": "x"}
    with pytest.raises(
        InputError, match=r"fits the formats simple, rlaif_v; columns: .* name one with data\.format="
    ):
        pairs_of(write_json(tmp_path / "a.jsonl", [both]))
    is_the_pair(pairs_of(write_json(tmp_path / "a.jsonl", [both]), "simple")[0])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", r"no rows; give a file"),
        (b"\n \n", r"no rows; give a file"),
        (
            b"image,prompt,chosen,rejected\na.png,x,y,z\n",
            r":1: row is not JSON .*none of 2 lines.*so write it",
        ),
        ('{"prompt": "où"}\n'.encode("latin-1"), r":1: row is not UTF-8 at byte 13"),
        ('{"prompt": "x"}\n'.encode("utf-16"), r":1: row is not UTF-8"),
        (b'{"data": []}', r"is one object that holds lists"),
    ],
)
def test_a_file_that_holds_no_row_says_what_it_is(tmp_path, data, said):
    file = tmp_path / "a.jsonl"
    file.write_bytes(data)
    with pytest.raises(InputError, match=said) as caught:
        file_data(None, str(file))
    assert len(str(caught.value).splitlines()) == 1


def test_columns_that_are_not_read_are_named(tmp_path):
    pairs = pairs_of(write_json(tmp_path / "a.jsonl", [SAME["sharegpt"][0] | {"imgs": 1, "note": "x"}]))
    assert "(format sharegpt, detected; columns not read: imgs, note)" in pairs.ledger.summary()


@pytest.mark.parametrize(
    ("name", "change", "field", "code"),
    [
        ("trl", {"chosen": answer(CHOSEN) * 2}, "chosen", "TURNS"),
        ("trl", {"prompt": BLOCKS + answer("x")}, "prompt", "TURNS"),
        ("trl", {"chosen": [{"role": "user", "content": "x"}]}, "chosen", "ROLE"),
        ("trl", {"prompt": [{"role": "tool", "content": "x"}]}, "prompt", "ROLE"),
        ("trl", {"images": ["a.png", "b.png"]}, "prompt", "IMAGE_COUNT"),
        ("trl", {"images": []}, "prompt", "PLACEHOLDER"),
        ("trl", {"images": ["a.png", None]}, "image", "BAD_TYPE"),
        ("trl", {"image": "a.png"}, "image", "TWICE"),
        ("trl", {"tools": [{}]}, "tools", "NOT_TAKEN"),
        ("trl", {"chosen": [{"role": "assistant", "content": [{"type": "image"}]}]}, "chosen", "PLACEHOLDER"),
        ("trl", {"prompt": [{"role": "user", "content": [{"type": "video"}]}]}, "prompt", "BAD_TYPE"),
        ("sharegpt", {"chosen": CHOSEN}, "chosen", "BAD_TYPE"),
        ("sharegpt", {"videos": ["a.mp4"]}, "videos", "NOT_TAKEN"),
        ("sharegpt", {"conversations": []}, "conversations", "BAD_TYPE"),
        ("sharegpt", {"system": 3}, "system", "BAD_TYPE"),
        ("swift", {"rejected_response": None}, "rejected_response", "MISSING_COLUMN"),
        ("swift", {"rejected_messages": answer("x")}, "rejected_messages", "TWICE"),
        ("swift", {"rejected_response": CHOSEN}, "rejected", "IDENTICAL_PAIR"),
        ("swift", {"objects": {"bbox": []}}, "objects", "NOT_TAKEN"),
        ("swift", {"images": ["a.png", "b.png"]}, "prompt", "IMAGE_COUNT"),
        ("swift", {"images": ["none.png"]}, "image", "IMAGE_MISSING"),
        ("swift", {"weight": -1}, "weight", "WEIGHT"),
        ("swift", {"weight": float("nan")}, "weight", "NOT_FINITE"),
        ("swift", {"weight": True}, "weight", "BAD_TYPE"),
        ("swift", {"chosen_weights": [[0, 99, 2]]}, "chosen_weights", "WEIGHT"),
        ("swift", {"chosen_weights": [[0, 3, 2], [2, 4, 1]]}, "chosen_weights", "WEIGHT"),
        ("swift", {"chosen_weights": [[0.5, 3, 2]]}, "chosen_weights", "WEIGHT"),
        ("swift", {"rejected_weights": [[0, 3, -2]]}, "rejected_weights", "WEIGHT"),
        ("swift", {"rejected_weights": [0, 3, 2]}, "rejected_weights", "BAD_TYPE"),
        ("rlhf_v", {"text": "{"}, "row", "BAD_JSON"),
        ("rlaif_v", {"image": None}, "image", "IMAGE_MISSING"),
        ("simple", {"prompt": f"<image>{PROMPT}<image>"}, "prompt", "IMAGE_COUNT"),
        ("simple", {"chosen": f"{CHOSEN} <image>"}, "chosen", "PLACEHOLDER"),
    ],
)
def test_rows_that_a_format_does_not_allow_are_named(tmp_path, name, change, field, code):
    good = copy.deepcopy(SAME[name][0])
    pairs = pairs_of(write_json(tmp_path / "a.jsonl", [good, good | change]), name, max_bad_fraction=1.0)
    (found,) = pairs.ledger.rejected
    assert (found.line, found.field, found.code) == (2, field, code)
    assert len(found.detail.splitlines()) == 1


def test_arrays_keep_the_problem_with_its_row(tmp_path):
    good = json.dumps(SAME["simple"][0])
    twice = good[:-1] + ', "chosen": "x"}'
    (tmp_path / "a.json").write_text(f"[{good}, {twice}, 3, {good}]")
    write_json(tmp_path / "b.jsonl", [])
    pairs = pairs_of(str(tmp_path / "a.json"), max_bad_fraction=1.0)
    assert [(r.line, r.field, r.code) for r in pairs.ledger.rejected] == [
        (2, "chosen", "BAD_JSON"), (3, "row", "BAD_TYPE"),
    ]  # fmt: skip
    for text, part in (
        ("[", "not JSON"),
        ('[{"a": ' + "[" * 100_000, "nested too deep"),
        ("\ufeff[] ", "no rows"),
    ):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(InputError, match=part):
            pairs_of(str(tmp_path / "a.json"), "simple")


def test_places_that_hold_no_rows_are_one_line(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    (tmp_path / "empty").mkdir()
    for path, part in (
        (tmp_path / "none.jsonl", "no such file"), (tmp_path / "none.parquet", "no such file"),
        (tmp_path / "bad.parquet", "not a table of rows"), (tmp_path / "empty", "no parquet file"),
        ("owner/none-such-set", "the hub does not give it"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=part) as caught:
            read_rows(str(path))
        assert len(str(caught.value).splitlines()) == 1


def test_one_file_is_split_and_two_are_not(tmp_path, processor):
    rows = [SAME["trl"][0]] * 10
    path = write_json(tmp_path / "a.jsonl", rows)
    data = file_data(processor, path, val_share=0.2, num_workers=0)
    assert (len(data.train), len(data.val)) == (8, 2)
    assert [pair.id for pair in data.val] == ["a.jsonl:9", "a.jsonl:10"]
    data = file_data(processor, path, write_parquet(tmp_path / "v.parquet", rows[:3]), num_pairs=4)
    assert (len(data.train), len(data.val)) == (4, 3)
    with pytest.raises(InputError, match="one row cannot be for training and validation both"):
        file_data(processor, write_json(tmp_path / "b.jsonl", rows[:1]))


def test_the_rows_of_the_documentation_are_read_as_it_says(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    found = re.findall(r"^\*\*(\w+)\*\*.*?```json\n(.*?)\n```", text, re.DOTALL | re.MULTILINE)
    assert [name for name, _ in found] == list(FORMATS)
    (tmp_path / "pictures").mkdir()
    for place in ("1.jpg", "pictures/1.jpg"):
        noise().save(tmp_path / place)
    for name, row in found:
        (tmp_path / "a.jsonl").write_text(row)
        pairs = pairs_of(str(tmp_path / "a.jsonl"))
        assert f"format {name}, detected" in pairs.ledger.format
        assert (pairs[0].prompt, pairs[0].chosen, pairs[0].rejected) == ("What is it?", "A cow.", "A pig.")
        assert pairs[0].image.size == (40, 30)
