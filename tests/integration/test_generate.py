"""The shipped model answers benchmark files; every run here is greedy and on one thread."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from uedpo.errors import ConfigError, InputError
from uedpo.evaluation import generate as stage
from uedpo.evaluation.append_file import ANSWERS, read
from uedpo.evaluation.decode import generate
from uedpo.evaluation.generate import answer_benchmark
from uedpo.evaluation.merge import merge
from uedpo.evaluation.options import parse
from uedpo.evaluation.protocols import decoding, on_square
from uedpo.microworld.assets import write_assets
from uedpo.microworld.grammar import PROMPTS
from uedpo.microworld.scene import make_scene, render
from uedpo.model.hf import HFModel, lora

MODEL = "uedpo:micro_llava"


@pytest.fixture(scope="module")
def loaded():
    source = HFModel(MODEL)
    return source.base(), source.processor()


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assets")
    write_assets(str(folder), num=7, start=2_000_000)
    return folder


def run(assets, output, benchmark="chair", **options):
    where = assets / "pope.json" if benchmark == "pope" else assets
    options = {"max_new_tokens": 12, "batch_size": 3, "prompt": PROMPTS[0]} | options
    return answer_benchmark(benchmark, MODEL, str(where), str(output), str(assets / "images"), **options)


@pytest.fixture(scope="module")
def answers(assets, tmp_path_factory):
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    assert run(assets, path) == 0
    return path


@pytest.mark.parametrize("num_beams", [1, 3])
def test_prompts_of_one_batch_answer_as_alone(loaded, num_beams):
    images = [render(make_scene("shift", i)) for i in range(4)]
    prompts = [PROMPTS[0], "Is there a dog in the image?", PROMPTS[3], "See?"]
    options = {"max_new_tokens": 20, "num_beams": num_beams}
    together = list(generate(*loaded, images, prompts, batch_size=4, **options))
    alone = [
        next(generate(*loaded, [i], [p], batch_size=1, **options))
        for i, p in zip(images, prompts, strict=True)
    ]
    assert together == alone
    assert len(set(together)) == 4
    assert loaded[1].tokenizer.padding_side == "right"


def test_header_and_rows(assets, answers):
    header, rows = read(answers, ANSWERS)
    assert [row["id"] for _, row in rows] == list(range(2_000_000, 2_000_007))
    assert all(set(row) == {"id", "answer"} and row["answer"] for _, row in rows)
    assert header["decoding"] == {
        "temperature": 0.0, "num_beams": 1, "max_new_tokens": 12, "image_aspect": "keep", "suffix": "",
    }  # fmt: skip
    assert (header["benchmark"], header["shard"], header["num"]) == ("chair", "0/1", 7)
    assert header["versions"]["torch"] == torch.__version__


def test_run_cut_in_a_batch_goes_on_to_the_same_file(assets, answers, tmp_path):
    lines = answers.read_bytes().splitlines(keepends=True)
    for kept in (1, 3, 6):
        path = tmp_path / f"{kept}.jsonl"
        path.write_bytes(b"".join(lines[:kept]) + lines[kept][:9])
        assert run(assets, path) == 0
        assert path.read_bytes() == answers.read_bytes()


def test_finished_run_loads_no_weights(assets, answers, monkeypatch):
    monkeypatch.setattr(stage, "load_model", None)
    before = answers.read_bytes()
    assert run(assets, answers) == 0
    assert answers.read_bytes() == before


def test_shards_merge_to_the_file_of_one_process(assets, answers, tmp_path):
    output = tmp_path / "answers.jsonl"
    names = [str(tmp_path / f"answers.{i}-of-3.jsonl") for i in range(3)]
    for i in range(3):
        # batches of one hold the same rows however they are sharded
        assert run(assets, output, shard=f"{i}/3", batch_size=1) == 0
    for given, message in (
        (names[:2], "shard 2/3 missing"),
        ([*names, names[0]], "shard 0/3 is that of"),
        ([*names[:2], str(answers)], "shard|differ"),
    ):
        with pytest.raises(InputError, match=message):
            merge(str(output), given)
    assert merge(str(output), names[::-1]) == 0
    whole = tmp_path / "whole.jsonl"
    run(assets, whole, batch_size=1)
    assert output.read_bytes() == whole.read_bytes()
    with pytest.raises(InputError, match="exists"):
        merge(str(output), names)
    cut = tmp_path / "answers.1-of-3.jsonl"
    cut.write_bytes(b"".join(cut.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match=r"1-of-3.jsonl: 1 of 2 answers"):
        merge(str(tmp_path / "other.jsonl"), names)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"protocol": "rlaifv"}, r"protocol='greedy' \(now 'rlaifv'\).*decoding.num_beams=1"),
        ({"max_new_tokens": 13}, "decoding.max_new_tokens=12"),
        ({"prompt": "See?"}, "prompts_sha256="),
        ({"limit": 3}, r"num=7 \(now 3\)"),
        ({"dtype": "bfloat16"}, "dtype='float32'"),
        ({"suffix": "!"}, "decoding.suffix=''"),
    ],
)
def test_other_settings_are_refused(assets, answers, change, named):
    with pytest.raises(InputError, match=named):
        run(assets, answers, **change)


def test_bad_rows_of_an_answer_file_are_named(assets, answers, tmp_path):
    lines = answers.read_text().splitlines(keepends=True)
    path = tmp_path / "answers.jsonl"
    for bad, message in (
        ('{"id": 1, "answer": "a"}', "id=1 is no question"),
        ('{"id": "2000002", "answer": "a"}', "is no question"),
        ('{"answer": "a"}', "id=None"),
        ('{"id": 2000000, "answer": "a"}', "has an answer above"),
        ('{"id": 2000005, "answer": null}', "answer must be a text"),
    ):
        path.write_text("".join(lines[:3]) + bad + "\n")
        with pytest.raises(InputError, match=rf"answers.jsonl:4: .*{message}"):
            run(assets, path)


@pytest.mark.parametrize("shard", ["1/1", "2", "-1/2", "a/b", "0/0", "1/2/3", "/"])
def test_bad_shards_are_refused(assets, tmp_path, shard):
    with pytest.raises(InputError, match="must be i/n"):
        run(assets, tmp_path / "answers.jsonl", shard=shard)


def test_adapter_changes_answers_and_its_hash_is_kept(assets, answers, loaded, tmp_path):
    policy, _ = HFModel(MODEL, lora=lora(r=2, alpha=4.0)).load()
    policy.save_pretrained(tmp_path / "adapter")
    weights = tmp_path / "adapter/adapter_model.safetensors"
    path = tmp_path / "same.jsonl"
    run(assets, path, adapter=str(tmp_path / "adapter"))
    assert [row for _, row in read(path, ANSWERS)[1]] == [row for _, row in read(answers, ANSWERS)[1]]
    torch.manual_seed(0)
    save_file({k: torch.randn_like(v) * 0.2 for k, v in load_file(weights).items()}, weights)
    with pytest.raises(InputError, match="adapter_sha256="):
        run(assets, path, adapter=str(tmp_path / "adapter"))
    run(assets, tmp_path / "other.jsonl", adapter=str(tmp_path / "adapter"))
    assert read(tmp_path / "other.jsonl", ANSWERS)[1] != read(answers, ANSWERS)[1]
    weights.unlink()
    with pytest.raises(InputError, match=r"has no adapter_model.safetensors"):
        run(assets, tmp_path / "none.jsonl", adapter=str(tmp_path / "adapter"))


def test_model_that_does_not_load_is_one_line(assets, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"model=.*cannot be loaded") as caught:
        answer_benchmark(
            "chair", str(tmp_path / "empty"), str(assets), str(tmp_path / "a.jsonl"), str(assets / "images")
        )
    assert "\n" not in str(caught.value)


def test_protocols_are_those_of_their_scripts():
    assert decoding("rlaifv", "object_halbench") == (0.0, 3, 1024, "keep", "")
    assert decoding("opadpo", "amber_generative") == (0.0, 1, 1024, "pad", "")
    assert decoding("greedy", "pope") == (0.0, 1, 1024, "keep", "")
    pope = decoding("opadpo", "pope")
    assert pope.max_new_tokens == 64
    assert pope.suffix.startswith("\\nAnswer")  # backslash and n, as their script sends it
    assert "\n" not in pope.suffix


def test_padding_centres_the_image(loaded):
    square = on_square(Image.new("RGB", (10, 4), "red"), loaded[1])
    assert square.size == (10, 10)
    assert [square.getpixel((5, y)) == (255, 0, 0) for y in range(10)] == [3 <= y < 7 for y in range(10)]
    mean = loaded[1].image_processor.image_mean
    assert square.getpixel((0, 0)) == tuple(int(255 * m) for m in mean)


def test_microworld_files_are_consistent(assets):
    found = {}
    for kind in ("instances", "captions"):
        for split in ("train2014", "val2014"):
            found[kind, split] = json.loads((assets / f"{kind}_{split}.json").read_text())
    assert len(found["captions", "val2014"]["annotations"]) == 5 * 4
    names = {c["id"]: c["name"] for c in found["instances", "val2014"]["categories"]}
    truth = {}
    for split in ("train2014", "val2014"):
        for a in found["instances", split]["annotations"]:
            truth.setdefault(a["image_id"], set()).add(names[a["category_id"]])
    assert truth == {
        i: {item.category for item in make_scene("shift", i).items} for i in range(2_000_000, 2_000_007)
    }
    for line in (assets / "pope.json").read_text().splitlines():
        row = json.loads(line)
        category = row["text"].split()[3]
        assert (category in truth[int(row["image"][6:18])]) == (row["label"] == "yes")
    nodes = {line.split(", ")[0] for line in (assets / "synonyms.txt").read_text().splitlines()}
    assert nodes == set(names.values())
    singular = json.loads((assets / "singularize.json").read_text())
    assert (singular["puppies"], singular["bus"], singular["loaves"], singular["is"]) == (
        "puppy",
        "bus",
        "loaf",
        "is",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["benchmark=pop"], "benchmark='pop': must be 'pope', 'chair'"),
        (["ouput=a"], "ouput: unknown key; did you mean output?"),
        (["batch_size=0"], "batch_size='0': must be greater than or equal to 1"),
        (["batch_size=many"], "batch_size='many': must be a valid integer"),
        (["limit=null", "limit=2"], "limit: given twice"),
        (["model"], "model: write key=value"),
        ([], "assets: missing; set it with assets=VALUE"),
    ],
)
def test_command_lines_are_checked(arguments, message):
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as caught:
        parse(answer_benchmark, arguments)
    assert message in str(caught.value)


def test_command_lines_become_values():
    found = parse(
        answer_benchmark,
        ["benchmark=chair", "model=0012", "assets=a=b", "output=o", "limit=null", "batch_size=4"],
    )
    assert found == {
        "benchmark": "chair", "model": "0012", "assets": "a=b", "output": "o", "limit": None, "batch_size": 4,
    }  # fmt: skip
    assert parse(merge, ["output=o", "a", "b=c"], bare="shards") == {"output": "o", "shards": ["a", "b=c"]}
