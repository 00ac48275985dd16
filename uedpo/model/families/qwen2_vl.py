"""Qwen2-VL: patches of all images in one row, a grid for each image, several patches a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from uedpo.model.families.family import Family


class Qwen2VL(Family):
    """`Qwen2VLForConditionalGeneration`."""

    projectors = ("visual.merger",)
    shares_prefixes = True
    tiles = True

    def image_tokens(self, config: Any, shape: Sequence[int], sides: Mapping[str, Tensor]) -> int | None:
        patches_per_token: int = config.vision_config.spatial_merge_size**2
        return int(sides["image_grid_thw"].prod()) // patches_per_token
