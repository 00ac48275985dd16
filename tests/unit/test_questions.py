import base64
import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from uedpo.errors import InputError
from uedpo.evaluation.questions import images_digest, load

BENCHMARKS = os.environ.get("UEDPO_BENCHMARKS")
needs_benchmarks = pytest.mark.skipif(not BENCHMARKS, reason="UEDPO_BENCHMARKS is not set")


def picture(colour="red"):
    data = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png", "COCO_val2014_000000000042.jpg"):
        (tmp_path / "images" / name).write_bytes(picture())
    (tmp_path / "outside.png").write_bytes(picture())
    return tmp_path


def write(folder, name, rows, lines=False):
    text = "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows)
    (folder / name).write_text(text)


@pytest.mark.parametrize("text", ["[" * 200_000, "[" + "1" * 5000 + "]"])
def test_nesting_and_digits_beyond_the_parser_are_named(folder, text):
    for benchmark, name in (("chair", "chair_images.json"), ("pope", "labels.json")):
        (folder / name).write_text(text)
        assets = folder / name if benchmark == "pope" else folder
        with pytest.raises(InputError, match=f"{name}.*: not JSON"):
            load(benchmark, assets, folder / "images")


ROW = {
    "pope": {"question_id": 7, "image": "a.png", "text": "Is there a dog in the image?", "label": "no"},
    "chair": {"image_id": 9, "image": "a.png"},
    "amber_generative": {"id": 1004, "image": "a.png", "query": "Describe this image."},
    "amber_discriminative": {"id": 1005, "image": "a.png", "query": "Is it blue?"},
    "mmhal": {"image_src": "https://host/path/a.png?size=3", "question": "What is it?"},
    "object_halbench": {
        "image": base64.b64encode(picture()).decode(), "question": "What?", "image_id": "31",
    },
}  # fmt: skip
FILE = {
    "pope": "labels.json", "chair": "chair_images.json", "amber_generative": "query_generative.json",
    "amber_discriminative": "query_discriminative.json", "mmhal": "mmhal-bench_answer_template.json",
    "object_halbench": "obj_halbench_300_with_image.jsonl",
}  # fmt: skip
LINES = ("pope", "object_halbench")


def questions(benchmark, folder, rows):
    write(folder, FILE[benchmark], rows, benchmark in LINES)
    return load(benchmark, folder / FILE["pope"] if benchmark == "pope" else folder, folder / "images")


@pytest.mark.parametrize("benchmark", ROW)
def test_rows_become_questions(folder, benchmark):
    (question,) = questions(benchmark, folder, [ROW[benchmark]])
    ids = {"pope": 7, "chair": 9, "amber_generative": 1004, "amber_discriminative": 1005}
    assert question.id == ids.get(benchmark, 0)
    prompts = {"chair": "Describe this image.", "pope": ROW["pope"]["text"]}
    row = ROW[benchmark]
    assert question.prompt == prompts.get(benchmark, row.get("query", row.get("question")))
    assert question.image_id == (31 if benchmark == "object_halbench" else None)
    assert question.picture().size == (4, 3)
    other = images_digest([question])
    (folder / "images/a.png").write_bytes(picture("blue"))
    assert (images_digest([question]) == other) == (benchmark == "object_halbench")


def test_chair_takes_ids_and_a_prompt(folder):
    write(folder, "chair_images.json", [42, {"image_id": 1, "image": "b.png"}])
    found = load("chair", folder, folder / "images", "Say it.")
    assert [q.id for q in found] == [42, 1]
    assert found[0].image.name == "COCO_val2014_000000000042.jpg"
    assert {q.prompt for q in found} == {"Say it."}
    assert len(load("chair", folder, folder / "images", limit=1)) == 1


def test_amber_is_split_at_id_1004(folder):
    write(folder, "query_all.json", [ROW["amber_generative"], ROW["amber_discriminative"]])
    for benchmark, number in (("amber_generative", 1004), ("amber_discriminative", 1005)):
        assert [q.id for q in load(benchmark, folder, folder / "images")] == [number]


