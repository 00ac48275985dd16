"""Image placeholders in the ids, counted against what the pixels give, before a forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from uedpo.errors import InputError
from uedpo.model.families import Family, family_of
from uedpo.model.families.family import TILE_SIDES
from uedpo.types import PairBatch

# what an image looks like to the model -> placeholders it needs
Measured = dict[Any, int]


def check_placeholders(
    batch: PairBatch, config: Any, base: Any = None, measured: Measured | None = None
) -> None:
    """Every response's prompt has as many image placeholders as its images give features.

    Args:
        config: of the whole model.
        base: the model, which is asked where its family has no formula; None leaves such rows unchecked.
        measured: what was asked before, which this adds to.

    Raises:
        InputError: naming the first row that has not.
    """
    token = getattr(config, "image_token_id", None)
    if token is None:
        return
    counts = (batch.host.inputs["input_ids"] == token).sum(1).tolist()
    measured = {} if measured is None else measured
    for row, entries in enumerate(batch.images):
        numbers = [_wanted(batch, entry, config, base, measured) for entry in entries]
        known = [n for n in numbers if n is not None]
        if len(known) == len(entries) and sum(known) != counts[row]:
            raise InputError(
                f"row {batch.ids[row % len(batch.ids)]}: {counts[row]} image placeholders in the prompt, its "
                f"{'image gives' if len(entries) == 1 else f'{len(entries)} images give'} {sum(known)}; "
                "use the processor that belongs to the model, with its own image sizes"
            )


def image_of(batch: PairBatch, entry: int) -> tuple[Tensor, dict[str, Tensor]]:
    """(pixels, side tensors) of one image, without padding."""
    assert batch.pixel_values is not None
    pixels = batch.pixel_values[entry]
    sides = {name: value[entry] for name, value in batch.image_inputs.items()}
    if batch.pixel_lengths is None:
        return pixels, sides
    n = batch.pixel_lengths[entry]
    return pixels[:n], {name: x[:n] if name in TILE_SIDES else x for name, x in sides.items()}


def _wanted(batch: PairBatch, entry: int, config: Any, base: Any, measured: Measured) -> int | None:
    family = family_of(config)
    pixels, sides = image_of(batch.host, entry)
    known = family.image_tokens(config, pixels.shape, sides)
    if known is not None or base is None or not hasattr(base.model, "get_image_features"):
        return known
    small = {name: x.tolist() for name, x in sides.items() if name not in TILE_SIDES}
    key = (tuple(pixels.shape), str(small))
    if key not in measured:
        length = None if batch.pixel_lengths is None else [len(pixels)]
        pixels, sides = image_of(batch, entry)
        measured[key] = num_features(base, family, pixels, length, sides)
    return measured[key]


@torch.no_grad()
def num_features(
    base: Any, family: Family, pixels: Tensor, length: list[int] | None, sides: dict[str, Tensor]
) -> int:
    """How many features the model makes of one image, by running its tower."""
    alone = {name: x[None] for name, x in sides.items()}
    inputs = family.model_inputs(pixels[None].to(base.dtype), length, alone)
    features = base.model.get_image_features(**inputs, return_dict=True).pooler_output
    return sum(x.numel() // x.shape[-1] for x in features)
