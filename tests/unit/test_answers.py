import json

import pytest

from uedpo.errors import InputError
from uedpo.evaluation.official.answers import FORMATS, read_answers

AMBER = "amber_discriminative"


def ours(benchmark, *rows):
    return "".join(json.dumps(r) + "\n" for r in ({"uedpo_answers": 1, "benchmark": benchmark}, *rows))


def brief(answers):
    return [(a.id, a.text) for a in answers.rows]


@pytest.mark.parametrize(
    ("benchmark", "text", "rows"),
    [
        ("pope", '{"question": "q", "answer": "Yes"}\n{"answer": "No"}', [(0, "Yes"), (1, "No")]),
        (AMBER, '[{"id": 1005, "response": "Yes"}]', [(1005, "Yes")]),
        ("amber_generative", '[{"id": 2, "response": ""}]', [(2, "")]),
        ("mmhal", '[{"question": "q", "model_answer": "a"}, {"model_answer": ""}]', [(0, "a"), (1, "")]),
        ("chair", '{"overall": {}, "imgToEval": {"7": {"image_id": 7, "caption": "a"}}}', [(7, "a")]),
        ("chair", '[{"image_id": 7, "caption": "a"}]', [(7, "a")]),
        ("chair", '{"image_id": 7, "caption": "a"}\n{"image_id": 8, "caption": "b"}\n', [(7, "a"), (8, "b")]),
        ("chair", '{"image_id": 7, "caption": "a"}\n', [(7, "a")]),
        (
            "object_halbench",
            '{"image_id": "42", "text": "a"}\n{"image_id": 3, "answer": "b"}',
            [(0, "a"), (1, "b")],
        ),
    ],
)
def test_official_formats(benchmark, text, rows):
    answers = read_answers(text, "f", benchmark)
    assert answers.official
    assert brief(answers) == rows


@pytest.mark.parametrize("benchmark", FORMATS)
def test_ours(benchmark):
    row = {"id": 3, "answer": "Yes", "image_id": 42}
    answers = read_answers(ours(benchmark, row, row | {"id": 1}), "f", benchmark)
    assert not answers.official
    assert brief(answers) == [(3, "Yes"), (1, "Yes")]
    assert answers.rows[0].where == "f:2"
    assert answers.rows[0].image_id == (42 if benchmark == "object_halbench" else None)


@pytest.mark.parametrize(
    ("benchmark", "text", "message"),
    [
        ("pope", "", "f: empty"),
        ("pope", '{"answer": "Yes"}\n{"answer"', "f:2: not JSON"),
        ("pope", '{"answer": "Yes"}\n\n{"answer": "No"}\n', "f:2: empty line"),
        ("pope", '{"answer": 1}', "f:1: answer must be a text, not 1"),
        ("pope", '["Yes"]', "f:1: must be an object with answer"),
        (AMBER, '[{"id": 1.5, "response": "Yes"}]', r"f\[0\]: id must be a whole number, not 1.5"),
        (AMBER, '[{"id": true, "response": "Yes"}]', r"f\[0\]: id must be a whole number, not True"),
        (AMBER, '[{"response": "Yes"}]', r"f\[0\]: id is missing"),
        (AMBER, '[{"id": 5, "response": null}]', r"f\[0\]: response must be a text, not None"),
        (AMBER, '{"id": 5}', "f: must be a JSON list"),
        (AMBER, '[{"id": 5, "response": "Yes"}', "f:1: not JSON"),
        (AMBER, "[" * 100_000, "f: not JSON .nested too deeply"),
        (AMBER, f'[{{"id": {"1" * 5000}, "response": ""}}]', "f: not JSON"),
        ("chair", '{"overall": {}}', "f: imgToEval is missing"),
        ("chair", '{"imgToEval": [1]}', "f: imgToEval must be an object"),
        ("chair", '[{"image_id": "7", "caption": "a"}]', r"f\[0\]: image_id must be a whole number"),
        (
            "object_halbench",
            '{"image_id": NaN, "text": "a"}',
            "f:1: image_id must be a whole number, not nan",
        ),
        ("object_halbench", '{"image_id": 1}', "f:1: text is missing"),
        ("pope", ours("chair"), "f:1: benchmark is 'chair', asked for pope"),
        ("pope", '{"uedpo_answers": 2, "benchmark": "pope"}', "f:1: uedpo_answers must be 1"),
        (
            "pope",
            ours("pope", {"id": 1, "answer": ""}, {"id": 1, "answer": ""}),
            "f:3: id 1 again; first at f:2",
        ),
        ("pope", ours("pope", {"id": "1", "answer": ""}), "f:2: id must be a whole number"),
        ("object_halbench", ours("object_halbench", {"id": 1, "answer": ""}), "f:2: image_id is missing"),
    ],
)
def test_what_is_in_no_format_is_named(benchmark, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_answers(text, "f", benchmark)
    assert "\n" not in str(caught.value)
