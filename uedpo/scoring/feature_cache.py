"""Features of clear images on disk: one file per image, found by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from pytorch_lightning.utilities import rank_zero_info
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from uedpo.errors import InputError, local_path, os_line
from uedpo.model.families import family_of
from uedpo.runtime.atomic import replace
from uedpo.runtime.folders import make
from uedpo.scoring.placeholders import image_of
from uedpo.types import PairBatch

Compute = Callable[[Sequence[int]], Iterable[Tensor]]


class FeatureCache:
    """Keeps what a frozen vision tower and projector make of an image, for later epochs and other runs.

    A file is named by a hash of the tower's weights and dtype, the version of transformers, and the
    image's preprocessed pixels, so nothing stale is ever read. Features computed beside other images
    differ in the last bits, so a run with a cache equals one without it to rounding, not bit for bit.

    Args:
        folder: made if missing; any number of runs may share it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = local_path(str(folder))
        try:
            make(self.folder)
        except InputError as error:
            raise InputError(f"feature_cache: {error}") from None
        self._tower = ""
        self._told = False

    def bind(self, base: Any) -> None:
        """Take the tower and projector of `base`, an image-text-to-text model."""
        digest = hashlib.sha256(f"{base.config.model_type} {transformers.__version__}".encode())
        inside = family_of(base.config).language_path(base).removeprefix("model.") + "."
        for name, value in sorted(base.model.state_dict().items()):
            if not name.startswith(inside):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(_bytes(value))
        self._tower = digest.hexdigest()

    def features(self, batch: PairBatch, shown: Sequence[int], compute: Compute) -> list[Tensor]:
        """One tensor [image tokens, H] for each of the images `shown` of `batch`.

        Args:
            shown: entries of `batch.pixel_values`.
            compute: makes the features of such entries.

        Raises:
            InputError: a file that cannot be read.
        """
        assert batch.pixel_values is not None
        names = {entry: self._name(batch, entry) for entry in shown}
        missing = [entry for entry, name in names.items() if not name.is_file()]
        known: dict[int, Tensor] = {}
        if missing:
            known = dict(zip(missing, compute(missing), strict=True))
            for entry, value in known.items():
                self._write(names[entry], value)
        device = batch.pixel_values.device
        return [known[n] if n in known else self._read(names[n], device) for n in shown]

    def _name(self, batch: PairBatch, entry: int) -> Path:
        pixels, sides = image_of(batch.host, entry)
        digest = hashlib.sha256(f"{self._tower} {pixels.dtype} {tuple(pixels.shape)}".encode())
        for value in (pixels, *(sides[k] for k in sorted(sides))):
            digest.update(_bytes(value))
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    @staticmethod
    def _read(path: Path, device: torch.device) -> Tensor:
        try:
            return load_file(path, device=str(device))["features"]
        except (SafetensorError, KeyError) as error:
            raise InputError(f"{path}: not a file of image features ({error}); remove it") from None
        except OSError as error:
            raise InputError(f"feature_cache: {os_line(error)}; make it readable, or remove it") from None

    def _write(self, path: Path, value: Tensor) -> None:
        if not self._told:
            self._told = True
            rank_zero_info(f"{self.folder}: {value.numel() * value.element_size() / 1e6:.2f} MB an image")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)  # the folder may have been emptied meanwhile
        except OSError as error:
            raise InputError(
                f"feature_cache: {os_line(error)}; make it writable, or name another folder"
            ) from None
        replace(path, lambda file: file.write(save({"features": value.contiguous()})))


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
