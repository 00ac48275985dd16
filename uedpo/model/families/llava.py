"""LLaVA-1.5: one picture, one feature a patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from uedpo.model.families.family import Family


class Llava(Family):
    """`LlavaForConditionalGeneration`."""

    projectors = ("multi_modal_projector",)
    shares_prefixes = True

    def image_tokens(self, config: Any, shape: Sequence[int], sides: Mapping[str, Tensor]) -> int | None:
        if config.vision_config.model_type != "clip_vision_model":
            return None
        patch: int = config.vision_config.patch_size
        class_token: bool = config.vision_feature_select_strategy == "full"
        return (shape[-2] // patch) * (shape[-1] // patch) + class_token
