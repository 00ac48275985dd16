"""Validation pairs that training has seen: the curve of such a set says nothing about new pictures."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from uedpo.data.rows import CheckedPairs, Source, contents
from uedpo.types import PreferencePair


class Overlap(NamedTuple):
    """Validation pairs by what they share with a training pair: positions of `val`, each in one list."""

    id: list[int]
    image: list[int]

    def summary(self, train: CheckedPairs, val: CheckedPairs) -> str:
        """One line with counts, the first pair and the remedy."""
        shared = sorted(self.id + self.image)
        first = val.rows[shared[0]].id[:80]
        return (
            f"{len(shared)} of {len(val)} validation pairs of {val.ledger.file} are in training "
            f"({len(self.id)} by id, {len(self.image)} by image content; first: {first!r}) of "
            f"{train.ledger.file}; split by image (data.overlap=stop refuses, =warn goes on)"
        )


def find_overlap(train: CheckedPairs, val: CheckedPairs) -> Overlap:
    """Which pairs of `val` have an id that the file gives, or the very picture, of a pair of `train`.

    Pictures are compared by content; only those of equal size are read.
    """
    ids = {pair.id for pair, own in _given_ids(train) if own}
    seen = _Pictures(train)
    found = Overlap([], [])
    for i, (pair, own) in enumerate(_given_ids(val)):
        if own and pair.id in ids:
            found.id.append(i)
        elif any(source in seen for source in _sources(pair)):
            found.image.append(i)
    return found


def _given_ids(pairs: CheckedPairs) -> Iterator[tuple[PreferencePair, bool]]:
    """Each pair, and whether its id stands in the file (else it is made of file name and line)."""
    name = Path(pairs.ledger.file).name
    for pair, line in zip(pairs.rows, pairs.lines, strict=True):
        yield pair, pair.id != f"{name}:{line}"


def _sources(pair: PreferencePair) -> tuple[Source, ...]:
    return (*pair.images, *(pair.rejected_images if pair.rejected_image is not None else ()))


class _Pictures:
    """The pictures of a data set, by size and, where two have one size, by content."""

    def __init__(self, pairs: CheckedPairs) -> None:
        self._by_size: dict[int, set[Source]] = defaultdict(set)
        self._known: dict[Source, bytes] = {}
        for pair in pairs.rows:
            for source in _sources(pair):
                self._by_size[_size(source)].add(source)

    def __contains__(self, source: Source) -> bool:
        same_size = self._by_size.get(_size(source), set())
        if source in same_size:
            return True
        return bool(same_size) and _digest(source) in {self._digest(other) for other in same_size}

    def _digest(self, source: Source) -> bytes:
        if source not in self._known:
            self._known[source] = _digest(source)
        return self._known[source]


def _digest(source: Source) -> bytes:
    return hashlib.sha256(_bytes(source)).digest()


def _bytes(source: Source) -> bytes:
    raw = contents(source)
    return raw.read_bytes() if isinstance(raw, Path) else raw


def _size(source: Source) -> int:
    return source.stat().st_size if isinstance(source, Path) else len(_bytes(source))
