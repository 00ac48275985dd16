"""What each benchmark asks: rows of (id, image, prompt), read from its own files in the user's folder.

Ids are those of the official files: POPE's question_id, AMBER's id, COCO's image id for CHAIR, and the
row's index from 0 for MMHal-Bench and Object HalBench. Images are files inside the folder given, or
bytes inside the benchmark's file; nothing is ever fetched.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from uedpo.errors import InputError
from uedpo.runtime.small_json import loads

DESCRIBE = "Describe this image."
LAST_GENERATIVE = 1004  # AMBER: ids up to this one are generative


@dataclass(frozen=True)
class Question:
    """One prompt about one image; `image` is its path, or the encoded picture itself."""

    id: int
    image: Path | bytes
    prompt: str
    image_id: int | None = None

    def picture(self) -> Image.Image:
        """The image as RGB.

        Raises:
            InputError: it cannot be decoded.
        """
        source = io.BytesIO(self.image) if isinstance(self.image, bytes) else self.image
        try:
            with Image.open(source) as picture:
                return picture.convert("RGB")
        except OSError as error:
            name = self.image if isinstance(self.image, Path) else f"image of row {self.id}"
            raise InputError(f"{name}: no picture that can be read ({error})") from None


def load(
    benchmark: str, assets: Path, images: Path | None, prompt: str = DESCRIBE, limit: int | None = None
) -> list[Question]:
    """The first `limit` questions of a benchmark, ids and images checked.

    Args:
        assets: its folder; POPE's label file for `pope`.
        images: folder that all image paths must stay inside; Object HalBench needs none.
        prompt: what `chair` asks; the others bring their own.

    Raises:
        InputError: naming file, row and field of what cannot be used.
    """
    if images is None and benchmark != "object_halbench":
        raise InputError(f"images: missing; set the folder with the images of {benchmark}")
    root = _Images(images or assets)
    questions = []
    seen: dict[int, str] = {}
    for where, question in READERS[benchmark](assets, root, prompt):
        if question.id in seen:
            raise InputError(f"{where}: id {question.id} is that of {seen[question.id]} too")
        seen[question.id] = where
        questions.append(question)
        if len(questions) == limit:
            break
    if not questions:
        raise InputError(f"{assets}: no question of {benchmark}")
    return questions


def images_digest(questions: Iterable[Question]) -> str:
    """sha256 over the bytes of all images in order, each file read once.

    Raises:
        InputError: a picture that cannot be read.
    """
    total = hashlib.sha256()
    known: dict[Path, bytes] = {}
    for question in questions:
        image = question.image
        if isinstance(image, bytes) or image not in known:
            data = image if isinstance(image, bytes) else image.read_bytes()
            try:
                Image.open(io.BytesIO(data)).close()  # reads the header only
            except OSError:
                name = f"image of row {question.id}" if isinstance(image, bytes) else str(image)
                raise InputError(f"{name}: no picture that can be read") from None
            part = hashlib.sha256(data).digest()
            if isinstance(image, Path):
                known[image] = part
        else:
            part = known[image]
        total.update(part)
    return total.hexdigest()


class _Images:
    """A folder that no path of a file may leave; each name is looked up once."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        if not self.root.is_dir():
            raise InputError(f"images={root}: no such folder")
        self.known: dict[str, Path] = {}

    def file(self, where: str, name: str) -> Path:
        if name in self.known:
            return self.known[name]
        try:
            path = (self.root / name).resolve()
            inside = path.is_relative_to(self.root) and path.is_file()
        except (OSError, ValueError):
            inside = False
        if not inside:
            raise InputError(f"{where}: image {name!r} is not a file inside {self.root}; set images")
        self.known[name] = path
        return path


Located = Iterator[tuple[str, Question]]


def _pope(assets: Path, root: _Images, prompt: str) -> Located:
    for where, row in json_lines(assets):
        image = root.file(where, field(where, row, "image", str))
        yield where, Question(field(where, row, "question_id", int), image, field(where, row, "text", str))


def _chair(assets: Path, root: _Images, prompt: str) -> Located:
    """chair_images.json: a list of COCO image ids, or of {"image_id", "image": file name}."""
    path = find(assets, "chair_images.json")
    for where, row in json_rows(path):
        if type(row) is int:
            name, number = f"COCO_val2014_{row:012d}.jpg", row
        else:
            name, number = field(where, row, "image", str), field(where, row, "image_id", int)
        yield where, Question(number, root.file(where, name), prompt)


