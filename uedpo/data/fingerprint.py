"""A hash by which a checkpoint knows its data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from uedpo.types import PreferencePair


def fingerprint(pairs: Sequence[PreferencePair]) -> str:
    """sha256 of a data set: its own `fingerprint()` where it has one, else of the texts of all rows."""
    own = getattr(pairs, "fingerprint", None)
    if own is not None:
        return str(own())
    rows = (pairs[i] for i in range(len(pairs)))
    return digest([p.id, p.prompt, p.chosen, p.rejected, p.negatives, p.similarity] for p in rows)


def digest(rows: Iterable[Any]) -> str:
    """sha256 of rows that JSON can hold, in their order."""
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return found.hexdigest()
