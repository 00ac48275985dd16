"""JSON Lines files that a killed process goes on with: a header of settings, then one row a line.

Only whole lines are ever appended, one write each. What a kill leaves behind is at most a last line
without its end, which the next run cuts.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from uedpo.errors import InputError
from uedpo.results.keys import flat
from uedpo.runtime.lines import write_whole
from uedpo.runtime.small_json import loads

Row = dict[str, Any]
ANSWERS, REPLIES = "uedpo_answers", "uedpo_judge_replies"  # first keys of headers


def digest(value: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sealed(header: Mapping[str, Any]) -> Row:
    """`header` with the hash of its other fields as `sha256`."""
    return {**header, "sha256": digest({k: v for k, v in header.items() if k != "sha256"})}


class AppendFile:
    """A file of this kind, opened to go on with.

    Attributes:
        rows: (line number, row) of what the file already holds.

    Args:
        path: made, with its folder, where it does not exist.
        header: settings; its first key names the kind of file.

    Raises:
        InputError: the file is of another kind, has other settings (named) or a broken row, or another
            process is writing it. Nothing of it is changed then.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path, self._guard = path, threading.Lock()
        head = sealed(header)
        first = line_of(head)
        path.parent.mkdir(parents=True, exist_ok=True)
        # what a server answered is for whoever asked it
        mode = 0o600 if REPLIES in header else 0o644
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, mode)
        try:
            self._lock()
            data = path.read_bytes()
            self.rows: list[tuple[int, Row]] = []
            if b"\n" not in data and first.startswith(data):  # new, or killed in its first write
                os.ftruncate(self._file, 0)
                write_whole(self._file, first, path)
                return
            whole = data[: data.rfind(b"\n") + 1]
            kept, self.rows = parse(path, whole, next(iter(header)))
            _same(path, kept, head)
            if len(whole) < len(data):
                os.ftruncate(self._file, len(whole))
        except BaseException:
            os.close(self._file)
            raise

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one line in one write; any thread may.

        Raises:
            InputError: no room for a whole line; the file is as it was.
        """
        with self._guard:
            write_whole(self._file, line_of(row), self.path)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{self.path}: another process is writing it; wait, or choose another") from None

    def __enter__(self) -> AppendFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def read(path: Path, kind: str) -> tuple[Row, list[tuple[int, Row]]]:
    """Header and (line number, row) of a finished file.

    Args:
        kind: first key of its header.

    Raises:
        InputError: no such file, another kind of file, or a line that is broken or cut.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        number = data.count(b"\n") + 1
        raise InputError(f"{path}:{number}: the last line is cut; run the command that wrote it again")
    return parse(path, data, kind)


def parse(path: Path, data: bytes, kind: str) -> tuple[Row, list[tuple[int, Row]]]:
    """`read` for whole lines that are in memory."""
    first, *lines = data.split(b"\n")
    header = _object(f"{path}:1", first) if lines else {}
    if kind not in header:
        raise InputError(f"{path}:1: no {kind}: not the header of such a file; choose another")
    if header.get("sha256") != sealed(header)["sha256"]:
        raise InputError(f"{path}:1: sha256 is not that of the other fields: the header was changed")
    return header, [(n, _object(f"{path}:{n}", line)) for n, line in enumerate(lines[:-1], start=2)]


def _object(where: str, line: bytes) -> Row:
    try:
        row = loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({str(error).splitlines()[0]}); remove the line") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: must be an object")
    return row


def line_of(row: Mapping[str, Any]) -> bytes:
    """A row as it stands in a file."""
    # ASCII escapes: a lone surrogate in a model's text cannot be encoded otherwise
    return (json.dumps(row) + "\n").encode()


def _same(path: Path, kept: Row, now: Row) -> None:
    a, b = flat(kept), flat(now)
    names = [
        k
        for k in [*b, *(k for k in a if k not in b)]
        if k != "sha256" and a.get(k, "unset") != b.get(k, "unset")
    ]
    if names:
        changes = ", ".join(f"{k}={a.get(k)!r} (now {b.get(k)!r})" for k in names)
        raise InputError(f"{path}:1: written with other settings: {changes}; choose another output")
