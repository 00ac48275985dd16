"""Model files that would take time or memory without end, or crash a library, are one line."""

import json
import os
import struct

import pytest

from tests.security.limits import edit, one_line
from uedpo.errors import InputError
from uedpo.model.files import INDEX
from uedpo.model.hf import HFModel
from uedpo.model.processors import check_ends
from uedpo.runtime import child


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(child, "SECONDS", 2)


def used(folder):
    """What a run does with a model's folder before it trains."""
    source = HFModel(str(folder))
    source.check(source.processor(), source.config())
    source.base()


def test_the_model_itself_is_used(folder):
    used(folder)


TEMPLATES = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}"
    "{% endfor %}{% endfor %}",
    "memory": "{% set ns = namespace(x='x' * 1000000) %}{% for a in range(30) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}{{ ns.x }}",
    "power": "{{ (9 ** 999999999) % 7 }}",
    "recursion": "{% macro m(x) %}{{ m(x) }}{{ m(x) }}{% endmacro %}{{ m(1) }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.cases(2)
def test_chat_templates_that_never_end(folder, name):
    (folder / "chat_template.jinja").write_text(TEMPLATES[name])

    def call():
        processor = HFModel(str(folder)).processor()
        from uedpo.model.chat import AnswerFrame

        try:
            AnswerFrame(processor)
        except Exception as error:
            raise InputError(str(error)) from None

    said = one_line(call)
    assert name == "recursion" or "the chat template takes more than" in said


def replaced(*pairs):
    steps = [{"type": "Replace", "pattern": {"String": a}, "content": b} for a, b in pairs]
    return {"type": "Sequence", "normalizers": steps}


def padded(**about):
    return {"direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "x", **about}


TOKENIZERS = {
    "doubles": {"normalizer": replaced(*[("a", "aa")] * 60)},
    "every letter": {"normalizer": {"type": "Replace", "pattern": {"Regex": ""}, "content": "y" * 10**7}},
    "prepends": {"normalizer": {"type": "Prepend", "prepend": "x" * 10**7}},
    "panics": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "////"}},
    "panics late": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"}},
    "no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "pads": {"padding": padded(strategy={"Fixed": 10**11}, pad_to_multiple_of=None)},
    "pads to multiples": {"padding": padded(strategy="BatchLongest", pad_to_multiple_of=10**10)},
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.cases(2)
def test_tokenizers_that_never_end_or_crash(folder, name):
    edit(folder / "tokenizer.json", **TOKENIZERS[name])
    assert "takes more than" in one_line(lambda: used(folder))


SIZES = {"height": 200_000, "width": 200_000}
FILES = {
    "picture": ("processor_config.json", {"image_processor": {"size": SIZES, "crop_size": SIZES}}),
    "edge": ("processor_config.json", {"image_processor": {"size": {"shortest_edge": 10**7}}}),
    "not finite": ("processor_config.json", {"image_processor": {"rescale_factor": float("nan")}}),
    "tokens": ("processor_config.json", {"image_seq_length": 10**9}),
    "labels": ("config.json", {"num_labels": 10**12}),
    "labels deep": ("config.json", {"text_config": {"num_labels": 10**10}}),
    "names": ("config.json", {"id2label": {str(i): "x" for i in range(30_000)}}),
    "list": ("config.json", {"vision_feature_layer": [0] * 10**6}),
    "factors": ("config.json", {"text_config": {"rope_parameters": {"long_factor": [1.0] * 10**5}}}),
    "ends": ("generation_config.json", {"eos_token_id": list(range(10**5))}),
    "words": ("tokenizer_config.json", {"extra_special_tokens": [f"<{i}>" for i in range(10**5)]}),
    "more words": ("added_tokens.json", {f"<{i}>": i for i in range(10**5)}),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.cases(4)
def test_sizes_that_nothing_has(folder, name):
    file, changes = FILES[name]
    path = folder / file
    about = json.loads(path.read_text()) if path.exists() else {}
    for key, value in changes.items():
        about[key] = about.get(key, {}) | value if isinstance(value, dict) else value
    path.write_text(json.dumps(about))
    assert file in one_line(lambda: used(folder))


def test_a_hundred_thousand_added_tokens(folder):
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": True}
    many = [token | {"id": 1000 + i, "content": f"<{i}>"} for i in range(100_000)]
    edit(folder / "tokenizer.json", added_tokens=many)
    assert "added_tokens has 100,000 entries" in one_line(lambda: used(folder))


@pytest.mark.slow
def test_hundreds_of_thousands_of_tensors(folder):
    header = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(110_000)}
    data = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data)
    assert "more than 100,000 tensors" in one_line(lambda: used(folder))
    names = {"weight_map": {name: "a.safetensors" for name in header}}
    (folder / INDEX).write_text(json.dumps(names))
    assert "more than 100,000 tensors" in one_line(lambda: used(folder))


PIPES = ["chat_template.jinja", "tokenizer.model", "model.safetensors", "added_tokens.json", "config.json"]


@pytest.mark.parametrize("name", PIPES)
def test_pipes_are_not_waited_for(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert f"{name}: no regular file" in one_line(lambda: used(folder))


def test_links_in_a_circle_and_thousands_of_templates(folder):
    os.symlink(folder / "x", folder / "x")
    assert "x: no regular file" in one_line(lambda: used(folder))
    (folder / "x").unlink()
    (folder / "additional_chat_templates").mkdir()
    for i in range(101):
        (folder / "additional_chat_templates" / f"{i}.jinja").write_text("x")
    assert "102 chat templates" in one_line(lambda: used(folder))


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.model", "merges.txt"])
def test_files_of_gigabytes(folder, name):
    with (folder / name).open("ab") as file:
        file.truncate(3 * 2**30)
    assert "which no file of its kind has" in one_line(lambda: used(folder))


def test_errors_of_a_turn_are_told_where_it_is_used(folder):
    """The trial in a child says nothing of them."""
    check_ends(HFModel(str(folder)).processor())
    ids = {"x": {"id": "x", "ids": [2**31 - 1], "tokens": ["x"]}}
    single = [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    about = {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": ids}
    edit(folder / "tokenizer.json", post_processor=about)
    assert "tokenizer.json, tokenizer_config.json) raises TypeError" in one_line(lambda: used(folder))


DEEP = {"list": "[" * 10**6, "dict": '{"a":' * 10**6, "large": "{" + " " * 2**27 + "}"}


@pytest.mark.parametrize("name", ["config", "processor_config", "tokenizer_config", "tokenizer"])
@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_deep_and_large_json_of_a_model(folder, name, text):
    (folder / f"{name}.json").write_text(text)
    assert "no usable processor" in one_line(lambda: HFModel(str(folder)).processor())
