"""Reading JSON, JSONL and text, gzip or not, with errors that name file, line and field."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from uedpo.errors import InputError
from uedpo.runtime.small_json import loads

_GZIP = b"\x1f\x8b"
_KINDS = {str: "a text", int: "a whole number", list: "a list", dict: "an object"}


class Sources:
    """Files read for one report: name -> sha256 of the file as it lies there."""

    def __init__(self) -> None:
        self.sha256: dict[str, str] = {}
        self.paths: set[Path] = set()

    def read(self, path: Path) -> str:
        """The text of a file, UTF-8 with or without a byte order mark, unpacked if it is gzip.

        Raises:
            InputError: not readable, not gzip all through, or not UTF-8.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        self.paths.add(path.resolve())
        digest = hashlib.sha256(data).hexdigest()
        if self.sha256.setdefault(path.name, digest) != digest:
            self.sha256[str(path)] = digest  # another file of the same name
        if data.startswith(_GZIP):
            try:
                data = gzip.decompress(data)
            except (OSError, EOFError, zlib.error) as error:
                raise InputError(f"{path}: broken gzip ({error}); get the file again") from None
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise InputError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None


def parse(text: str, where: str) -> Any:
    """JSON of a text.

    Args:
        where: names it in errors.
    """
    try:
        return loads(text)
    except json.JSONDecodeError as error:
        problem = f"not JSON ({error.msg}, column {error.colno})"
        raise InputError(f"{where}:{error.lineno}: {problem}; cut off?") from None
    except (ValueError, RecursionError):
        raise InputError(
            f"{where}: not JSON (nested too deeply, or a number of thousands of digits)"
        ) from None


def parse_lines(text: str, name: str) -> Iterator[tuple[str, Any]]:
    """(file:line, value) of each line of JSONL; only the last line may be empty."""
    # not splitlines: a JSON string may hold U+2028 and the like
    lines = text.removesuffix("\n").split("\n") if text else []
    for number, line in enumerate(lines, start=1):
        where = f"{name}:{number}"
        if not line.strip():
            raise InputError(f"{where}: empty line; one JSON object a line")
        try:
            value = loads(line)
        except (ValueError, RecursionError) as error:
            message = getattr(error, "msg", None) or "nested too deeply, or a number of thousands of digits"
            raise InputError(f"{where}: not JSON ({message}); cut off? one object a line") from None
        yield where, value


def take(row: object, key: str, kind: type, where: str) -> Any:
    """A field of a row, of the type it must have (True is no number).

    Raises:
        InputError: naming `where` and the field.
    """
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: must be an object with {key}, not {shown(row)}")
    if key not in row:
        raise InputError(f"{where}: {key} is missing")
    value = row[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{where}: {key} must be {_KINDS[kind]}, not {shown(value)}")
    return value


def texts(value: object, where: str) -> list[str]:
    """A list of texts, nothing else."""
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise InputError(f"{where}: must be a list of texts, not {shown(value)}")
    return value


def shown(value: object) -> str:
    """A value for a message: one line, short."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
