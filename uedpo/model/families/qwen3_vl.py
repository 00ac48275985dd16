"""Qwen3-VL: laid out as Qwen2-VL; features of earlier tower layers are fed to the first decoder layers."""

from __future__ import annotations

from typing import Any

from uedpo.model.families.qwen2_vl import Qwen2VL


class Qwen3VL(Qwen2VL):
    """`Qwen3VLForConditionalGeneration`."""

    uncached = "feeds features of earlier tower layers as well, which are not kept"

    def projector_paths(self, base: Any) -> list[str]:
        mergers = range(len(base.model.visual.deepstack_merger_list))
        return ["model.visual.merger", *(f"model.visual.deepstack_merger_list.{i}" for i in mergers)]
