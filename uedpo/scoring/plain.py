"""Plain scoring: one padded forward pass over all responses, each with its prompt and image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from uedpo.model.families import family_of
from uedpo.scoring.head import token_scores
from uedpo.types import PairBatch, TokenScores


def score(model: Any, batch: PairBatch, pixel_values: Tensor | None = None) -> TokenScores:
    """Score every response token of `batch`.

    Args:
        model: an image-text-to-text model, or a PEFT model around one.
        batch: B pairs; rows of its texts are response-major: B chosen, B rejected, further ones.
        pixel_values: [N, ...] in the place of the batch's own (the corrupted images).
    """
    base = unwrap(model)
    shown = [entry for row in batch.images for entry in row]
    images = image_inputs(base, batch, batch.pixel_values if pixel_values is None else pixel_values, shown)
    states = base.model(**batch.inputs, **images, use_cache=False).last_hidden_state
    rows = torch.arange(len(states), device=states.device)[:, None].expand_as(batch.mask)[batch.mask]
    return token_scores(base, states[rows, batch.positions[batch.mask]], batch)


def unwrap(model: Any) -> Any:
    """The image-text-to-text model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def image_inputs(
    base: Any, batch: PairBatch, pixels: Tensor | None, shown: Sequence[int]
) -> dict[str, Tensor]:
    """Pixels and their side tensors as the model takes them, of the entries `shown`, in that order."""
    if pixels is None or not shown:
        return {}
    index = torch.tensor(shown, device=pixels.device)
    # base.dtype is that of the first floating-point weight: quantised ones are bytes
    pixels = pixels[index].to(base.dtype)
    sides = {name: value[index] for name, value in batch.image_inputs.items()}
    lengths = None if batch.pixel_lengths is None else [batch.pixel_lengths[n] for n in shown]
    return family_of(base.config).model_inputs(pixels, lengths, sides)