@pytest.mark.parametrize("benchmark", ROW)
def test_bad_rows_are_named_with_file_place_and_field(folder, benchmark):
    row = ROW[benchmark]
    place = f"{FILE[benchmark]}:2: " if benchmark in LINES else f"{FILE[benchmark]}: row 1: "
    unused = {"label"}
    for name in set(row) - unused:
        for bad in (None, "", [], {}, 1.5, True):
            with pytest.raises(InputError, match=name) as caught:
                questions(
                    benchmark, folder, [row | {"id": 1, "question_id": 1, "image_id": 1}, row | {name: bad}]
                )
            assert place in str(caught.value), caught.value
            assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match=f"{name} must be .*is missing"):
            questions(benchmark, folder, [{k: v for k, v in row.items() if k != name}])
    for bad in (3.5, "text", None, [row]):
        with pytest.raises(InputError, match="must be an object"):
            questions(benchmark, folder, [bad])


@pytest.mark.parametrize("benchmark", ["pope", "chair", "amber_generative", "amber_discriminative"])
@pytest.mark.parametrize(
    "name", ["../outside.png", "/etc/passwd", "none.png", ".", "a\0b", "http://host/a.png", "x" * 5000]
)
def test_images_stay_inside_their_folder(folder, benchmark, name):
    with pytest.raises(InputError, match="is not a file inside"):
        questions(benchmark, folder, [ROW[benchmark] | {"image": name}])


def test_links_that_leave_the_folder_are_refused(folder):
    (folder / "images/link.png").symlink_to(folder / "outside.png")
    with pytest.raises(InputError, match="is not a file inside"):
        questions("pope", folder, [ROW["pope"] | {"image": "link.png"}])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no question of pope"),
        (b"\xff\xfe{\x00", "labels.json:1: not UTF-8"),
        (b'{"a": 1}\n\n{"a"\n', "labels.json:1: image must be"),
        (b"[1, 2\n", "labels.json:1: not JSON"),
    ],
)
def test_broken_files_are_named(folder, data, message):
    (folder / "labels.json").write_bytes(data)
    with pytest.raises(InputError, match=message):
        load("pope", folder / "labels.json", folder / "images")


def test_missing_and_repeated_things_are_named(folder):
    with pytest.raises(InputError, match=r"has no query_generative.json nor query/query_generative.json"):
        load("amber_generative", folder, folder / "images")
    with pytest.raises(InputError, match="images: missing"):
        load("pope", folder, None)
    with pytest.raises(InputError, match="no such folder"):
        load("pope", folder, folder / "none")
    with pytest.raises(InputError, match=r"labels.json:2: id 7 is that of .*labels.json:1 too"):
        questions("pope", folder, [ROW["pope"], ROW["pope"]])
    (folder / "query_generative.json").write_text("[\n{]")
    with pytest.raises(InputError, match=r"query_generative.json:2: not JSON"):
        load("amber_generative", folder, folder / "images")
    (folder / "images/a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a.png: no picture"):
        images_digest(questions("pope", folder, [ROW["pope"]]))


@needs_benchmarks
def test_official_files_have_their_questions(tmp_path):
    root = Path(BENCHMARKS)
    names = {json.loads(line)["image"] for line in (root / "pope/coco_pope_random.json").open()}
    names |= {f"AMBER_{i}.jpg" for i in range(1, 1005)}
    template = json.loads((root / "mmhal/mmhal-bench_answer_template.json").read_text())
    names |= {row["image_src"].rsplit("/", 1)[1] for row in template}
    for name in names:
        (tmp_path / name).touch()
    for name in ("random", "popular", "adversarial"):
        assert len(load("pope", root / f"pope/coco_pope_{name}.json", tmp_path)) == 3000
    generative = load("amber_generative", root / "amber", tmp_path)
    assert [q.id for q in generative] == list(range(1, 1005))
    assert {q.prompt for q in generative} == {"Describe this image."}
    ids = [q.id for q in load("amber_discriminative", root / "amber", tmp_path)]
    assert ids == list(range(1005, 15221))
    assert [q.id for q in load("mmhal", root / "mmhal", tmp_path)] == list(range(96))
