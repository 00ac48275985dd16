"""Rows of files and of the hub, as they are: JSON, JSON lines, parquet."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from uedpo.data.fields import kind
from uedpo.data.rejects import RowProblem
from uedpo.data.rows import first_twice, numbered_lines, open_regular, parse_line
from uedpo.errors import InputError, local_path
from uedpo.runtime.hub import how_to_get, reachable
from uedpo.runtime.inside import check_inside
from uedpo.runtime.progress import interactive

MAX_JSON = 2**31  # bytes of a .json file, which is read whole
# a parquet file may unpack to LEAST_TABLE bytes, or to MOST_EXPANSION times its size
LEAST_TABLE, MOST_EXPANSION = 2**28, 20
LEAST_VALUES = 2**20  # that a column may have whatever the size of its file; more need a byte each
MOST_COLUMNS, MOST_GROUPS = 1000, 4000  # row groups of ten columns; reading opens the file for each of them
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
Row = Mapping[str, Any] | RowProblem


class Rows(Protocol):
    """Rows by their place; each says its number in the file, from 1."""

    name: str  # of the file, folder or hub id
    folder: Path  # that paths of images start from

    def __len__(self) -> int: ...

    def __getitem__(self, place: int) -> tuple[int, Row]: ...


class ListedRows:
    """Rows of a JSON file, which hold no images, only their paths."""

    def __init__(self, file: Path, rows: Iterable[tuple[int, Row]]) -> None:
        self.name, self.folder, self.rows = str(file), file.parent, list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[int, Row]:
        return self.rows[place]


class TableRows:
    """Rows of parquet files through `datasets`: memory-mapped, pictures as the bytes they are stored as."""

    def __init__(self, name: str, folder: Path, files: Sequence[Path]) -> None:
        self.name, self.folder = name, folder
        try:
            # a heavy import that the micro-world does not need
            from datasets import config, disable_progress_bars, load_dataset
        except ImportError:
            raise InputError(f"{name}: parquet needs the extra data: pip install 'uedpo[data]'") from None
        if not files:
            raise InputError(f"{name}: no parquet file; give a hub id or a folder that holds one")
        if not interactive():
            disable_progress_bars()
        try:
            # datasets knows a file by its path and modification time, which a replaced one may share
            content = _content(files)
            if not list(
                Path(config.HF_DATASETS_CACHE, "parquet").glob(f"{content}-*")
            ):  # else it was checked
                for file in files:
                    _check_expansion(file)
            table = load_dataset(
                "parquet", name=content, data_files=[str(file) for file in files], split="train"
            )
        except InputError:
            raise
        except Exception as error:  # whatever arrow, fsspec and datasets raise on a file that is no table
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            raise InputError(f"{name}: not a table of rows ({reason}); write the parquet file anew") from None
        # as arrow has it: other formats would open whatever path or address stands in for a picture
        self.table: Any = table.with_format("arrow")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, place: int) -> tuple[int, Row]:
        row = self.table[place]
        try:
            return place + 1, row.to_pylist()[0]
        except (ArithmeticError, ValueError) as error:  # values that Python has none for
            code = "BAD_UTF8" if isinstance(error, UnicodeDecodeError) else "BAD_TYPE"
            return place + 1, RowProblem("row", code, f"cannot be read ({str(error)[:120]}); write it anew")


def _content(files: Sequence[Path]) -> str:
    """A name for what the files hold."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return f"rows-{total.hexdigest()[:16]}"


