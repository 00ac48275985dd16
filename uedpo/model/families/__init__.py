"""What each family of models needs known of it: one file a family, `Family` for every other."""

from __future__ import annotations

from typing import Any

from uedpo.model.families.family import Family
from uedpo.model.families.gemma3 import Gemma3
from uedpo.model.families.idefics3 import Idefics3
from uedpo.model.families.internvl import InternVL
from uedpo.model.families.llava import Llava
from uedpo.model.families.llava_next import LlavaNext
from uedpo.model.families.paligemma import PaliGemma
from uedpo.model.families.qwen2_5_vl import Qwen2_5VL
from uedpo.model.families.qwen2_vl import Qwen2VL
from uedpo.model.families.qwen3_vl import Qwen3VL
from uedpo.model.families.smolvlm import SmolVLM

__all__ = ["Family", "family_of"]


def family_of(config: Any) -> Family:
    """The family of a transformers config; `Family`, which finds things out from the model, where it has
    none of its own."""
    match config.model_type:
        case "llava":
            return Llava()
        case "llava_next":
            return LlavaNext()
        case "qwen2_vl":
            return Qwen2VL()
        case "qwen2_5_vl":
            return Qwen2_5VL()
        case "qwen3_vl":
            return Qwen3VL()
        case "internvl":
            return InternVL()
        case "idefics3":
            return Idefics3()
        case "smolvlm":
            return SmolVLM()
        case "gemma3":
            return Gemma3()
        case "paligemma":
            return PaliGemma()
    return Family()
