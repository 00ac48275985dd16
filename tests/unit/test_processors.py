"""Files of a model that lack something, or whose template raises or tells the time, are named in one line."""

import json
import shutil

import pytest

from uedpo.errors import InputError
from uedpo.model.hf import HFModel

SHIPPED = HFModel("uedpo:micro_llava").location


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(SHIPPED, tmp_path / "model")
    return tmp_path / "model"


def change(file, edit):
    about = json.loads(file.read_text())
    edit(about)
    file.write_text(json.dumps(about))


def refused(folder):
    source = HFModel(str(folder))
    with pytest.raises(InputError) as caught:
        source.check(source.processor(), source.config())
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert str(folder) in line
    return line


@pytest.mark.parametrize("name", ["patch_size", "vision_feature_select_strategy"])
def test_a_setting_that_old_files_lack_is_named(folder, name):
    change(folder / "processor_config.json", lambda about: about.pop(name))
    assert f"processor_config.json has no {name}" in refused(folder)


def test_a_processor_config_of_only_its_class_is_one_line(folder):
    images = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    (folder / "processor_config.json").write_text('{"processor_class": "LlavaProcessor"}')
    line = refused(folder)
    assert "no patch_size" in line
    assert "no vision_feature_select_strategy" in line


@pytest.mark.parametrize("name", ["size", "crop_size"])
def test_an_image_processor_without_a_size_is_one_line(folder, name):
    change(folder / "processor_config.json", lambda about: about["image_processor"].update({name: {}}))
    assert refused(folder)


def test_a_tokenizer_without_an_end_token_names_file_and_key(folder):
    change(folder / "tokenizer_config.json", lambda about: about.pop("eos_token"))
    line = refused(folder)
    assert "eos_token of tokenizer_config.json" in line


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('only system turns') }}", "only system turns"),
        ("{% for m in messages %}{{ m.content.nothing.there }}{% endfor %}", "UndefinedError"),
        ("{% for m in messages %}", "TemplateSyntaxError"),
        ("{{ messages[0].content[0].type + 3 }}", "TypeError"),
    ],
)
def test_a_template_that_raises_is_one_line(folder, template, said):
    (folder / "chat_template.jinja").write_text(template)
    line = refused(folder)
    assert "chat_template.jinja" in line
    assert said in line


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("processor_config.json", "[]"), ("processor_config.json", "{"), ("config.json", "[]"),
        ("config.json", '{"model_type": "llava", "text_config": 3}'), ("config.json", "{}"),
        ("tokenizer.json", "{}"), ("tokenizer_config.json", '{"eos_token": 7}'),
        ("tokenizer_config.json", "null"), ("processor_config.json", '{"image_processor": 3}'),
    ],
)  # fmt: skip
def test_whatever_a_library_raises_on_a_broken_file_is_one_line(folder, file, data):
    (folder / file).write_text(data)
    refused(folder)


def test_the_shipped_model_lacks_nothing():
    source = HFModel("uedpo:micro_llava")
    processor = source.processor()
    source.check(processor, source.config())
    assert source.time_hint(processor) is None


def test_a_template_that_writes_the_time_is_warned_of_by_name(folder):
    path = folder / "chat_template.jinja"
    path.write_text("{{ strftime_now('%Y-%m-%d') }} " + path.read_text())
    source = HFModel(str(folder))
    hint = source.time_hint(source.processor())
    assert str(folder) in hint
    assert "strftime_now" in hint


def test_a_tokenizer_without_a_padding_token_pads_with_the_end_token_and_says_so(folder):
    change(folder / "tokenizer_config.json", lambda about: about.pop("pad_token"))
    source = HFModel(str(folder))
    processor = source.processor()
    source.check(processor, source.config())
    assert processor.tokenizer.pad_token_id == processor.tokenizer.eos_token_id
    assert "tokenizer_config.json has no pad_token" in source.pad_hint()
    made = processor(text=["a cup", "a cup on a table"], padding=True)  # as an evaluation does
    assert len({len(ids) for ids in made["input_ids"]}) == 1
    assert HFModel("uedpo:micro_llava").pad_hint() is None
