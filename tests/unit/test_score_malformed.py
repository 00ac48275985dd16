"""A thousand broken inputs: one line of error, a null report, or a whole score; never anything else."""

import copy
import gzip
import json
import os
import random
import re
import shutil

import pytest

from uedpo.evaluation.score import main

WRONG = (
    None,
    True,
    1.5,
    float("nan"),
    float("inf"),
    -1,
    0,
    10**6,
    10**30,
    "",
    "x",
    [],
    [None],
    {},
    {"a": 1},
    "é\ud800",
)
KINDS = ("discriminative-attribute-state", "discriminative-hallucination", "relation")


def coco(part):
    images = [{"id": i} for i in (part, part + 2)]
    instances = [{"id": i, "image_id": part, "category_id": 1} for i in range(2)]
    captions = [{"id": i, "image_id": part + 2, "caption": "a man with a dog"} for i in range(2)]
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "person"}]
    return {"images": images, "annotations": instances, "categories": categories}, {
        "images": images,
        "annotations": captions,
    }


def cases():
    """benchmark -> (assets {file: value}, answers, recordings {option: value}); a list of lines is JSONL."""
    train, val = coco(1), coco(2)
    files = {f"instances_{s}2014.json": v[0] for s, v in (("train", train), ("val", val))}
    files |= {f"captions_{s}2014.json": v[1] for s, v in (("train", train), ("val", val))}
    words = ["a", "man", "with", "dog", ".", "the", "big", "é"]
    tokens = {f"a {w}": [["a", "a", "DT"], [w, w, "NN"]] for w in ("man", "dog")}
    amber = [{"id": 1, "type": "generative", "truth": ["dog"], "hallu": ["cat"]}]
    amber += [{"id": i + 2, "type": k, "truth": "no"} for i, k in enumerate(KINDS)]
    relation = {"dog": ["puppy"], "cat": [], "puppy": []}
    labels = [
        {"question_id": i, "text": "Is there é?", "label": "yes" if i % 2 else "no"} for i in range(1, 6)
    ]
    replies = [{"index": i, "reply": f"Rating: {i % 7}"} for i in range(8)]
    halbench = [{"image_id": i + 1, "prompt": "p", "text": "a big man with é"} for i in range(4)]
    listed = [{"index": i, "reply": '["man", "dog"]'} for i in range(4)]
    captions = [{"image_id": i, "caption": "a big man with the dog é"} for i in range(1, 5)]
    answered = [{"question": "Is there é?", "answer": a} for a in ("Yes", "No", "Yes", "No", "Yes")]
    header = [{"uedpo_answers": 1, "benchmark": "pope"}]
    mmhal = [{"question": "é", "model_answer": "é"} for _ in range(8)]
    discriminative = [{"id": i, "response": "No"} for i in range(2, 5)]
    template = {"mmhal-bench_answer_template.json": mmhal}
    more = {"relation.json": relation, "safe_words.txt": b"orange\n", "annotations.json": amber}
    return [
        ("pope", {"labels.json": Lines(labels)}, Lines(answered), {}),
        (
            "pope",
            {"labels.json": Lines(labels)},
            Lines(header + [{"id": i, "answer": "Yes é"} for i in range(1, 6)]),
            {},
        ),
        ("amber_discriminative", {"annotations.json": amber}, discriminative, {}),
        (
            "amber_generative",
            more,
            [{"id": 1, "response": "A dog é."}],
            {"similarity": [["dog", "cat", 0.9]]},
        ),
        ("mmhal", template, mmhal, {"judge_replies": Lines(replies)}),
        ("chair", files | {"synonyms.txt": SYNONYMS}, captions, {"singularize": {w: w for w in words}}),
        (
            "chair",
            files | {"synonyms.txt": SYNONYMS},
            {"imgToEval": {str(r["image_id"]): r for r in captions}},
            {"singularize": {w: w for w in words}},
        ),
        (
            "object_halbench",
            files | {"synonyms_refine.txt": SYNONYMS},
            Lines(halbench),
            {"judge_replies": Lines(listed), "tagger": tokens},
        ),
    ]


SYNONYMS = b"person, man\ndog\n"


class Lines(list):
    """Rows of JSONL."""


def encoded(value):
    if isinstance(value, bytes):
        return value
    if isinstance(value, Lines):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in value).encode("utf-8", "replace")
    return json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8", "replace")


