"""Files that are there whole or not at all, whenever the process is killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from uedpo.errors import InputError

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def replace(path: Path, write: Callable[[BinaryIO], Any], before: Callable[[], None] = lambda: None) -> None:
    """Write a file beside `path`, bring it to the disk, and rename it; `before` runs before the rename.

    Raises:
        InputError: no room, or no right to write; `path` is as it was.
    """
    # beside the target, never in TMPDIR: a rename between file systems is a copy that a kill can halve
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.unlink(missing_ok=True)
        # never through a link that somebody else put there: the folder may be shared, the name can be guessed
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        before()
        os.replace(beside, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise unwritable(path, error) from error


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
def whole_folder(path: Path, anew: bool = False) -> Iterator[Path]:
    """A folder beside `path` to write into, renamed to it in the end; gone where the block raises, and where
    it was killed, gone with the next try.

    Files get the modes that the umask asks for, whatever the library that wrote them chose.

    Args:
        anew: replace `path` where it exists.

    Raises:
        InputError: `path` exists, there is no room, or no right to write; `path` is as it was.
    """
    if path.exists() and not anew:
        raise InputError(f"{path}: exists; remove it, or choose another folder")
    new = [folder for folder in path.parents if not folder.exists()]
    beside, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    lock = None
    try:
        clear(path.parent, path.name)
        beside.mkdir(parents=True)
        lock = _locked(beside)
        yield beside
        _modes_of_umask(beside)
        if path.exists():
            os.rename(path, old)
        os.rename(beside, path)
        sync_folder(path.parent)
    except OSError as error:
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise unwritable(path, error) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # what safetensors makes of a full disk
            raise
        raise unwritable(path, error) from error
    finally:
        if lock is not None:
            os.close(lock)
        for folder in (beside, old):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in new:  # nothing is in it where the block raised
            with contextlib.suppress(OSError):
                folder.rmdir()


def clear(folder: Path, name: str = "*") -> None:
    """Remove what killed writers of `name` left in `folder`; what a living one writes into a folder stays.

    No other process may meanwhile write a file of that name.
    """
    name = name if name == "*" else glob.escape(name)
    for left in [*folder.glob(f".{name}.[0-9]*.tmp"), *folder.glob(f".{name}.[0-9]*.old")]:
        if left.is_symlink() or not left.is_dir():
            left.unlink(missing_ok=True)
        elif (lock := _locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """A handle that holds `folder` until it is closed; None where another process holds it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle
    except OSError:  # or a file system without such locks: then nobody's folders are removed
        os.close(handle)
        return None


def _modes_of_umask(folder: Path) -> None:
    """safetensors writes files that only their owner may read."""
    probe = folder / ".mode"
    probe.touch()  # asking for the umask would set it for all threads meanwhile
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)


def unwritable(path: Path, error: Exception) -> InputError:
    """What a failed write says: where, why, how much room is left there, and what to do."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e6
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    return InputError(
        f"{path}: cannot be written ({reason}); {free:.0f} MB are free there; make room or get the right to "
        "write, then run the same command again"
    )
