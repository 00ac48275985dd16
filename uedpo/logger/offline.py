"""What the files of W&B's offline runs hold, after a kill too: which metric of which step was written."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uedpo.logger import STEP

_HEAD = 7  # bytes: of the file, and of each piece
_BLOCK = 32_768
_WHOLE, _LAST = 1, 4  # kinds of pieces that end a message


def parts(folder: Path) -> list[Path]:
    """Folders of the offline runs of a run directory, in the order in which they began."""
    return sorted((folder / "wandb").glob("offline-run-*"))


def written(folder: Path) -> set[tuple[int, str]]:
    """(step, metric) of all that the offline runs of a run directory hold."""
    from wandb.proto import wandb_internal_pb2 as proto

    found = set()
    for file in (f for part in parts(folder) for f in part.glob("*.wandb")):
        for message in messages(file.read_bytes()):
            record: Any = getattr(proto, "Record")()  # noqa: B009  (made when it is imported)
            try:
                record.ParseFromString(message)
            except Exception:  # protobuf's: the killed process wrote half of it
                continue
            row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            if STEP in row:
                found |= {(int(json.loads(row[STEP])), name) for name in row}
    return found


def messages(log: bytes) -> Iterator[bytes]:
    """Messages of a file of W&B: a log of LevelDB, blocks of pieces (checksum 4, length 2, kind 1, data).

    A message that a kill cut off is left out.
    """
    position, whole = _HEAD, b""
    while position + _HEAD <= len(log):
        room = _BLOCK - position % _BLOCK
        if room < _HEAD:
            position += room
            continue
        length, kind = struct.unpack_from("<HB", log, position + 4)
        end = position + _HEAD + length
        if end > len(log) or not kind:
            return
        whole += log[position + _HEAD : end]
        position = end
        if kind in (_WHOLE, _LAST):
            yield whole
            whole = b""
