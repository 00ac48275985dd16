"""Checkpoint files: written whole or not at all, sealed by a manifest, verified before they load.

`step-00000020.ckpt` counts only with `step-00000020.json` beside it, which is written last and removed
first. So a run killed at any moment leaves either a whole checkpoint or one that does not count.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning_fabric.plugins import CheckpointIO

from uedpo.errors import ANOTHER_FOLDER, InputError
from uedpo.results.keys import differing, flat, without_modules
from uedpo.runtime.atomic import clear, replace
from uedpo.runtime.say import say
from uedpo.runtime.small_json import loads
from uedpo.runtime.versions import versions

FORMAT = 1
# may change between a checkpoint and the run that continues it: none of it moves a weight or a metric row
MAY_DIFFER = ("resume", "method", "evaluation", "global_batch", "data.num_workers")
_UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


class DamagedError(InputError):
    """A checkpoint that is not what was written."""


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to: resolved configuration, and a hash of the data (see `fingerprint`)."""

    config: Mapping[str, Any]
    data: str


class VerifiedIO(CheckpointIO):
    """Lightning's checkpoint plugin: files as the module says, safe loading only."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None
    ) -> None:
        """Write checkpoint and manifest; a file of that name stays until the new one is on the disk.

        Raises:
            InputError: no room, or no right to write; the earlier checkpoints are untouched.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        sealed: dict[str, Any] = {}

        def write(file: BinaryIO) -> None:
            hashing = _Hashing(file)
            torch.save(checkpoint, hashing)  # type: ignore[arg-type]
            sealed.update(bytes=hashing.size, sha256=hashing.hash.hexdigest())

        replace(path, write, before=lambda: manifest_of(path).unlink(missing_ok=True))
        about = {
            "format": FORMAT,
            "file": path.name,
            **sealed,
            "step": checkpoint["global_step"],
            "config": dict(self.identity.config),
            "data": self.identity.data,
            "versions": versions(),
        }
        about["seal"] = _seal(about)
        replace(manifest_of(path), lambda file: file.write(json.dumps(about, indent=1).encode() + b"\n"))

    def load_checkpoint(
        self, path: str | os.PathLike, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Tensors and plain types of a verified checkpoint of this very run.

        Raises:
            InputError: damaged, of another configuration or data set, or loading was made unsafe.
        """
        if os.environ.get(_UNSAFE):
            raise InputError(f"{_UNSAFE} is set, which lets checkpoints run code; unset it")
        path = Path(path).resolve()
        self.check(path)
        return dict(torch.load(path, map_location=map_location, weights_only=True))

    def remove_checkpoint(self, path: str | os.PathLike) -> None:
        remove(Path(path))

    def check(self, path: Path) -> None:
        """Verify `path` and that this run may continue it.

        Raises:
            DamagedError: truncated, altered, or without its manifest.
            InputError: of another configuration or data set; names what differs.
        """
        about = verify(path)
        # a checkpoint of an earlier version may name modules that have moved
        there, here = without_modules(about["config"]), without_modules(self.identity.config)
        other = differing([there, here], but=MAY_DIFFER)
        if other:
            a, b = flat(there), flat(here)
            listed = ", ".join(f"{k} ({a.get(k, 'absent')} there, {b.get(k, 'absent')} here)" for k in other)
            raise InputError(
                f"{path}: of another configuration: {listed}; set these as they were, or start anew: "
                f"{ANOTHER_FOLDER}"
            )
        if about["data"] != self.identity.data:
            theirs, ours = about["data"][:12], self.identity.data[:12]
            raise InputError(
                f"{path}: of another data set: data hash {theirs} there, {ours} here; bring the data back, "
                f"or start anew: {ANOTHER_FOLDER}"
            )


def choose(resume: str | None, folder: Path, io: VerifiedIO) -> Path | None:
    """The checkpoint a run continues from, verified; None where it starts from scratch.

    Args:
        resume: "auto", "required", the path of a checkpoint, or None.
        folder: the run's own checkpoints.

    Raises:
        InputError: nothing usable, or checkpoints where the run would start from scratch.
    """
    found = checkpoints(folder)
    if resume not in ("auto", "required"):
        if resume is not None:
            io.check(Path(resume).resolve())
            return Path(resume).resolve()
        if found:
            raise InputError(
                f"{folder}: holds checkpoints of an earlier run; add resume=auto to continue it, or "
                f"{ANOTHER_FOLDER}"
            )
        return None
    damaged = None
    for path in reversed(found):
        try:
            io.check(path)
        except DamagedError as error:
            if resume == "required":
                raise
            say(f"resume=auto: {error}; trying the one before")
            damaged = error
            continue
        say(f"resuming from {path}")
        return path
    if damaged is not None:
        raise InputError(f"{folder}: no checkpoint is whole; remove the folder to start from scratch")
    if resume == "required":
        raise InputError(f"resume=required: no checkpoint in {folder}; resume=auto would start from scratch")
    return None


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that count, in order of their steps."""
    return sorted(
        file.with_suffix(".ckpt") for file in folder.glob("step-*.json") if file.with_suffix(".ckpt").exists()
    )


def verify(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose bytes are those that were written.

    Raises:
        DamagedError: what is wrong, and the remedy.
    """
    manifest = manifest_of(path)
    try:
        about = loads(manifest.read_bytes())
        seal = about.pop("seal")
    except FileNotFoundError:
        raise DamagedError(f"{path}: no {manifest.name} beside it; copy the two files together") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise DamagedError(f"{manifest}: damaged; use an earlier checkpoint") from None
    if seal != _seal(about) or about["format"] != FORMAT:
        raise DamagedError(f"{manifest}: damaged, or of another version; use an earlier checkpoint")
    try:
        size = path.stat().st_size
        if size == about["bytes"]:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedError(f"{path}: cannot be read ({error.strerror})") from None
    if size != about["bytes"]:
        raise DamagedError(f"{path}: damaged, {size} bytes instead of {about['bytes']}")
    if digest != about["sha256"]:
        raise DamagedError(f"{path}: damaged, its sha256 is not the manifest's")
    return dict(about)


def remove(path: Path) -> None:
    """Remove a checkpoint and its manifest."""
    manifest_of(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed writers left: temporary files, and checkpoints without their manifest."""
    clear(folder)
    for file in folder.glob("step-*.ckpt"):
        if not manifest_of(file).exists():
            file.unlink(missing_ok=True)


def manifest_of(path: Path) -> Path:
    return path.with_suffix(".json")


class _Hashing:
    """A file that hashes and counts what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.size += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _seal(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
