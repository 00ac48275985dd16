"""LLaVA-NeXT: the whole picture and a grid of tiles, whose features are cut to the image, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from uedpo.model.families.family import Family


class LlavaNext(Family):
    """`LlavaNextForConditionalGeneration`; `image_newline`, a parameter of its own, stays frozen."""

    projectors = ("multi_modal_projector",)
    shares_prefixes = True
    tiles = True

    def image_tokens(self, config: Any, shape: Sequence[int], sides: Mapping[str, Tensor]) -> int | None:
        # imported here: reading a configuration must not pay for a modelling file
        from transformers.models.llava_next import modeling_llava_next

        layout: Any = modeling_llava_next

        vision = config.vision_config
        if vision.model_type != "clip_vision_model" or config.vision_feature_select_strategy != "default":
            return None
        side = vision.image_size // vision.patch_size
        size = sides["image_sizes"].tolist()
        rows, columns = layout.get_anyres_image_grid_shape(
            size, config.image_grid_pinpoints, vision.image_size
        )
        # a tensor without data: only its shape is cut
        _, height, width = layout.unpad_image(
            torch.empty(1, rows * side, columns * side, device="meta"), size
        ).shape
        return int(side * side + height * (width + 1))
