"""The model inside a PEFT wrapper, and the image inputs of a batch as that model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from uedpo.model.families import family_of
from uedpo.types import PairBatch
from uedpo.types.layout import to_device


def unwrap(model: Any) -> Any:
    """The image-text-to-text model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def image_inputs(
    base: Any, batch: PairBatch, pixels: Tensor | None, shown: Sequence[int]
) -> dict[str, Tensor]:
    """Pixels and their side tensors as the model takes them, of the entries `shown`, in that order."""
    if pixels is None or not shown:
        return {}
    sides = batch.image_inputs
    if list(shown) != list(range(len(pixels))):
        index = to_device(torch.tensor(shown), pixels.device)
        pixels, sides = pixels[index], {name: value[index] for name, value in sides.items()}
    # base.dtype is that of the first floating-point weight: quantised ones are bytes
    pixels = pixels.to(base.dtype)
    lengths = None if batch.pixel_lengths is None else [batch.pixel_lengths[n] for n in shown]
    return family_of(base.config).model_inputs(pixels, lengths, sides)