def break_value(rng, value):
    """Another type, no key, a row less or twice, somewhere in a JSON value."""
    value = copy.deepcopy(value)
    node, path = value, []
    while isinstance(node, list | dict) and node and rng.random() < 0.85:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        path.append((node, key))
        node = node[key]
    if not path:
        return rng.choice(WRONG)
    parent, key = path[-1]
    what = rng.randrange(4)
    if what == 0:
        del parent[key]
    elif what == 1 and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(parent[key]))
    elif what == 2 and isinstance(parent, dict):
        parent[f"{key}_"] = parent.pop(key)
    else:
        parent[key] = rng.choice(WRONG)
    return value


def break_bytes(rng, data):
    """Cut, overwritten, encoded otherwise, wrapped, or emptied."""
    text = data.decode()
    at = rng.randrange(len(data) + 1)
    deep = b"[" * 60_000
    return rng.choice(
        (
            data[:at],
            data[:at] + bytes(rng.randrange(256) for _ in range(3)) + data[at:],
            data[:at] + data[at + 1 :],
            text.encode("utf-16"),
            text.encode("latin-1"),
            b"\xef\xbb\xbf" + data,
            gzip.compress(data),
            gzip.compress(data)[: rng.randrange(2, 40)],
            b"\x1f\x8b" + data,
            b"",
            b"\n",
            data + b"\n",
            data.replace(b"\n", b"\n\n", 1),
            data.replace(b"\n", b"\r\n"),
            data.replace(b": ", b": NaN, ", 1),
            deep,
            data + data,
            b"\x00" + data,
            data.replace(b"1", b"1" * 5000, 1),
        )
    )


@pytest.fixture
def call(tmp_path, capsys, request):
    if "UEDPO_BENCHMARKS" in os.environ:  # else three of the benchmarks end at nltk's data, as they should
        request.getfixturevalue("nltk")
    folder, inputs, output = tmp_path / "assets", tmp_path / "inputs", tmp_path / "report.json"

    def scored(benchmark, assets, answers, recordings, *options):
        """(exit code, report or None, lines of stderr)."""
        for path in (folder, inputs):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        output.unlink(missing_ok=True)
        for name, value in assets.items():
            (folder / name).write_bytes(encoded(value))
        (inputs / "answers").write_bytes(encoded(answers))
        for name, value in recordings.items():
            (inputs / name).write_bytes(encoded(value))
        arguments = [f"{name}={inputs / name}" for name in recordings]
        arguments += [f"assets={folder / 'labels.json' if benchmark == 'pope' else folder}"]
        code = main(
            [
                f"benchmark={benchmark}",
                f"answers={inputs / 'answers'}",
                f"output={output}",
                *arguments,
                *options,
            ]
        )
        error = capsys.readouterr().err
        return code, json.loads(output.read_text()) if output.exists() else None, error.splitlines()

    return scored


def has_place(message, names):
    """Whether an error names a file, and of rows the line or the index."""
    whole_file = "empty|broken gzip|not JSON .nested|must be|no labels|[a-zA-Z]+ (is missing|must be)"
    place = rf":\d+:|\[\S+\]|id \d+|header|: ({whole_file})"
    return any(name in message for name in names) and re.search(place, message)


@pytest.mark.parametrize("trials", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_broken_inputs_give_one_line_or_null_never_a_partial_number(call, trials):
    rng = random.Random(7)
    outcomes = {0: 0, 1: 0, 2: 0}
    possible = cases()
    for trial in range(trials):
        benchmark, assets, answers, recordings = possible[trial % len(possible)]
        files = [("answers", answers)] * 3 + [*recordings.items()] * 2 + [*assets.items()]
        broken, value = rng.choice(files)
        new = (
            break_bytes(rng, encoded(value))
            if isinstance(value, bytes) or rng.random() < 0.5
            else break_value(rng, value)
        )
        if isinstance(value, Lines) and isinstance(new, list):
            new = Lines(new)
        code, report, errors = call(
            benchmark,
            assets | ({broken: new} if broken in assets else {}),
            new if broken == "answers" else answers,
            recordings | ({broken: new} if broken in recordings else {}),
            *(["mode=strict"] if trial % 3 == 0 else []),
        )
        outcomes[code] += 1
        if code == 2:
            assert report is None
            assert len(errors) == 1
            assert has_place(errors[0], [name for name, _ in files]), errors
        elif code == 1:
            assert len(errors) == 1
            assert report["reasons"]
            assert set(report["metrics"].values()) == {None}
        else:
            missing = {k: v for k, v in report["counts"].items() if k.startswith("missing") and v}
            assert missing == {}
            assert report["counts"]["scored"] >= report["counts"]["expected"] > 0
            assert None not in report["metrics"].values()
    assert min(outcomes.values()) > trials / 20
    assert outcomes[2] > trials * 2 / 5