def _check_expansion(path: Path) -> None:
    """Refuse a file that would become a far larger table: pages that unpack to much, values repeated often.

    Raises:
        InputError: it holds far more than its size, or more parts than are read in good time.
    """
    from pyarrow import parquet

    size = path.stat().st_size
    most = max(LEAST_TABLE, MOST_EXPANSION * size)
    with parquet.ParquetFile(path) as file:
        _check_counts(path, file.metadata, size)
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
        total = sum(chunk.total_uncompressed_size for chunk in chunks)
        largest = max((chunk.total_uncompressed_size for chunk in chunks), default=0)
        if total <= most and sum(c.total_uncompressed_size * c.num_values for c in chunks) > most:
            total = 0
            for batch in file.iter_batches(batch_size=max(1, min(1024, LEAST_TABLE // max(largest, 1)))):
                total += batch.nbytes
                if total > most:
                    break
    if total > most:
        raise InputError(
            f"{path}: {size:,} bytes that unpack to more than {most:,}, as no pairs do; write it anew"
        )


def _check_counts(path: Path, about: Any, size: int) -> None:
    """Refuse more parts than are read in good time, and values that take no room in the file.

    Raises:
        InputError: see above.
    """
    columns, groups = about.num_columns, about.num_row_groups
    if columns > MOST_COLUMNS or groups**2 * columns > MOST_GROUPS**2 * 10:
        raise InputError(
            f"{path}: {columns} columns in {groups} row groups take too long to read; allowed: "
            f"{MOST_COLUMNS} columns, or {MOST_GROUPS} groups of ten; write it anew"
        )
    values = [
        sum(about.row_group(i).column(column).num_values for i in range(groups)) for column in range(columns)
    ]
    if max(about.num_rows, *values, 0) > max(LEAST_VALUES, size):
        raise InputError(f"{path}: more rows or values than bytes, as no pairs have; write it anew")


def read_rows(path: str, revision: str | None = None) -> Rows:
    """Rows of a .json, .jsonl or .parquet file, of a folder with parquet files, or of a data set of the hub.

    Args:
        path: of the file or folder, or a hub id (owner/name).
        revision: commit of a hub id.

    Raises:
        InputError: no such place, or nothing readable there.
    """
    place = local_path(path)
    if place.is_dir():
        files, others = _tables(place), sorted(place.glob("*.json*"))
        if others and not files:
            raise InputError(f"{path}: is a folder without parquet files; name one file, as {others[0]}")
        return TableRows(path, place, files)
    if place.suffix == ".parquet":
        with open_regular(place):
            return TableRows(path, place.parent, [place])
    if _HUB.fullmatch(path) and not place.exists() and place.suffix not in (".json", ".jsonl"):
        folder = hub_folder(path, revision)
        return TableRows(path, folder, _tables(folder))
    with open_regular(place) as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        return ListedRows(place, enumerate(_array(place), start=1))
    return ListedRows(place, ((n, _parsed(line)) for n, line in numbered_lines(place)))


def _tables(folder: Path) -> list[Path]:
    """The parquet files of a folder, in order.

    Raises:
        InputError: one leads elsewhere, or is no regular file.
    """
    found = sorted(folder.rglob("*.parquet"))
    check_inside(folder, found)
    return [path for path in found if path.is_file()]


def _parsed(line: bytes | RowProblem) -> Row:
    try:
        return line if isinstance(line, RowProblem) else parse_line(line)
    except RowProblem as problem:
        return problem


def _array(path: Path) -> list[Row]:
    """The objects of a file that is one JSON array."""
    with open_regular(path) as file:
        # reading at most so many would make room for them all
        fits = os.fstat(file.fileno()).st_size <= MAX_JSON
        data = file.read() if fits else b""
    try:
        if not fits:
            raise ValueError(f"over {MAX_JSON} bytes; write one object a line")
        rows = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error).splitlines()[0][:200]
        raise InputError(f"{path}: not JSON ({reason}); write an array of rows, or one a line") from None
    if not isinstance(rows, list):
        raise InputError(f"{path}: is {kind(rows)}; write an array of rows, or one a line")
    wrong = RowProblem("row", "BAD_TYPE", "is no object; a row has columns")
    return [row if isinstance(row, (dict, RowProblem)) else wrong for row in rows]


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    """Like that of a line, but the problem stays with its row."""
    return first_twice(pairs) or dict(pairs)


def hub_folder(source: str, revision: str | None) -> Path:
    """Where the parquet files of a data set of the hub are on this machine; fetches what is missing.

    Raises:
        InputError: the hub does not give it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    there = reachable()
    try:
        return Path(
            snapshot_download(source, repo_type="dataset", revision=revision, allow_patterns="*.parquet")
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        remedy = "name another" if there else how_to_get(source, revision, "dataset")
        raise InputError(
            f"data source {source!r}: no such file or folder, and the hub does not give it ({reason}); "
            f"{remedy}"
        ) from None
