"""What log-probabilities of the frozen reference depend on: a run's setting, and the content of each row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from uedpo.errors import InputError, os_line
from uedpo.types import PairBatch, PreferencePair


class Content(NamedTuple):
    """Hashes of what a row holds: its texts, and the bytes of its images as they are stored."""

    texts: str
    images: str


def setting_of(
    source: Any, config: Any, processor: Any, *, scoring: str, precision: str, max_response_tokens: int
) -> dict[str, str]:
    """Name -> value of all but the rows; long values by their hash.

    Args:
        source: an `HFModel`. Its adapter is no part of this: the reference has none.
        config: transformers config of the model.

    Raises:
        InputError: weights that nothing identifies.
    """
    about = processor.to_dict()
    for part in ("image_processor", "chat_template"):
        about.pop(part, None)
    images = getattr(processor, "image_processor", None)
    template = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", "")
    bits = source.quantize if source.lora is not None else source.reference_quantize
    return {
        "format": "1",
        "weights": _weights(source, config),
        "quantization": str(bits or "none"),
        "dtype": source.dtype,
        "precision": precision,
        "attention": source.attn_implementation,
        "scoring": scoring,
        "tokenizer": _hash(_tokenizer(processor.tokenizer)),
        "processor": _hash(about),
        # sizes and pixel limits are among its options
        "image processor": _hash([type(images).__name__, images.to_dict() if images is not None else None]),
        "chat template": _hash(template),
        "max_response_tokens": str(max_response_tokens),
        "transformers": transformers.__version__,
    }


def _weights(source: Any, config: Any) -> str:
    folder = Path(source.location)
    if folder.is_dir():
        total = hashlib.sha256()
        for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
            with path.open("rb") as file:
                total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return total.hexdigest()[:32]
    commit = getattr(config, "_commit_hash", None)
    if commit is None:
        raise InputError(
            f"reference_cache: nothing says which weights model.path={source.path} is; set "
            "model.revision, or give a local folder"
        )
    return f"{source.path} at {commit}"


def _tokenizer(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return sorted(tokenizer.get_vocab().items())
    state = json.loads(backend.to_str())
    # what its last caller asked for
    return {name: value for name, value in state.items() if name not in ("padding", "truncation")}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def key_of_row(part: str, negatives: bool, name: str) -> str:
    """A row's key; one that is scored with further negatives has another than without."""
    return f"{part}{'+negatives' if negatives else ''}/{name}"


def undecoded(pairs: Sequence[PreferencePair], i: int) -> PreferencePair:
    """Row `i`; where `pairs` can say what its images are made from, with that in their place."""
    own = getattr(pairs, "undecoded", None)
    return pairs[i] if own is None else own(i)  # type: ignore[no-any-return]


class Contents:
    """Computes `Content`s; a picture that many rows ask about is read once."""

    def __init__(self, negatives: bool) -> None:
        self.negatives = negatives
        self._files: dict[Path, str] = {}

    def __call__(self, pair: PreferencePair) -> Content:
        """Hashes of one row.

        Raises:
            InputError: an image file that cannot be read.
        """
        others = None if pair.rejected_image is None else pair.rejected_images
        texts = [pair.prompt, pair.history, pair.image_at, pair.chosen, pair.rejected]
        try:
            images = [[self._image(image) for image in side] for side in (pair.images, others or ())]
        except OSError as error:
            raise InputError(f"row {pair.id}: {os_line(error)}; restore the file") from None
        return Content(
            _hash([*texts, pair.negatives if self.negatives else ()]), _hash([images, others is None])
        )

    def _image(self, image: Any) -> str:
        if isinstance(image, Path):
            if image not in self._files:
                with image.open("rb") as file:
                    self._files[image] = hashlib.file_digest(file, "sha256").hexdigest()
            return self._files[image]
        if callable(image):
            return hashlib.sha256(image()).hexdigest()
        pixels = np.asarray(image)
        return hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode() + pixels.tobytes()).hexdigest()


def token_hashes(batch: PairBatch) -> list[str]:
    """Of each pair, a hash of the ids of all its rows and of how many of them are response."""
    inputs, responses = batch.host.inputs, batch.response_lengths
    ids, lengths = inputs["input_ids"].to(torch.int64), inputs["attention_mask"].sum(1).tolist()
    found = []
    for i in range(len(batch.ids)):
        digest = hashlib.sha256()
        for row in range(i, len(ids), len(batch.ids)):
            digest.update(f"{lengths[row]} {responses[row]} ".encode())
            digest.update(ids[row, : lengths[row]].numpy().tobytes())
        found.append(digest.hexdigest()[:32])
    return found
