"""What a row, a turn or a block holds beside its texts and images is read, or rejects the row."""

import copy

import pytest

from tests.rows_of_formats import BLOCKS, CHOSEN, PROMPT, REJECTED, SAME, answer, write_json, write_parquet
from tests.unit.test_formats import is_the_pair, pairs_of
from uedpo.data.formats import FORMATS
from uedpo.data.formats.turns import NOT_TAKEN

# of a turn, as other programs write them
TURN_FIELDS = {
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": "{}"}}],
    "function_call": {"name": "weather", "arguments": "{}"},
    "reasoning_content": "I guess.",
    "thinking": "I guess.",
    "name": "Ada",
    "weight": 0,
    "loss": False,
    "loss_scale": 0.5,
    "images": ["b.png"],
}
# format -> where its rows hold turns; a turn inside each is `found(row)`
TURNS = {
    "trl": [lambda row: row["prompt"][0], lambda row: row["chosen"][0], lambda row: row["rejected"][0]],
    "sharegpt": [lambda row: row["conversations"][0], lambda row: row["chosen"], lambda row: row["rejected"]],
    "swift": [lambda row: row["messages"][0], lambda row: row["messages"][-1]],
}


def the_only_rejected(path, name):
    pairs = pairs_of(path, name, max_bad_fraction=1.0)
    assert len(pairs) == 1
    (found,) = pairs.ledger.rejected
    return found


@pytest.mark.parametrize("field", TURN_FIELDS)
@pytest.mark.parametrize("name", TURNS)
def test_a_field_of_any_turn_that_is_not_read_rejects_the_row(tmp_path, name, field):
    for number, turn_of in enumerate(TURNS[name]):
        good, bad = (copy.deepcopy(SAME[name][0]) for _ in range(2))
        turn_of(bad)[field] = TURN_FIELDS[field]
        found = the_only_rejected(write_json(tmp_path / f"{number}.jsonl", [good, bad]), name)
        assert (found.line, found.code) == (2, "NOT_TAKEN")
        assert repr(field) in found.detail


def test_a_field_that_is_null_or_empty_rejects_nothing(tmp_path):
    row = copy.deepcopy(SAME["trl"][0])
    row["chosen"][0] |= {"tool_calls": [], "reasoning_content": None, "name": ""}
    is_the_pair(pairs_of(write_json(tmp_path / "a.jsonl", [row]))[0])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("column", NOT_TAKEN)
def test_a_column_that_changes_what_is_seen_is_read_or_rejects_in_every_format(tmp_path, name, column):
    if column in FORMATS[name][1]:
        return
    good = copy.deepcopy(SAME[name][0])
    for number, value in enumerate(("something", ["something"], {"a": 1}, 0)):
        path = write_json(tmp_path / f"{number}.jsonl", [good, good | {column: value}])
        found = the_only_rejected(path, name)
        assert (found.field, found.code) == (column, "NOT_TAKEN")


def test_the_object_inside_rlhf_v_is_looked_at_too(tmp_path):
    good = SAME["rlhf_v"][0]
    bad = good | {"text": good["text"] | {"tools": [{"name": "weather"}]}}
    assert the_only_rejected(write_json(tmp_path / "a.jsonl", [good, bad]), "rlhf_v").field == "tools"


def test_a_role_or_content_under_two_names_is_not_guessed(tmp_path):
    good, bad = (copy.deepcopy(SAME["trl"][0]) for _ in range(2))
    bad["chosen"][0]["value"] = "Another answer."
    found = the_only_rejected(write_json(tmp_path / "a.jsonl", [good, bad]), "trl")
    assert found.code == "TWICE"


def numbered(*kinds):
    """Blocks with the null fields that a table gives them; images are numbered in order."""
    blocks, images = [], 0
    for kind in kinds:
        image = kind == "image"
        blocks.append({"index": images if image else None, "text": None if image else kind,
                       "type": "image" if image else "text"})  # fmt: skip
        images += image
    return blocks


@pytest.mark.parametrize("write", [write_json, write_parquet])
def test_image_blocks_with_an_index_and_a_null_text_are_images(tmp_path, write):
    row = {
        "images": ["a.png"], "prompt": [{"role": "user", "content": numbered("image", PROMPT)}],
        "chosen": [{"role": "assistant", "content": numbered(CHOSEN)}],
        "rejected": [{"role": "assistant", "content": numbered(REJECTED)}],
    }  # fmt: skip
    suffix = "parquet" if write is write_parquet else "jsonl"
    is_the_pair(pairs_of(write(tmp_path / f"a.{suffix}", [row]))[0])


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"type": "image_url", "image_url": {"url": "file:///a.png"}}, "'image_url'"),
        ({"type": "input_audio", "input_audio": {}}, "'input_audio'"),
        ({"type": "image", "image": "a.png"}, "put it in images"),
        ({"type": "image", "text": "a.png"}, "with text"),
        ({"type": "text", "text": "x", "image": "a.png"}, "with image"),
        ({"type": "text", "text": "x", "citations": ["y"]}, "with citations"),
        ({"type": "text", "text": None}, "without a text"),
        ({"text": "x"}, "None"),
    ],
)  # fmt: skip
def test_other_blocks_are_named(tmp_path, block, said):
    good = SAME["trl"][0]
    bad = good | {"prompt": [{"role": "user", "content": [block, {"type": "text", "text": PROMPT}]}]}
    found = the_only_rejected(write_json(tmp_path / "a.jsonl", [good, bad]), "trl")
    assert (found.field, found.code) == ("prompt", "BAD_TYPE")
    assert said in found.detail


def test_images_numbered_out_of_order_are_not_put_in_another(tmp_path):
    good = SAME["trl"][0] | {"prompt": BLOCKS}
    blocks = numbered("image", "image", PROMPT)
    blocks[0]["index"], blocks[1]["index"] = 1, 0
    bad = good | {"images": ["a.png", "b.png"], "prompt": [{"role": "user", "content": blocks}],
                  "chosen": answer(CHOSEN)}  # fmt: skip
    found = the_only_rejected(write_json(tmp_path / "a.jsonl", [good, bad]), "trl")
    assert (found.code, "[1, 0]" in found.detail) == ("IMAGE_COUNT", True)
