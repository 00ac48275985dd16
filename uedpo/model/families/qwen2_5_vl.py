"""Qwen2.5-VL: laid out as Qwen2-VL."""

from __future__ import annotations

from uedpo.model.families.qwen2_vl import Qwen2VL


class Qwen2_5VL(Qwen2VL):
    """`Qwen2_5_VLForConditionalGeneration`."""
