"""Folders that a command makes before it is accepted, and takes away again where it is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

from uedpo.errors import InputError, os_line
from uedpo.runtime.atomic import UNWRITABLE, unwritable

PAGES = ("README.md", "check.html", "report.html", "summary.md")  # which other commands write
_made: list[Path] = []  # by this process, inner ones last


def make(folder: Path) -> None:
    """Make `folder` and those above it, where they are not there yet.

    Raises:
        InputError: it cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        take_away(missing)
        raise (
            unwritable(folder, error)
            if error.errno in UNWRITABLE
            else InputError(f"{os_line(error)}; name another folder")
        ) from None
    _made.extend(reversed(missing))


def output_file(path: Path, key: str, suffix: str) -> Path:
    """`path`, where it may be written: what is there already is nothing, or what such a command wrote.

    Raises:
        InputError: a folder, or a file of another kind.
    """
    if path.is_dir():
        raise InputError(f"{key}={path}: is a folder; name a file in it")
    if path.exists() and (path.suffix != suffix or path.name in PAGES):
        raise InputError(f"{key}={path}: is a file of another kind; name a new one, as NAME{suffix}")
    return path


def unmake() -> None:
    """Take away the folders that this process made and that are empty still."""
    take_away(list(reversed(_made)))
    _made[:] = [path for path in _made if path.exists()]


def take_away(paths: list[Path]) -> None:
    """Remove folders, the inner ones first; one that holds something stays."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.rmdir()
