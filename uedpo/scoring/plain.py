"""Plain scoring: one padded forward pass over all responses, each with its prompt and image."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from uedpo.model.inputs import image_inputs, unwrap
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
    return token_scores(base, states.flatten(0, 1).index_select(0, batch.layout.predictors), batch)
