"""InternVL (the classes of transformers): tiles of all images in one row, as many tokens from each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from uedpo.model.families.family import Family


class InternVL(Family):
    """`InternVLForConditionalGeneration`."""

    projectors = ("multi_modal_projector",)
    shares_prefixes = True
    tiles = True
    uncached = "takes the features of all tiles as one tensor, which is not kept by image"

    def image_tokens(self, config: Any, shape: Sequence[int], sides: Mapping[str, Tensor]) -> int | None:
        tiles = 1 if len(shape) == 3 else shape[0]
        height, width = (
            int(side // patch * config.downsample_ratio)
            for side, patch in zip(shape[-2:], config.vision_config.patch_size, strict=True)
        )
        return tiles * height * width
