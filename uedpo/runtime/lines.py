"""Files that grow by lines of JSON, written by several processes; a full disk or a kill costs no line."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uedpo.errors import InputError
from uedpo.runtime.say import say
from uedpo.runtime.small_json import read_small

MOST = 2**28  # bytes of a file that is read; a row of results has some 20,000


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Add one line, under a lock. A last line without its end is mended first: cut where it is the beginning
    of a line as this one, else ended, and said. So no text is lost that somebody else wrote.

    Raises:
        InputError: no room for a whole line; the file is as it was.
        OSError: the file cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX)
        _mend(handle, path, next(iter(value)))
        write_whole(handle, (json.dumps(value) + "\n").encode(), path)
    finally:
        os.close(handle)


def write_whole(handle: int, line: bytes, path: Path) -> None:
    """Write all of `line` at the end of a file, or nothing.

    Raises:
        InputError: no room.
    """
    size = os.fstat(handle).st_size
    reason = "no room for a whole line"
    try:
        if os.write(handle, line) == len(line):
            return
    except OSError as error:
        reason = str(error.strerror)
    os.ftruncate(handle, size)
    raise InputError(f"{path}: {reason}; make room, then run the same command again")


def whole_lines(path: Path, first: str) -> list[tuple[int, str]]:
    """(number, text) of the lines that are not empty; a last one that was cut is passed over, and said.

    Args:
        first: name that each line begins with.

    Raises:
        InputError: no text in UTF-8, or more than `MOST` bytes.
    """
    whole, end, tail = read_small(path, MOST).rpartition(b"\n")
    tail = tail.rstrip(b"\0")  # which a machine leaves that loses power
    if tail and _is_cut(tail, first):
        say(f"{path}: its last line was cut by a full disk or a kill, and is passed over")
        tail = b""
    try:
        lines = enumerate((whole + end + tail).decode().split("\n"), start=1)
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a file of results, which are JSON lines; name another") from None
    return [(number, line) for number, line in lines if line.strip()]


def _mend(handle: int, path: Path, first: str) -> None:
    size = os.fstat(handle).st_size
    start, tail = size, b""
    while start and b"\n" not in tail:  # back to the last end of a line
        start = max(start - 65536, 0)
        tail = os.pread(handle, size - start, start)
    tail = tail[tail.rfind(b"\n") + 1 :]
    if not tail:
        return
    kept = tail.rstrip(b"\0")
    if not kept or _is_cut(kept, first):
        os.ftruncate(handle, size - len(tail))
        say(f"{path}: its last line was cut by a full disk or a kill, and was removed")
    else:
        os.ftruncate(handle, size - len(tail) + len(kept))
        write_whole(handle, b"\n", path)
        say(f"{path}: its last line had no end, which was added")


def _is_cut(line: bytes, first: str) -> bool:
    """Whether `line` is the beginning of one that `append_line` writes: an object with `first` first."""
    begin = f'{{"{first}": '.encode()
    if not line.startswith(begin[: len(line)]):
        return False
    try:
        json.loads(line)
        return False
    except (ValueError, RecursionError):
        return True
