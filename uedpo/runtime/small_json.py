"""JSON files that others wrote, read within limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from uedpo.errors import InputError

LIMIT = 4 * 2**20  # bytes; configurations have thousands


def loads(text: str | bytes) -> Any:
    """`json.loads`, but for whole numbers that no float holds, which would stop any arithmetic later.

    Raises:
        ValueError: one of those, or no JSON.
        RecursionError: nested too deeply.
    """
    return json.loads(text, parse_int=_whole)


def _whole(digits: str) -> int:
    if len(digits) > 300:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def read_json(path: Path, limit: int = LIMIT) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: more than `limit` bytes, no regular file, or no JSON, such nested too deeply included.
    """
    try:
        return loads(read_small(path, limit))
    except RecursionError:
        raise InputError(f"{path}: nested too deeply") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not JSON ({error})") from None


def read_small(path: Path, limit: int) -> bytes:
    """What a file holds.

    Raises:
        InputError: more than `limit` bytes, or no regular file.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise InputError(f"{path}: no such file")
        if path.stat().st_size > limit:
            raise InputError(f"{path}: more than {limit:,} bytes, which no file of its kind has")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def read_object(path: Path, limit: int = LIMIT) -> dict[str, Any]:
    """What a JSON file with one object holds.

    Raises:
        InputError: see `read_json`; or it holds something else.
    """
    found = read_json(path, limit)
    if not isinstance(found, dict):
        raise InputError(f"{path}: must hold a JSON object")
    return found
