"""Gemma 3: one picture of a fixed number of tokens, which see one another in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from uedpo.errors import InputError
from uedpo.model.families.family import Family


class Gemma3(Family):
    """`Gemma3ForConditionalGeneration`. Plain scoring only: image tokens attend in both directions, and most
    layers within a window."""

    projectors = ("multi_modal_projector",)

    def image_tokens(self, config: Any, shape: Sequence[int], sides: Mapping[str, Tensor]) -> int | None:
        pictures = 1 if len(shape) == 3 else shape[0]
        return pictures * int(config.mm_tokens_per_image)

    def check_model(self, base: Any) -> None:
        if base.config.get_text_config().final_logit_softcapping is not None:
            raise InputError(
                "model type 'gemma3': final_logit_softcapping is set, which scoring does not apply; "
                "take a model without"
            )
