"""Files of others that stay inside the folder they came in."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from uedpo.errors import InputError


def check_inside(folder: Path, paths: Iterable[Path]) -> None:
    """Whether files of `folder` are regular ones, and their links lead nowhere else.

    Raises:
        InputError: one leads elsewhere, or is a pipe, a device or nothing.
    """
    # links of the hub's cache lead from a snapshot to the blobs beside it
    root = (folder.parent.parent if folder.parent.name == "snapshots" else folder).resolve()
    for path in paths:
        if not Path(os.path.realpath(path)).is_relative_to(root):
            raise InputError(f"{path}: a link that leaves the folder; put the file itself there")
        if not path.is_file() and not path.is_dir():
            raise InputError(f"{path}: no regular file; remove it")
