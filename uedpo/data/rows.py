"""One validator of preference rows, whatever they are read from and whoever asks.

`parse_line` and `check_row` look at one row; `CheckedPairs` holds what is usable of a file, looks at
what needs the model's tokenizer, and decodes an image when its row is asked for.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from uedpo.data.fingerprint import digest
from uedpo.data.images import check_image, load_image
from uedpo.data.rejects import Ledger, RowProblem
from uedpo.types import InputError, PreferencePair

TEXTS = ("prompt", "chosen", "rejected")
COLUMNS = ("image", *TEXTS, "id", "negatives", "similarity")
MAX_LINE = 2**20
# the image goes in its own column; a processor would take these for one
_PLACEHOLDER = re.compile(r"<(?:image|video|audio)>", re.IGNORECASE)
_JSON_TYPES = {
    dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number",
    float: "a number", type(None): "null",
}  # fmt: skip


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes | RowProblem]]:
    """(line number from 1, its bytes without a byte-order mark) of every line that is not blank.

    Lines end at \\n only: a JSON string may hold U+2028 and the like.

    Raises:
        InputError: not a regular file.
    """
    with _open_regular(path) as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if len(line) > MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE)
                yield number, RowProblem("row", "LINE_TOO_LONG", f"is longer than {MAX_LINE} bytes; split it")
            elif line.strip():
                yield number, line


def _open_regular(path: Path) -> BinaryIO:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{str(path)!r}: no such file ({reason}); set the path of a JSONL file with preference pairs"
        ) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path}: is no regular file; set the path of a JSONL file with preference pairs")
    return os.fdopen(handle, "rb")


def parse_line(line: bytes) -> dict[str, Any]:
    """The JSON object of one line.

    Raises:
        RowProblem: BAD_UTF8, BAD_JSON, or BAD_TYPE where it is another kind of value.
    """
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise RowProblem(
            "row", "BAD_UTF8", f"is not UTF-8 at byte {error.start}; save the file as UTF-8"
        ) from None
    except RecursionError:
        raise RowProblem("row", "BAD_JSON", "is nested too deep; one flat object a line") from None
    except ValueError as error:  # JSONDecodeError, or a number of too many digits
        reason = str(error).splitlines()[0]
        raise RowProblem("row", "BAD_JSON", f"is not JSON ({reason}); one object a line") from None
    if not isinstance(row, dict):
        raise RowProblem("row", "BAD_TYPE", f"is {_kind(row)}; one object a line")
    return row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RowProblem(str(twice)[:80], "BAD_JSON", "is there twice; keep one")
    return row


class Fields(NamedTuple):
    """A row that is usable as far as its own text tells; `image` is as written."""

    id: str | None
    image: object
    prompt: str
    chosen: str
    rejected: str
    negatives: tuple[str, ...]
    similarity: tuple[float, float] | None


def check_row(row: Mapping[str, Any]) -> Fields:
    """The fields of a row, of the right types and worth training on.

    Raises:
        RowProblem: the first thing that is wrong with it.
    """
    for key in ("image", *TEXTS):
        if key not in row:
            raise RowProblem(key, "MISSING_COLUMN", _missing(key, row))
    prompt, chosen, rejected = (_text(key, row[key]) for key in TEXTS)
    if _normal(chosen) == _normal(rejected):
        raise RowProblem("rejected", "IDENTICAL_PAIR", "and chosen are the same; drop the row")
    negatives = row.get("negatives", [])
    if not isinstance(negatives, list):
        raise RowProblem("negatives", "BAD_TYPE", "must be a list of texts that are not empty")
    return Fields(
        _identity(row.get("id")),
        row["image"],
        prompt,
        chosen,
        rejected,
        tuple(_text("negatives", text) for text in negatives),
        _similarity(row.get("similarity")),
    )


def _missing(key: str, row: Mapping[str, Any]) -> str:
    others = [str(k) for k in row if k not in COLUMNS]
    near = difflib.get_close_matches(key, others, 1, cutoff=0.6)
    found = ", ".join(repr(str(k)[:40]) for k in list(row)[:10]) or "none"
    hint = f"; did you mean {near[0][:40]!r}? rename it" if near else "; rename or add it"
    return f"is missing; columns found: {found}{hint}"


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        wanted = "a list of texts that are" if key == "negatives" else "a text that is"
        raise RowProblem(key, "BAD_TYPE", f"must be {wanted} not empty; this is {_kind(value)}")
    # zero-width characters are no text either
    if not any(c.isprintable() and not c.isspace() for c in value):
        wanted = "a list of texts that are" if key == "negatives" else "a text that is"
        raise RowProblem(key, "EMPTY_TEXT", f"must be {wanted} not empty; drop the row")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RowProblem(key, "BAD_UTF8", "holds half of a surrogate pair; repair the text") from None
    found = _PLACEHOLDER.search(value)
    if found:
        raise RowProblem(
            key, "PLACEHOLDER", f"holds {found[0]!r}; the image has its own column, remove it from the text"
        )
    return value


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _identity(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise RowProblem("id", "BAD_TYPE", f"must be a text or a whole number; this is {_kind(value)}")
    return _text("id", str(value))


def _similarity(value: object) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(n) in (int, float) for n in value):
        raise RowProblem("similarity", "BAD_TYPE", "must be two numbers, of chosen and rejected")
    try:
        first, second = float(value[0]), float(value[1])
    except OverflowError:
        first = second = math.inf
    if not (math.isfinite(first) and math.isfinite(second)):
        raise RowProblem("similarity", "NOT_FINITE", "must be two finite numbers; recompute them")
    return first, second


def _kind(value: object) -> str:
    return _JSON_TYPES.get(type(value), type(value).__name__)


class CheckedPairs(Sequence[PreferencePair]):
    """The usable rows of a file, and the account of those that are not.

    Subclasses call `add` for each row read, then `ledger.settle`. `rows` and `lines` hold the
    usable pairs, images undecoded, and where each stands in the file.
    """

    def __init__(self, file: str, max_bad_fraction: float) -> None:
        self.ledger = Ledger(file)
        self.max_bad_fraction = max_bad_fraction
        self.rows: list[PreferencePair] = []  # image: a path, or a function that gives the bytes
        self.lines: list[int] = []
        self._seen: dict[str, int] = {}
        self._images: dict[Path, str | RowProblem | None] = {}

    def add(self, line: int, row: Mapping[str, Any] | RowProblem, image: Callable[[Any], Any]) -> None:
        """Count a row, and keep it if it is usable.

        Args:
            image: value of the column -> path of the picture, or a function that gives its bytes; not
                asked where the value is null.
        """
        self.ledger.read += 1
        name = f"{Path(self.ledger.file).name}:{line}"
        try:
            if isinstance(row, RowProblem):
                raise row
            if isinstance(row.get("id"), (str, int)):
                name = str(row["id"])[:200]
            fields = check_row(row)
            # noise is a function of the id, so the default one must not depend on how the path was typed
            identity = name if fields.id is None else fields.id
            self._check_identity(fields, identity)
            source = None if fields.image is None else image(fields.image)
            what = None if source is None else self._check_image(source)
        except RowProblem as problem:
            self.ledger.reject(name, line, problem)
            return
        if fields.id is not None:
            self._seen[identity] = hash(fields[1:])
        if what:
            self.ledger.converted[what] += 1
        self.rows.append(PreferencePair(identity, source, *fields[2:]))
        self.lines.append(line)

    def _check_identity(self, fields: Fields, identity: str) -> None:
        if fields.id is None or identity not in self._seen:
            return
        if self._seen[identity] == hash(fields[1:]):
            raise RowProblem("id", "DUPLICATE", f"{identity[:80]!r} was read before, with the same content")
        raise RowProblem(
            "id", "DUPLICATE_ID", f"{identity[:80]!r} was read before, with other content; make ids unique"
        )

    def _check_image(self, source: Path | Callable[[], bytes]) -> str | None:
        if not isinstance(source, Path):
            return check_image(source())
        if source not in self._images:  # many rows ask about one picture
            try:
                self._images[source] = check_image(source)
            except RowProblem as problem:
                self._images[source] = problem
        found = self._images[source]
        if isinstance(found, RowProblem):
            raise found
        return found

    def fingerprint(self) -> str:
        """Hash of all texts, and of name and size of each image file; stored pictures are not read."""
        return digest(
            [
                [p.id, p.prompt, p.chosen, p.rejected, p.negatives, p.similarity],
                [p.image.name, p.image.stat().st_size] if isinstance(p.image, Path) else None,
            ]
            for p in self.rows
        )

    def keep(self, check: Callable[[PreferencePair], None]) -> None:
        """Reject the rows for which `check` raises a RowProblem, then settle the account.

        `check` gets each pair with its image undecoded.
        """
        kept = []
        for i, (pair, line) in enumerate(zip(self.rows, self.lines, strict=True)):
            try:
                check(pair)
                kept.append(i)
            except RowProblem as problem:
                self.ledger.reject(pair.id, line, problem)
        self.rows = [self.rows[i] for i in kept]
        self.lines = [self.lines[i] for i in kept]
        self.ledger.settle(self.max_bad_fraction)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> PreferencePair:  # type: ignore[override]
        pair = self.rows[i]
        if pair.image is None:
            return pair
        try:
            return dataclasses.replace(pair, image=load_image(contents(pair)))
        except RowProblem as problem:
            where = f"{self.ledger.file}:{self.lines[i]} (id {pair.id[:80]})"
            raise InputError(f"{where}: {problem}; data.decode_check=true finds such rows first") from None


def contents(pair: PreferencePair) -> Path | bytes:
    """What `load_image` takes, of a pair of `CheckedPairs.rows`."""
    return pair.image if isinstance(pair.image, Path) else pair.image()
