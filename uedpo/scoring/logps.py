"""Plain scoring: one padded forward pass over all 2B responses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from uedpo.types import PairBatch, TokenScores


def score(model: Any, batch: PairBatch, pixel_values: Tensor | None = None) -> TokenScores:
    """Score every response token of `batch`.

    The language head runs on response positions only, and what is kept is [2B, T], not [2B, T, V].

    Args:
        model: an image-text-to-text model, or a PEFT model around one.
        batch: B pairs.
        pixel_values: [B, ...] in the place of the batch's own (the corrupted images).
    """
    pixels = batch.pixel_values if pixel_values is None else pixel_values
    if pixels is not None:
        # text-only rows have no placeholder in their ids, so they bring no pixels either
        pixels = torch.cat([pixels[batch.has_image]] * 2)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    inputs = dict(batch.inputs)
    if pixels is not None and len(pixels):
        inputs["pixel_values"] = pixels.to(next(base.parameters()).dtype)
    hidden = base.model(**inputs, use_cache=False).last_hidden_state
    index = batch.positions[..., None].expand(-1, -1, hidden.shape[-1])
    hidden = hidden.gather(1, index)
    head = base.get_output_embeddings()
    bias = getattr(head, "bias", None)
    with torch.autocast(hidden.device.type, enabled=False):  # bf16 logits would tie where fp32 ones do not
        flat = linear(hidden[batch.mask].float(), head.weight.float(), None if bias is None else bias.float())
    tokens = batch.tokens[batch.mask]
    chosen = flat.gather(-1, tokens[:, None]).squeeze(-1)
    logps = chosen - flat.logsumexp(-1)
    detached = flat.detach()
    best = detached.max(-1, keepdim=True).values
    argmax = (detached == best).to(torch.int8).argmax(-1)  # lowest id on ties
    log_probabilities = detached.log_softmax(-1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
    return TokenScores(
        logps=_spread(logps, batch.mask),
        target_logits=_spread(chosen.detach(), batch.mask),
        argmax=_spread(argmax, batch.mask),
        entropy=_spread(entropy, batch.mask),
        hidden=hidden.detach(),
        head=(head.weight.detach(), None if bias is None else bias.detach()),
    )


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """[N] -> [2B, T], 0 where masked."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
