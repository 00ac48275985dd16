"""Files that are there whole or not at all, whenever the process is killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from uedpo.errors import InputError


def replace(path: Path, write: Callable[[BinaryIO], Any], before: Callable[[], None] = lambda: None) -> None:
    """Write a file beside `path`, bring it to the disk, and rename it; `before` runs before the rename.

    Raises:
        InputError: no room, or no right to write; `path` is as it was.
    """
    # beside the target, never in TMPDIR: a rename between file systems is a copy that a kill can halve
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        before()
        os.replace(beside, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        free = shutil.disk_usage(path.parent).free / 1e6
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); {free:.0f} MB are free there; make room, then "
            "run the same command again"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """A JSON file that parallel runs never see half of.

    Raises:
        InputError: see `replace`.
    """
    text = json.dumps(value, indent=1) + "\n"
    replace(path, lambda file: file.write(text.encode()))


def sync_folder(folder: Path) -> None:
    """Bring renames in `folder` to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write into, renamed to it in the end; gone where the block raises.

    Raises:
        InputError: `path` exists.
    """
    if path.exists():
        raise InputError(f"{path}: exists; remove it, or choose another folder")
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.mkdir(parents=True)
    try:
        yield beside
        os.rename(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync_folder(path.parent)
