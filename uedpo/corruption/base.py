"""What all corruptions have in common: the interface, the random numbers, the check against a model.

Every corruption is a function of (seed, sample id, step) only: never of rank, batch order, or how
often a run was resumed. Policy and reference of a step therefore see the same v'.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from uedpo.errors import InputError
from uedpo.model.families import Family
from uedpo.types import PairBatch


def generator_of(sample_id: str, seed: int, step: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{step}/{sample_id}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def corrupt_batch(corruption: Corruption, batch: PairBatch, step: int) -> Tensor | None:
    """v' of a batch, [N, ...] in the layout of its pixels; None where it has no image."""
    if batch.pixel_values is None:
        return None
    check_normalisation(corruption, batch)
    more = {"normalisation": batch.normalisation} if corruption.before_normalising else {}
    return corruption(
        batch.pixel_values,
        batch.image_ids,
        step,
        batch.pixel_lengths,
        batch.patch_shape,
        batch.host.image_inputs.get("pixel_attention_mask"),
        **more,
    )


def check_normalisation(corruption: Corruption, batch: PairBatch) -> None:
    """Refuse noise before normalisation where nobody says how pixels were normalised, or how they lie.

    Raises:
        InputError: with the remedy.
    """
    pixels = batch.pixel_values
    if not corruption.before_normalising or pixels is None:
        return
    if batch.normalisation is None or (pixels.dim() < 4 and batch.patch_shape is None):
        raise InputError(
            "corruption.space=pixel: the processor does not say how it normalises each channel, and how they "
            "lie; use space=normalised"
        )


def check_corruption(corruption: Corruption, model_type: str, family: Family) -> None:
    """Refuse a corruption that a model's layout of images cannot take, before training.

    Raises:
        InputError: with the reason and the remedy.
    """
    name = type(corruption).__name__
    if corruption.spatial and family.tiles:
        raise InputError(
            f"corruption={name}: model type {model_type!r} cuts images into tiles or patches, on which it "
            "would act one by one; use corruption=diffusion"
        )
    if corruption.blanks and family.zeros_are_padding:
        raise InputError(
            f"corruption={name}: model type {model_type!r} drops pictures of zeros as padding; "
            "use corruption=diffusion"
        )


class Corruption:
    """Base of all corruptions: called with pixels, sample ids and step, it corrupts each image.

    Args:
        seed: with the sample id and the step it decides everything random.
    """

    spatial = True  # needs images [C, H, W]
    blanks = False  # makes pictures of zeros
    before_normalising = False  # is called with the `normalisation` of the batch too

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(
        self,
        pixel_values: Tensor,
        sample_ids: Sequence[str],
        step: int,
        lengths: Sequence[int] | None = None,
        patch_shape: tuple[int, int, int, int] | None = None,
        pixel_mask: Tensor | None = None,
    ) -> Tensor:
        """Preprocessed pixels [B, ...] -> corrupted ones, same shape, dtype and device.

        Args:
            sample_ids: B ids.
            step: optimiser step.
            lengths: how much of the first axis of each image is no padding; None for all of it.
            patch_shape, pixel_mask: see `corrupt`.

        Raises:
            ValueError: not one id per image, or a layout this corruption cannot handle.
        """
        check_ids(pixel_values, sample_ids)
        if self.spatial and pixel_values.dim() != 4:
            raise ValueError(
                f"pixels {tuple(pixel_values.shape)}: this corruption needs [B, C, H, W]; "
                "use corruption=diffusion or blank"
            )
        images = zip(pixel_values, sample_ids, strict=True)
        return torch.stack([self.one(image, generator_of(i, self.seed, step)) for image, i in images])

    def one(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """One corrupted image, same shape and dtype."""
        raise NotImplementedError


def check_ids(pixel_values: Tensor, sample_ids: Sequence[str]) -> None:
    if len(sample_ids) != len(pixel_values):
        raise ValueError(f"{len(sample_ids)} sample ids for {len(pixel_values)} images")
