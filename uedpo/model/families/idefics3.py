"""Idefics3: [images, tiles, ...] with a mask of pixels; tiles of zeros count as padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from uedpo.model.families.family import Family


class Idefics3(Family):
    """`Idefics3ForConditionalGeneration`."""

    languages = ("text_model",)
    projectors = ("connector",)
    shares_prefixes = True
    tiles = True
    zeros_are_padding = True

    def image_tokens(self, config: Any, shape: Sequence[int], sides: Mapping[str, Tensor]) -> int | None:
        side = config.vision_config.image_size // config.vision_config.patch_size
        return shape[0] * int(side * side // config.scale_factor**2)