def _amber(assets: Path, root: _Images, generative: bool) -> Located:
    own = f"query_{'generative' if generative else 'discriminative'}.json"
    for where, row in json_rows(find(assets, own, f"query/{own}", "query_all.json", "query/query_all.json")):
        number = field(where, row, "id", int)
        if (number <= LAST_GENERATIVE) == generative:
            image = root.file(where, field(where, row, "image", str))
            yield where, Question(number, image, field(where, row, "query", str))


def _mmhal(assets: Path, root: _Images, prompt: str) -> Located:
    for index, (where, row) in enumerate(mmhal_rows(assets)):
        # the address only names the file
        name = PurePosixPath(urlsplit(field(where, row, "image_src", str)).path).name
        yield where, Question(index, root.file(where, name), field(where, row, "question", str))


def mmhal_rows(assets: Path) -> Iterator[tuple[str, Any]]:
    """(place, row) of MMHal-Bench's template."""
    return json_rows(find(assets, "mmhal-bench_answer_template.json", "response_template.json"))


def _object_halbench(assets: Path, root: _Images, prompt: str) -> Located:
    path = find(assets, "obj_halbench_300_with_image.jsonl")
    for index, (where, row) in enumerate(json_lines(path)):
        text = field(where, row, "image", str)
        try:
            image = base64.b64decode(text, validate=True)
        except ValueError:
            raise InputError(f"{where}: image is not base64") from None
        yield (
            where,
            Question(index, image, field(where, row, "question", str), _number(where, row, "image_id")),
        )


READERS: dict[str, Callable[[Path, _Images, str], Located]] = {
    "pope": _pope,
    "chair": _chair,
    "amber_generative": lambda assets, root, _: _amber(assets, root, generative=True),
    "amber_discriminative": lambda assets, root, _: _amber(assets, root, generative=False),
    "mmhal": _mmhal,
    "object_halbench": _object_halbench,
}


def with_suffix(questions: Iterable[Question], suffix: str) -> list[Question]:
    """The same questions, each prompt followed by `suffix`."""
    return [replace(q, prompt=q.prompt + suffix) for q in questions]


def field(where: str, row: Any, name: str, kind: type) -> Any:
    """`row[name]`, of type `kind` and not an empty text.

    Raises:
        InputError: naming place and field.
    """
    if not isinstance(row, dict):
        raise InputError(f"{where}: must be an object")
    value = row.get(name)
    if type(value) is not kind or value == "":
        wanted = {str: "a text that is not empty", int: "a whole number", list: "a list"}[kind]
        raise InputError(f"{where}: {name} must be {wanted}" + ("" if name in row else ", and is missing"))
    return value


def _number(where: str, row: Any, name: str) -> int:
    """A whole number, or the text of one."""
    if isinstance(row, dict) and isinstance(row.get(name), str) and row[name].isdecimal():
        return int(row[name])
    return int(field(where, row, name, int))


def find(folder: Path, *names: str) -> Path:
    """The first of `names` that is a file of `folder`.

    Raises:
        InputError: none is.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"assets={folder}: has no {' nor '.join(names)}; put the benchmark's file there")


def json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, row) of a JSON array; places count rows from 0.

    Raises:
        InputError: not UTF-8, not JSON (with its line), or no array.
    """
    try:
        rows = loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise InputError(f"{path}: not JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(rows, list):
        raise InputError(f"{path}:1: must be a JSON array of rows")
    return ((f"{path}: row {i}", row) for i, row in enumerate(rows))


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """(file:line, value) of each line of a JSON Lines file that is not empty.

    Raises:
        InputError: not UTF-8, or naming the line that is not JSON.
    """
    # not splitlines: a JSON string may hold U+2028 and the like
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                yield f"{path}:{number}", loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}:{number}: not JSON ({str(error).splitlines()[0]})") from None


def read_text(path: Path) -> str:
    """Text of a UTF-8 file, with or without a byte order mark.

    Raises:
        InputError: no such file, or another encoding.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: not UTF-8") from None
