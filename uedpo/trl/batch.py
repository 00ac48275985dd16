"""A batch of TRL's collator as a `PairBatch`, so that it is scored and corrupted as any other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from uedpo.data.collate import (
    SIDES,
    images_apart,
    normalisation_of,
    patch_shape_of,
    side_input,
    stack_pixels,
)
from uedpo.errors import InputError
from uedpo.types import PairBatch

NOT_THE_MODELS = ("completion_mask", "ref_chosen_logps", "ref_rejected_logps", "pixel_values", *SIDES)


def pair_batch(inputs: Mapping[str, Tensor], processor: Any) -> PairBatch:
    """`inputs` of TRL's vision collator: B chosen rows, then B rejected ones, an image each.

    Noise of an image is drawn by a digest of its pixels, because TRL's rows have no names.

    Args:
        inputs: input_ids, attention_mask and completion_mask [2B, L], padded on the right, and what the
            processor made of the images.
        processor: the model's.

    Raises:
        InputError: rows of several images, or none beside rows with one.
    """
    completion = inputs["completion_mask"].bool()
    num_pairs = len(completion) // 2
    lengths = completion.sum(1)
    steps = torch.arange(int(lengths.max()), device=completion.device)
    mask = steps < lengths[:, None]
    at = (completion.int().argmax(1)[:, None] + steps).clamp(max=completion.shape[1] - 1)
    tokens = torch.where(mask, inputs["input_ids"].gather(1, at), 0)
    images = _images(inputs, num_pairs) if "pixel_values" in inputs else []
    pixels, pixel_lengths = stack_pixels(list(images), [f"of the batch, {i}" for i in range(len(images))])
    sides = [image.sides for image in images]
    return PairBatch(
        ids=[_digest(image.pixels) for image in images] or [str(i) for i in range(num_pairs)],
        inputs={name: value for name, value in inputs.items() if name not in NOT_THE_MODELS},
        pixel_values=pixels,
        has_image=torch.full((num_pairs,), bool(images), device=completion.device),
        tokens=tokens,
        mask=mask,
        positions=torch.where(mask, at - 1, 0),
        image_inputs={n: side_input(list(images), n) for n in SIDES if any(n in s for s in sides)},
        pixel_lengths=pixel_lengths,
        patch_shape=patch_shape_of(processor, pixels, sides),
        normalisation=normalisation_of(processor),
    )


def of_sequence(values: Tensor, batch: PairBatch, length: int) -> Tensor:
    """Weights of response tokens [2B, T] at their places in [2B, length - 1] predictions; 1 elsewhere."""
    spread = torch.ones(len(values), length - 1, dtype=values.dtype, device=values.device)
    places = torch.where(batch.mask, batch.positions, length - 1)  # a column that is cut off again
    padded = torch.cat([spread, spread[:, :1]], dim=1).scatter(1, places, values)
    return padded[:, :-1]


def _images(inputs: Mapping[str, Tensor], num_pairs: int) -> list[Any]:
    """One for each pair; TRL repeats them for the rejected rows."""
    grids = inputs.get("image_grid_thw")
    found = len(inputs["pixel_values"] if grids is None else grids)
    if found != 2 * num_pairs:
        raise InputError(
            f"a batch of {num_pairs} pairs shows {found // 2} images: UEDPOTrainer takes one image a row; "
            "rows with several, or none, train with python -m uedpo.run data=files"
        )
    made = {name: inputs[name] for name in ("pixel_values", *SIDES) if name in inputs}
    return images_apart("of the batch", made, found)[:num_pairs]


def _digest(pixels: Tensor) -> str:
    data = pixels.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.blake2b(data, digest_size=12).hexdigest()
