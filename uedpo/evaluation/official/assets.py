"""Parsing the benchmarks' own files: labels, annotations, templates, COCO."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from uedpo.errors import InputError
from uedpo.evaluation.official.coco import Images, Vocabulary
from uedpo.evaluation.official.reading import parse, parse_lines, shown, take, texts

SPLITS = ("train", "val")
# sha256 of the files that the numbers in docs/evaluation.md and in papers were made with
KNOWN = {
    "coco_pope_adversarial.json": "420b3407db1fa9f1187a805dca41cb7b97fd91504e6c2179706188c107fb8ef8",
    "coco_pope_popular.json": "72c1a8ad45d0c13514f5f22598261df41d3b533854d29682e924db50ed8aa753",
    "coco_pope_random.json": "ac25245170b975a5bdf9080b23fd431dfe6be458bc038259c1f4f09a6bef7994",
    "annotations.json": "db22a436c4836fbb295e60b4e80d519573077579fb7032f01b193c1bd022b797",
    "relation.json": "c4c1491e9bbc3209abc1888c12a1bf8413bdbab8a0d8be04b990a2e7680cf23e",
    "safe_words.txt": "f92cf1123f4578a2630832fac3e6ac4de36212ea55859d3bed4fd233723f4043",
    "mmhal-bench_answer_template.json": "28ed24e19ffef292597c35f1dad37760b2e0a088b3b40ca3b50f105fc1b951bb",
    "synonyms.txt": "b685537b36fe21b791c87151b96a991ceb582edff19f3da204dcc7a7905502f2",
    "synonyms_refine.txt": "681041d2958d7871ed6fa69c3108f34aa6a0a354eb53ed4c5a425e65f86bc72a",
}


class Label(NamedTuple):
    question_id: int
    question: str
    is_yes: bool


def pope_labels(text: str, name: str) -> list[Label]:
    """POPE's label file: {question_id, image, text, label} a line."""
    labels: dict[int, Label] = {}
    for where, row in parse_lines(text, name):
        key, label = take(row, "question_id", int, where), take(row, "label", str, where)
        if label not in ("yes", "no"):
            raise InputError(f"{where}: label must be yes or no, not {shown(label)}")
        if key in labels:
            raise InputError(f"{where}: question_id {key} again")
        labels[key] = Label(key, take(row, "text", str, where), label == "yes")
    if not labels:
        raise InputError(f"{name}: no labels")
    return list(labels.values())


class Annotation(NamedTuple):
    """AMBER: `truth` and `hallu` are words of a generative row, `is_yes` the other rows' truth."""

    id: int
    kind: str
    is_yes: bool = False
    truth: tuple[str, ...] = ()
    hallu: tuple[str, ...] = ()


def amber_annotations(text: str, name: str) -> list[Annotation]:
    """annotations.json, in file order: the script finds id i at position i - 1, whatever its id says."""
    rows = []
    for i, row in enumerate(_list(parse(text, name), name)):
        where = f"{name}[{i}]"
        key, kind = take(row, "id", int, where), take(row, "type", str, where)
        if kind == "generative":
            words = (texts(take(row, k, list, where), f"{where}: {k}") for k in ("truth", "hallu"))
            rows.append(Annotation(key, kind, False, *map(tuple, words)))
            continue
        truth = take(row, "truth", str, where)
        if truth not in ("yes", "no"):
            raise InputError(f"{where}: truth must be yes or no, not {shown(truth)}")
        rows.append(Annotation(key, kind, truth == "yes"))
    return rows


def amber_association(text: str, name: str) -> dict[str, list[str]]:
    """relation.json: word -> associated words."""
    value = parse(text, name)
    if not isinstance(value, dict):
        raise InputError(f"{name}: must be an object {{word: words}}, not {shown(value)}")
    return {word: texts(words, f"{name}[{word!a}]") for word, words in value.items()}


def mmhal_template(text: str, name: str) -> list[str]:
    """The question of each row."""
    rows = _list(parse(text, name), name)
    return [take(row, "question", str, f"{name}[{i}]") for i, row in enumerate(rows)]


def coco_files() -> list[str]:
    return [f"{kind}_{split}2014.json" for kind in ("instances", "captions") for split in SPLITS]


def coco_images(read: Callable[[str], str], wanted: Collection[int], vocabulary: Vocabulary) -> Images:
    """Annotations of the wanted images.

    Args:
        read: text of a file of `coco_files`; one is held at a time.

    Raises:
        InputError: an annotation without its fields, or a category that is no object.
    """
    known: set[int] = set()
    instances: dict[int, set[str]] = defaultdict(set)
    captions: dict[int, list[str]] = defaultdict(list)
    categories: dict[int, str] = {}  # of train, as in the script
    for name in coco_files():
        value = parse(read(name), name)
        if name.startswith("instances_train"):
            categories = _categories(value, name)
        for i, row in enumerate(_rows(value, "images", name)):
            known.add(_int(row, "id", name, "images", i))
        for i, row in enumerate(_rows(value, "annotations", name)):
            image = _int(row, "image_id", name, "annotations", i)
            known.add(image)
            if image not in wanted:
                continue
            where = f"{name}: annotations[{i}]"
            if name.startswith("captions"):
                captions[image].append(take(row, "caption", str, where))
                continue
            category = categories.get(take(row, "category_id", int, where), "")
            if category not in vocabulary.nodes:
                raise InputError(f"{where}: category_id {row['category_id']} is no object of the synonyms")
            instances[image].add(category)
    return Images(frozenset(known), instances, captions)


def _categories(value: Any, name: str) -> dict[int, str]:
    rows = enumerate(take(value, "categories", list, name))
    named = ((row, f"{name}: categories[{i}]") for i, row in rows)
    return {take(row, "id", int, where): take(row, "name", str, where) for row, where in named}


def _rows(value: Any, key: str, name: str) -> list[Any]:
    if key == "images" and isinstance(value, dict) and key not in value:
        return []  # the scripts read annotations only
    rows: list[Any] = take(value, key, list, name)
    return rows


def _int(row: Any, key: str, name: str, group: str, i: int) -> int:
    # real files have a million rows: the message is made only for a bad one
    if type(row) is dict and type(row.get(key)) is int:
        return int(row[key])
    return int(take(row, key, int, f"{name}: {group}[{i}]"))


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{name}: must be a JSON list of objects, not {shown(value)}")
    return value
