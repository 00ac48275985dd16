"""A file of finished trials: one JSON line each, appended by any number of runs at once.

Each row: key (hash of config), method, config (resolved, without what cannot change a result), commit,
seconds, metrics, and counts: per split the counts of every scene as packed bytes, for paired tests.
The key knows the configuration, not the code: start a new file after a change that moves results.
"""

from __future__ import annotations

import base64
import json
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uedpo.errors import InputError
from uedpo.results.keys import key_of, method_name
from uedpo.runtime.atomic import replace
from uedpo.runtime.folders import make
from uedpo.runtime.lines import append_line, whole_lines
from uedpo.runtime.small_json import loads
from uedpo.runtime.versions import code_version

OWN_ROWS = "results.jsonl"  # in the directory of a run: its own row
MOST_COUNTS = 10_000_000  # of one row and split; ours have 14,000
COLUMNS = ("key", "method", "config", "commit", "seconds", "metrics", "counts")


def pack(rows: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    """Counts of each scene as {columns, scenes, data}: uint8 [scenes, columns], zlib, base64.

    Raises:
        ValueError: a count outside [0, 255].
    """
    columns = list(rows[0])
    table = np.array([[row[name] for name in columns] for row in rows])
    if table.min() < 0 or table.max() > 255:
        raise ValueError(f"counts reach from {table.min()} to {table.max()}: a packed one is in [0, 255]")
    data = base64.b64encode(zlib.compress(table.astype(np.uint8).tobytes(), 9)).decode()
    return {"columns": columns, "scenes": len(rows), "data": data}


def unpack(packed: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Inverse of `pack`: column -> int64 [scenes].

    Raises:
        ValueError: data that does not hold scenes x columns bytes.
    """
    scenes, columns = int(packed["scenes"]), len(packed["columns"])
    if not 0 <= scenes * columns <= MOST_COUNTS:
        raise ValueError(f"{scenes} scenes of {columns} counts: at most {MOST_COUNTS:,} in all")
    data = zlib.decompressobj().decompress(base64.b64decode(packed["data"]), scenes * columns + 1)
    table = np.frombuffer(data, dtype=np.uint8).reshape(scenes, columns).astype(np.int64)
    return dict(zip(packed["columns"], table.T, strict=True))


def make_row(
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    counts: Mapping[str, Sequence[Mapping[str, int]]],
    seconds: float,
) -> dict[str, Any]:
    """A row of the file; metrics and counts are those of `Evaluated`."""
    packed = {split: pack(rows) for split, rows in counts.items()}
    about = (key_of(config), method_name(config), config, code_version(), round(seconds, 1))
    return dict(zip(COLUMNS, (*about, metrics, packed), strict=True))


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line, so that lines of parallel runs never mix.

    Raises:
        InputError: no room; the file is as it was.
    """
    append_line(path, row)


def check_appendable(path: Path) -> None:
    """Whether `append_row` will be able to write, asked before a run has trained for its row.

    Raises:
        InputError: it will not.
    """
    try:
        make(path.parent)
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except (OSError, InputError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"results={path}: cannot be written ({reason}); name another file") from None


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a file of results by one with `rows`."""
    replace(path, lambda file: file.write("".join(json.dumps(row) + "\n" for row in rows).encode()))


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Rows by key, in order of the file; of two with one key the first. No file: no rows.

    Raises:
        InputError: naming file and line of a row that is not one.
    """
    rows: dict[str, dict[str, Any]] = {}
    for row in all_rows(path):
        rows.setdefault(row["key"], row)
    return rows


def all_rows(path: Path) -> list[dict[str, Any]]:
    """Rows in order of the file, those that share a key too. No file: no rows.

    Raises:
        InputError: naming file and line of a row that is not one.
    """
    if not path.is_file():
        return []
    return [_checked(f"{path}:{number}", line) for number, line in whole_lines(path, COLUMNS[0])]


def _checked(where: str, line: str) -> dict[str, Any]:
    try:
        row = loads(line)
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        if row["key"] != key_of(row["config"]):
            raise ValueError("key is not that of its config")
        for packed in row["counts"].values():
            unpack(packed)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, zlib.error) as error:
        problem = str(error).splitlines()[0]
        remedy = "name a file that results= wrote, or remove the line"
        raise InputError(f"{where}: not a row of results ({problem}); {remedy}") from None
    return dict(row)
