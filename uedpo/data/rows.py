"""One validator of preference rows, whatever they are read from and whoever asks.

`parse_line` and `uedpo.data.fields` look at one row; `CheckedPairs` holds what is usable of a file, and
decodes an image when its row is asked for.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from uedpo.data.fields import Fields, check_row, kind
from uedpo.data.fingerprint import digest
from uedpo.data.images import check_image, load_image
from uedpo.data.rejects import Ledger, RowProblem
from uedpo.errors import InputError
from uedpo.types import PreferencePair

MAX_LINE = 2**20


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes | RowProblem]]:
    """(line number from 1, its bytes without a byte-order mark) of every line that is not blank.

    Lines end at \\n only: a JSON string may hold U+2028 and the like.

    Raises:
        InputError: not a regular file.
    """
    with open_regular(path) as file:
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


def open_regular(path: Path) -> BinaryIO:
    """A file to read, never a pipe or a device.

    Raises:
        InputError: it is none.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{str(path)!r}: no such file ({reason}); set the path of a file with preference pairs"
        ) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path}: is no regular file; set the path of a file with preference pairs")
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
        raise RowProblem("row", "BAD_TYPE", f"is {kind(row)}; one object a line")
    return row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = first_twice(pairs)
    if twice is not None:
        raise twice
    return dict(pairs)


def first_twice(pairs: list[tuple[str, Any]]) -> RowProblem | None:
    """The problem of an object that has a key twice; None of others."""
    seen: set[str] = set()
    for key, _ in pairs if len(dict(pairs)) < len(pairs) else []:
        if key in seen:
            return RowProblem(key[:80], "BAD_JSON", "is there twice; keep one")
        seen.add(key)
    return None


# an image that is not decoded yet: a file, or a function that gives its bytes
Source = Path | Callable[[], bytes]


class CheckedPairs(Sequence[PreferencePair]):
    """The usable rows of a file, and the account of those that are not.

    Subclasses call `add` for each row read, then `ledger.settle`. `rows` and `lines` hold the
    usable pairs, images undecoded, and where each stands in the file.
    """

    def __init__(self, file: str, max_bad_fraction: float) -> None:
        self.ledger = Ledger(file)
        self.max_bad_fraction = max_bad_fraction
        self.rows: list[PreferencePair] = []  # its images are `Source`s
        self.lines: list[int] = []
        self._seen: dict[str, int] = {}
        self._images: dict[Path, str | RowProblem | None] = {}

    def add(self, line: int, row: Mapping[str, Any] | RowProblem, image: Callable[[Any], Source]) -> None:
        """Count a row, and keep it if it is usable.

        Args:
            image: what a row has for an image -> where it is; not asked where a row has none.
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
            images, what = self._found("image", fields.images, image)
            others, more = self._found("rejected_image", fields.rejected_images or (), image)
        except RowProblem as problem:
            self.ledger.reject(name, line, problem)
            return
        if fields.id is not None:
            self._seen[identity] = _content(fields)
        self.ledger.converted.update(what + more)
        pair = PreferencePair(
            identity, _one_or_all(images), fields.prompt, fields.chosen, fields.rejected, fields.negatives,
            fields.similarity, _one_or_all(others), *fields[8:],
        )  # fmt: skip
        self.rows.append(pair)
        self.lines.append(line)

    def _check_identity(self, fields: Fields, identity: str) -> None:
        if fields.id is None or identity not in self._seen:
            return
        if self._seen[identity] == _content(fields):
            raise RowProblem("id", "DUPLICATE", f"{identity[:80]!r} was read before, with the same content")
        raise RowProblem(
            "id", "DUPLICATE_ID", f"{identity[:80]!r} was read before, with other content; make ids unique"
        )

    def _found(
        self, field: str, values: Sequence[Any], image: Callable[[Any], Source]
    ) -> tuple[list[Source], list[str]]:
        """(sources of the images, what those are that are not plain RGB)."""
        sources, kinds = [], []
        for number, value in enumerate(values):
            try:
                sources.append(image(value))
                kinds.append(self._check_image(sources[-1]))
            except RowProblem as problem:
                place = f"{field}[{number}]" if len(values) > 1 else field
                raise RowProblem(place, problem.code, problem.detail) from None
        return sources, [what for what in kinds if what]

    def _check_image(self, source: Source) -> str | None:
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
        return digest(_described(pair) for pair in self.rows)

    def keep(self, check: Callable[[PreferencePair], None]) -> None:
        """Reject the rows for which `check` raises a RowProblem, then settle the account.

        `check` gets each pair with its images undecoded.
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

    def undecoded(self, i: int) -> PreferencePair:
        """Row `i` with the `Source`s of its images."""
        return self.rows[i]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> PreferencePair:  # type: ignore[override]
        pair = self.rows[i]
        if pair.image is None:
            return pair
        try:
            images = [load_image(contents(source)) for source in pair.images]
            others = [
                load_image(contents(s)) for s in pair.rejected_images if pair.rejected_image is not None
            ]
        except RowProblem as problem:
            where = f"{self.ledger.file}:{self.lines[i]} (id {pair.id[:80]})"
            raise InputError(f"{where}: {problem}; data.decode_check=true finds such rows first") from None
        return dataclasses.replace(pair, image=_one_or_all(images), rejected_image=_one_or_all(others))


def contents(source: Source) -> Path | bytes:
    """What `load_image` takes."""
    return source if isinstance(source, Path) else source()


def _one_or_all(images: Sequence[Any]) -> Any:
    return list(images) if len(images) > 1 else images[0] if images else None


def _content(fields: Fields) -> int:
    """A hash of what a row says; of stored images, only that they are there."""
    images = [
        tuple(str(v) if isinstance(v, str) else None for v in side or ()) for side in (fields[1], fields[7])
    ]
    return hash((*images, *fields[2:7], *fields[8:]))


def _described(pair: PreferencePair) -> list[Any]:
    texts = [pair.id, pair.prompt, pair.chosen, pair.rejected, pair.negatives, pair.similarity]
    images, others = (
        [[i.name, i.stat().st_size] if isinstance(i, Path) else None for i in side]
        for side in (pair.images, pair.rejected_images)
    )
    said: list[Any] = [texts, _one_or_all(images)]
    # what rows had before they could have more stays as it was, or old checkpoints would not know their data
    more = [pair.history, pair.image_at, pair.weight, pair.chosen_weights, pair.rejected_weights]
    different = pair.rejected_image is not None
    return [*said, *more, others] if different or more != [(), (), 1.0, (), ()] else said
