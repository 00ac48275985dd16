"""What a judge is asked of each answer, and which replies its benchmark's own script can read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import Any, Literal, NamedTuple

from uedpo.errors import InputError
from uedpo.evaluation.append_file import ANSWERS, read
from uedpo.evaluation.official import object_halbench
from uedpo.evaluation.questions import field, mmhal_rows, read_text

Judged = Literal["mmhal", "object_halbench"]
# what the official scripts send beside the prompt, and the role they send it in
SETTINGS: dict[str, dict[str, Any]] = {
    "mmhal": {"temperature": 0.0, "max_tokens": 512},
    "object_halbench": {"temperature": 0.2, "top_p": 1, "max_tokens": 512},
}
_ROLES = {"mmhal": "user", "object_halbench": "system"}
_BLANKS = {"mmhal": 4, "object_halbench": 1}


class Task(NamedTuple):
    """A prompt about the answer of a row, counted from 0."""

    row: int
    prompt: str


def tasks(
    benchmark: Judged, answers: Path, assets: Path | None, template: Path | None
) -> tuple[list[Task], str | None]:
    """(what to ask, in the order of the rows, sha256 of the template); no template, no words around it.

    Raises:
        InputError: answers that are incomplete or of another benchmark, a template with the wrong blanks.
    """
    texts = read_answers(benchmark, answers)
    sha256, pieces = None, [""] * (_BLANKS[benchmark] + 1)
    if template is not None:
        text = read_text(template)
        sha256, pieces = (
            hashlib.sha256(template.read_bytes()).hexdigest(),
            _pieces(template, text, len(pieces) - 1),
        )
    if benchmark == "object_halbench":
        asked = [i for i, text in enumerate(texts) if object_halbench.needs_judge(text)]
        return [Task(i, _filled(pieces, object_halbench.clean(texts[i]))) for i in asked], sha256
    if assets is None:
        raise InputError("assets: missing; set the folder with MMHal-Bench's template of questions")
    rows = list(mmhal_rows(assets))
    if len(rows) < len(texts):
        raise InputError(f"{answers}: {len(texts)} answers to {len(rows)} questions of {assets}")
    found = []
    for index, (where, row) in enumerate(rows[: len(texts)]):
        content = field(where, row, "image_content", list)
        if not all(isinstance(name, str) for name in content):
            raise InputError(f"{where}: image_content must be a list of texts")
        question, truth = field(where, row, "question", str), field(where, row, "gt_answer", str)
        found.append(Task(index, _filled(pieces, ", ".join(content), question, truth, texts[index])))
    return found, sha256


def read_answers(benchmark: str, path: Path) -> list[str]:
    """Answers of a finished file of `generate`, by row.

    Raises:
        InputError: naming file, line and field; a shard, or a row without an answer.
    """
    header, rows = read(path, ANSWERS)
    for name, wanted in (("benchmark", benchmark), ("shard", "0/1")):
        if header.get(name) != wanted:
            raise InputError(f"{path}:1: {name} is {header.get(name)!r}, must be {wanted!r}")
    num = field(f"{path}:1", header, "num", int)
    found: dict[int, str] = {}
    for number, row in rows:
        index, answer = field(f"{path}:{number}", row, "id", int), row.get("answer")
        if not isinstance(answer, str):
            raise InputError(f"{path}:{number}: answer must be a text")
        if index in found or not 0 <= index < num:
            raise InputError(f"{path}:{number}: id={index} is there twice, or no row of {num}")
        found[index] = answer
    if len(found) < num:
        first = next(i for i in range(num) if i not in found)
        raise InputError(
            f"{path}: {len(found)} of {num} answers (first missing: {first}); run generate again"
        )
    return [found[i] for i in range(num)]


def request(benchmark: Judged, task: Task) -> dict[str, Any]:
    """The body of a request, without the model."""
    return {"messages": [{"role": _ROLES[benchmark], "content": task.prompt}], **SETTINGS[benchmark]}


def is_readable(benchmark: Judged, reply: str) -> bool:
    """Whether the official script would go on with `reply` instead of asking again, or failing.

    MMHal-Bench's takes any (without exactly one rating the score is 0; an empty one is refused here:
    nothing was judged). Object HalBench's reads JSON, or
    JSON on the last line where `["` occurs; it then fails on numbers, null and lists of other than text.
    """
    if benchmark == "mmhal":
        return bool(reply.strip())
    try:
        value = object_halbench.parse(reply)
    except (ValueError, RecursionError):
        return False
    if isinstance(value, list):
        return all(isinstance(phrase, str) for phrase in value)
    return isinstance(value, str | dict)


def _pieces(path: Path, text: str, blanks: int) -> list[str]:
    """The text around each `{}` of a template, read as str.format reads it."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise InputError(f"{path}: {error}; write {{{{ and }}}} for braces that are no blank") from None
    names = [(name, spec, conversion) for _, name, spec, conversion in parts if name is not None]
    if names != [("", "", None)] * blanks:
        raise InputError(
            f"{path}: must hold {blanks} blanks {{}}, and has {len(names)} (named ones are none)"
        )
    pieces = [""]
    for literal, name, _, _ in parts:
        pieces[-1] += literal
        if name is not None:
            pieces.append("")
    return pieces


def _filled(pieces: Sequence[str], *values: str) -> str:
    return pieces[0] + "".join(value + piece for value, piece in zip(values, pieces[1:], strict=True))
