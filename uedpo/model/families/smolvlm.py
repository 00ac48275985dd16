"""SmolVLM and SmolVLM2: laid out as Idefics3."""

from __future__ import annotations

from uedpo.model.families.idefics3 import Idefics3


class SmolVLM(Idefics3):
    """`SmolVLMForConditionalGeneration`."""
