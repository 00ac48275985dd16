"""Answers in each benchmark's official format, and in ours.

Ours is JSONL: a header `{"uedpo_answers": 1, "benchmark": NAME, ...}`, then `{"id", "answer"}` a line,
each id once: pope question_id, amber id, chair image_id, mmhal and object_halbench the row's index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from uedpo.errors import InputError
from uedpo.evaluation.official.reading import parse, parse_lines, shown, take

HEADER = "uedpo_answers"


class Answer(NamedTuple):
    """`where` is file:line or file[index]; `id` as in the module's docstring, for pope the position."""

    id: int
    text: str
    where: str
    image_id: int | None = None
    question: str | None = None


@dataclass
class Answers:
    """`header` is None for an official format; `sha256` is of the file of ours, unpacked."""

    rows: list[Answer]
    header: Mapping[str, Any] | None = None
    sha256: str | None = None

    @property
    def official(self) -> bool:
        return self.header is None


def read_answers(text: str, name: str, benchmark: str) -> Answers:
    """Parse the text of an answer file.

    Raises:
        InputError: what is not in either format, with file, line or index, and field.
    """
    if not text.strip():
        raise InputError(f"{name}: empty; {FORMATS[benchmark]}")
    # our header is one short line, so a large official file is not parsed twice
    first = text.partition("\n")[0]
    if f'"{HEADER}"' in first:
        return _ours(text, name, benchmark)
    return Answers(_OFFICIAL[benchmark](text, name))


def _ours(text: str, name: str, benchmark: str) -> Answers:
    lines = parse_lines(text, name)
    where, header = next(lines)
    if take(header, HEADER, int, where) != 1:
        raise InputError(f"{where}: {HEADER} must be 1, not {shown(header[HEADER])}")
    if take(header, "benchmark", str, where) != benchmark:
        raise InputError(f"{where}: benchmark is {shown(header['benchmark'])}, asked for {benchmark}")
    rows: dict[int, Answer] = {}
    for where, row in lines:
        key, answer = take(row, "id", int, where), take(row, "answer", str, where)
        if key in rows:
            raise InputError(f"{where}: id {key} again; first at {rows[key].where}")
        image = take(row, "image_id", int, where) if benchmark == "object_halbench" else None
        rows[key] = Answer(key, answer, where, image)
    return Answers(list(rows.values()), header, hashlib.sha256(text.encode()).hexdigest())


def _pope(text: str, name: str) -> list[Answer]:
    rows = []
    for i, (where, row) in enumerate(parse_lines(text, name)):
        answer = take(row, "answer", str, where)
        question = take(row, "question", str, where) if "question" in row else None
        rows.append(Answer(i, answer, where, question=question))
    return rows


def _amber(text: str, name: str) -> list[Answer]:
    return [
        Answer(take(row, "id", int, where), take(row, "response", str, where), where)
        for where, row in _array(parse(text, name), name)
    ]


def _mmhal(text: str, name: str) -> list[Answer]:
    return [
        Answer(i, take(row, "model_answer", str, where), where, question=row.get("question"))
        for i, (where, row) in enumerate(_array(parse(text, name), name))
    ]


def _object_halbench(text: str, name: str) -> list[Answer]:
    rows = []
    for i, (where, row) in enumerate(parse_lines(text, name)):
        key = "answer" if isinstance(row, dict) and "text" not in row and "answer" in row else "text"
        rows.append(Answer(i, take(row, key, str, where), where, _image_id(row, where)))
    return rows


def _image_id(row: Mapping[str, Any], where: str) -> int:
    # the script calls int(), so that "12" is 12
    value = row.get("image_id")
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return int(take(row, "image_id", int, where))


def _chair(text: str, name: str) -> list[Answer]:
    """coco-caption's output, or a JSON list or JSONL of {image_id, caption}."""
    if text.lstrip().startswith("["):
        rows = _array(parse(text, name), name)
    elif "\n" in text.strip() and '"imgToEval"' not in text:
        rows = list(parse_lines(text, name))
    else:
        value = parse(text, name)
        if isinstance(value, dict) and "imgToEval" not in value and "caption" in value:
            rows = [(f"{name}:1", value)]
        else:
            images = take(value, "imgToEval", dict, name)
            rows = [(f"{name}[{key!a}]", row) for key, row in images.items()]
    return [
        Answer(image := take(row, "image_id", int, where), take(row, "caption", str, where), where, image)
        for where, row in rows
    ]


def _array(value: object, name: str) -> list[tuple[str, Any]]:
    if not isinstance(value, list):
        raise InputError(f"{name}: must be a JSON list of objects, not {shown(value)}")
    return [(f"{name}[{i}]", row) for i, row in enumerate(value)]


_OFFICIAL = {
    "pope": _pope,
    "chair": _chair,
    "object_halbench": _object_halbench,
    "mmhal": _mmhal,
    "amber_discriminative": _amber,
    "amber_generative": _amber,
}
FORMATS = {
    "pope": 'one {"question", "answer"} a line, in the order of the label file',
    "chair": '{"imgToEval": {...}}, or a list of {"image_id", "caption"}',
    "object_halbench": 'one {"question_id", "image_id", "prompt", "text", "model_id"} a line',
    "mmhal": "the template with model_answer filled in",
    "amber_discriminative": 'one JSON list of {"id", "response"}',
    "amber_generative": 'one JSON list of {"id", "response"}',
}
