"""Preference pairs of files in any of `uedpo.data.formats`, and the data module for them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Gt, Lt

from uedpo.data.datamodule import PairDataModule
from uedpo.data.fields import image_list
from uedpo.data.formats import FIRST, FORMATS, ToPair, detect
from uedpo.data.images import find_image, image_folder
from uedpo.data.reading import Row, Rows, read_rows
from uedpo.data.rejects import RowProblem
from uedpo.data.rows import CheckedPairs, Source
from uedpo.errors import InputError
from uedpo.runtime.progress import tracked
from uedpo.types import Fraction, NonNegativeInt, PositiveInt

Format = Literal["auto", "simple", "trl", "sharegpt", "swift", "rlhf_v", "rlaif_v"]
ValShare = Annotated[float, Gt(0.0), Lt(1.0)]


class FilePairs(CheckedPairs):
    """The usable ones of some rows.

    An image is a path inside `image_root`, or is stored in the row; of stored ones, the bytes are read when
    its row is needed.

    Args:
        rows: of a file.
        places: which of them.
        format: its name, or "auto" to know it from the first rows.
        image_root: folder all image paths must stay inside; default: that of the file.
        num_pairs: stop reading after so many usable rows; 0 takes all.
        max_bad_fraction: share of the rows read that may be rejected.

    Raises:
        InputError: no format fits, or more rows than that cannot be used, each named, before training starts.
    """

    def __init__(
        self,
        rows: Rows,
        places: range,
        format: Format = "auto",
        image_root: str | None = None,
        num_pairs: NonNegativeInt = 0,
        max_bad_fraction: Fraction = 0.001,
    ) -> None:
        super().__init__(rows.name, max_bad_fraction)
        self.source = rows
        name = format if format != "auto" else known_format(rows)
        self.to_pair, read, _ = FORMATS[name]
        unread = dict.fromkeys(str(key) for row in _first(rows) for key in row if key not in read)
        self.ledger.format = f"format {name}{', detected' if format == 'auto' else ''}" + (
            f"; columns not read: {', '.join(key[:40] for key in list(unread)[:12])}" if unread else ""
        )
        root = image_folder(image_root, rows.folder)
        find = functools.lru_cache(maxsize=4096)(functools.partial(find_image, root))  # rows share pictures

        def image(value: Any) -> Source:
            if isinstance(value, Stored):
                return value
            return find(value) if isinstance(value, str) else find_image(root, value)

        for place in tracked(places, f"reading {rows.name}", len(places)):
            number, row = rows[place]
            self.add(number, self._pair(place, row), image)
            if num_pairs and len(self.rows) == num_pairs:
                break
        self.ledger.settle(max_bad_fraction)

    def _pair(self, place: int, row: Row) -> Row:
        """The row under the names of `uedpo.data.fields`, its stored images by where they are."""
        if isinstance(row, RowProblem):
            return row
        try:
            pair = self.to_pair(row)
            sides = [image_list(side, pair.get(side)) for side in ("image", "rejected_image")]
            if sides[0] == sides[1] and "rejected_image" in pair:
                pair["rejected_image"] = None
            for side in ("image", "rejected_image"):
                value = pair.get(side)
                if isinstance(value, list):
                    pair[side] = [self._stored(v, place, side, i) for i, v in enumerate(value)]
                elif side in pair:
                    pair[side] = self._stored(value, place, side, 0)
            return pair
        except RowProblem as problem:
            return problem

    def _stored(self, value: object, place: int, side: str, number: int) -> Any:
        if not isinstance(value, (bytes, Mapping)):
            return value
        if _bytes(value) is None:
            raise RowProblem(
                "image", "IMAGE_MISSING", "is not stored in the file; a path or address is not followed"
            )
        return Stored(self.source, place, self.to_pair, side, number)


class Stored:
    """The bytes of an image that is stored in a row, read when called."""

    def __init__(self, rows: Rows, place: int, to_pair: ToPair, side: str, number: int) -> None:
        self.rows, self.place, self.to_pair, self.side, self.number = rows, place, to_pair, side, number

    def __call__(self) -> bytes:
        row = self.rows[self.place][1]
        assert not isinstance(row, RowProblem)
        value = self.to_pair(row)[self.side]
        found = _bytes(value[self.number] if isinstance(value, list) else value)
        assert found is not None
        return found


def _bytes(value: Any) -> bytes | None:
    found = value.get("bytes") if isinstance(value, Mapping) else value
    return found if isinstance(found, bytes) and found else None


def _first(rows: Rows) -> list[Mapping[str, Any]]:
    """The first rows that are rows."""
    there = (rows[place][1] for place in range(len(rows)))
    return list(itertools.islice((row for row in there if not isinstance(row, RowProblem)), FIRST))


def known_format(rows: Rows) -> str:
    """Name of the format that the first rows are in.

    Raises:
        InputError: see `detect`; or nothing in the file is a row.
    """
    first = _first(rows)
    if len(rows) == 1 and first and _wraps(first[0]):
        raise InputError(
            f"{rows.name}: is one object that holds lists; write an array of rows, or one row a line, each "
            "with its own columns"
        )
    if first:
        return detect(first, rows.name)
    if not len(rows):
        raise InputError(f"{rows.name}: no rows; give a file with preference pairs")
    number, problem = rows[0]
    raise InputError(
        f"{rows.name}:{number}: {problem}; none of {len(rows)} lines is a row: data=files reads JSON, JSON "
        "lines and parquet in UTF-8, so write it as one of them"
    )


def _wraps(row: Mapping[str, Any]) -> bool:
    """Whether a row is a whole file in one object: all rows under one key, or a list for each column."""
    if not row or not all(isinstance(value, list) for value in row.values()):
        return False
    turns = row.get("chosen") or row.get("messages") or row.get("conversations") or [None]
    return not isinstance(turns[0], Mapping)


def places_of(rows: Rows, part: Literal["train", "val"], val_share: float) -> range:
    """The first rows for training, the last `val_share` of them, at least one, for validation."""
    cut = len(rows) - max(1, round(val_share * len(rows)))
    return range(cut) if part == "train" else range(max(cut, 0), len(rows))


def file_data(
    processor: Any,
    path: str,
    val_path: str | None = None,
    val_share: ValShare = 0.02,
    format: Format = "auto",
    image_root: str | None = None,
    revision: str | None = None,
    *,
    batch_size: PositiveInt = 1,
    max_response_tokens: PositiveInt = 512,
    num_workers: NonNegativeInt = 2,
    negatives: bool = False,
    num_pairs: NonNegativeInt = 0,
    seed: int = 0,
    max_bad_fraction: Fraction = 0.001,
    decode_check: bool = False,
    overlap: Literal["warn", "stop"] = "warn",
) -> PairDataModule:
    """Data module of one file, or of one for training and one for validation; see docs/data.md.

    Args:
        processor: of the model.
        path: JSON, JSON lines or parquet file, folder with parquet files, or hub id.
        val_path: another for validation; null takes the last `val_share` of `path`.
        val_share: share of the rows of `path` that is validation, where there is no `val_path`.
        format: of both, or "auto".
        image_root: folder all image paths must stay inside; default: that of each file.
        revision: commit of a hub id.
        num_pairs: of training: stop reading after so many usable rows; 0 takes all.
        batch_size, max_response_tokens, num_workers, negatives, seed, max_bad_fraction, decode_check,
            overlap: see `PairDataModule`.

    Raises:
        InputError: nothing readable there, no format fits, or too many rows are rejected.
    """
    rows = read_rows(path, revision)
    if val_path is None and len(rows) == 1:
        if format == "auto":
            known_format(rows)  # a file that is one object, but no row, is told so
        raise InputError(
            f"{rows.name}: one row cannot be for training and validation both; set data.val_path"
        )
    others = rows if val_path is None else read_rows(val_path, revision)
    parts = (places_of(rows, "train", val_share), places_of(rows, "val", val_share))
    if val_path is not None:
        parts = (range(len(rows)), range(len(others)))
    train = FilePairs(rows, parts[0], format, image_root, num_pairs, max_bad_fraction)
    val = FilePairs(others, parts[1], format, image_root, 0, max_bad_fraction)
    return PairDataModule(
        train, val, processor,
        batch_size=batch_size, max_response_tokens=max_response_tokens, num_workers=num_workers,
        negatives=negatives, seed=seed, max_bad_fraction=max_bad_fraction, decode_check=decode_check,
        overlap=overlap,
    )  # fmt: skip
