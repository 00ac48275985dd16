"""PaliGemma, which is refused."""

from __future__ import annotations

from uedpo.model.families.family import Family


class PaliGemma(Family):
    """`PaliGemmaForConditionalGeneration`."""

    refused = "it reads the prompt in both directions and was not made for chat; take gemma3"
