"""Micro-world scenes as COCO files: `python -m uedpo.microworld.assets out=DIR [num=200]`.

What CHAIR and POPE read from COCO, made from exact truth: images/, instances_ and
captions_{train,val}2014.json, synonyms.txt, singularize.json, chair_images.json, pope.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from uedpo.errors import local_path
from uedpo.evaluation.options import command
from uedpo.microworld.grammar import COUNT_WORDS, SYNONYMS, caption, plural
from uedpo.microworld.scene import CATEGORIES, COMPANION, IMAGE_SIZE, TEST_START, Scene, make_scene, render
from uedpo.microworld.truth import read
from uedpo.types import NonNegativeInt, PositiveInt

CAPTIONS = 5  # references of an image, as many as COCO has
_CAPTIONS_FOR_WORDS = 1000  # the grammar's rarest word turns up within 600
_QUESTIONS = 3  # present, and as many absent objects that POPE asks of an image


def write_assets(out: str, num: PositiveInt = 200, start: NonNegativeInt = TEST_START) -> int:
    """Write the files of `num` shifted scenes from number `start` on; the exit code.

    COCO's two halves are merged again by CHAIR: every other scene stands in train2014.
    """
    folder = local_path(out)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    scenes = [make_scene("shift", start + i) for i in range(num)]
    for scene in scenes:
        render(scene).save(folder / "images" / _file_name(scene))
    for split, half in (("val2014", scenes[::2]), ("train2014", scenes[1::2])):
        _write(folder / f"instances_{split}.json", _instances(half))
        _write(folder / f"captions_{split}.json", _captions(half))
    names = [{"image_id": scene.index, "image": _file_name(scene)} for scene in scenes]
    _write(folder / "chair_images.json", names)
    lines = [", ".join(dict.fromkeys((category, *words))) for category, words in SYNONYMS.items()]
    (folder / "synonyms.txt").write_text("".join(line + "\n" for line in lines))
    _write(folder / "singularize.json", _singulars())
    rows = [json.dumps(row) + "\n" for row in _pope(scenes)]
    (folder / "pope.json").write_text("".join(rows))
    print(f"{num} scenes in {folder}")
    return 0


def _file_name(scene: Scene) -> str:
    return f"micro_{scene.index:012d}.png"


def _about(scenes: list[Scene]) -> list[dict[str, Any]]:
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return [{"id": scene.index, "file_name": _file_name(scene), **size} for scene in scenes]


def _instances(scenes: list[Scene]) -> dict[str, Any]:
    """COCO's instances: a box for each copy of an item."""
    ids = {name: i for i, name in enumerate(CATEGORIES, start=1)}
    boxes = [(scene, item, box) for scene in scenes for item in scene.items for box in item.boxes]
    annotations = [
        {
            "id": number,
            "image_id": scene.index,
            "category_id": ids[item.category],
            "bbox": [x, y, side, side],
            "area": side * side,
            "iscrowd": 0,
        }
        for number, (scene, item, (x, y, side)) in enumerate(boxes, start=1)
    ]
    categories = [{"id": i, "name": name, "supercategory": "object"} for name, i in ids.items()]
    return {"images": _about(scenes), "annotations": annotations, "categories": categories}


def _captions(scenes: list[Scene]) -> dict[str, Any]:
    annotations = [
        {"id": scene.index * CAPTIONS + k, "image_id": scene.index, "caption": _reference(scene, k)}
        for scene in scenes
        for k in range(CAPTIONS)
    ]
    return {"images": _about(scenes), "annotations": annotations}


def _reference(scene: Scene, k: int) -> str:
    return caption(np.random.default_rng([29, scene.index, k]), scene)


def _singulars() -> dict[str, str]:
    """Every word of the grammar -> its singular; CHAIR singularises each token of a caption."""
    texts = (_reference(make_scene("shift", i), 0) for i in range(_CAPTIONS_FOR_WORDS))
    words = {w.text.lower() for text in texts for w in read(text).words}
    words |= {word for options in COUNT_WORDS.values() for word in options}
    table = {word: word for word in sorted(words)}
    for nouns in SYNONYMS.values():
        table |= {noun: noun for noun in nouns} | {plural(noun): noun for noun in nouns}
    return table


def _pope(scenes: list[Scene]) -> list[dict[str, Any]]:
    """POPE's rows: up to three objects that are there, and as many that are not.

    Companions of what is there come first, as in POPE's adversarial setting.
    """
    rows: list[dict[str, Any]] = []
    for scene in scenes:
        present = [item.category for item in scene.items][:_QUESTIONS]
        others = [COMPANION[c] for c in present] + list(CATEGORIES)
        absent = [c for c in dict.fromkeys(others) if scene.find(c) is None][: len(present)]
        for there, not_there in zip(present, absent, strict=True):
            for category, label in ((there, "yes"), (not_there, "no")):
                text = f"Is there {'an' if category[0] in 'aeiou' else 'a'} {category} in the image?"
                about = {"question_id": len(rows) + 1, "image": _file_name(scene)}
                rows.append({**about, "text": text, "label": label})
    return rows


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value) + "\n")


if __name__ == "__main__":
    command(write_assets)
