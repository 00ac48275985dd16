"""From preference pairs to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from uedpo.model.chat import chat_prompt
from uedpo.types import InputError, PairBatch, PreferencePair


class PairCollator:
    """Make a `PairBatch`: chosen rows first, right-padded, image placeholders expanded.

    Prompt and response are tokenised apart, so that the boundary never depends on a merge; only the
    tail of a response is ever cut, and its end token goes with it.

    Args:
        processor: of the model.
        max_response_tokens: longest response kept, end token included.
    """

    def __init__(self, processor: Any, max_response_tokens: int) -> None:
        self.processor = processor
        self.max_response_tokens = max_response_tokens
        self.eos = int(processor.tokenizer.eos_token_id)
        pad = processor.tokenizer.pad_token_id
        self.pad = self.eos if pad is None else int(pad)

    def __call__(self, pairs: Sequence[PreferencePair]) -> PairBatch:
        encoded = [self._prompt(pair) for pair in pairs]
        sequences = []
        for side in ("chosen", "rejected"):
            for pair, (prompt, _) in zip(pairs, encoded, strict=True):
                sequences.append((prompt, self._response(getattr(pair, side))))
        longest = max(len(p) + len(r) for p, r in sequences)
        width = max(len(r) for _, r in sequences)
        rows = len(sequences)
        input_ids = torch.full((rows, longest), self.pad)
        attention = torch.zeros(rows, longest, dtype=torch.long)
        tokens = torch.full((rows, width), self.pad)
        mask = torch.zeros(rows, width, dtype=torch.bool)
        positions = torch.zeros(rows, width, dtype=torch.long)
        for i, (prompt, response) in enumerate(sequences):
            total = len(prompt) + len(response)
            input_ids[i, :total] = torch.tensor(prompt + response)
            attention[i, :total] = 1
            tokens[i, : len(response)] = torch.tensor(response)
            mask[i, : len(response)] = True
            positions[i, : len(response)] = torch.arange(len(prompt) - 1, total - 1)
        images = [image for _, image in encoded if image is not None]
        pixels = None
        if images:
            blank = torch.zeros_like(images[0])
            pixels = torch.stack([blank if image is None else image for _, image in encoded])
        return PairBatch(
            ids=[pair.id for pair in pairs],
            inputs={"input_ids": input_ids, "attention_mask": attention},
            pixel_values=pixels,
            has_image=torch.tensor([image is not None for _, image in encoded]),
            tokens=tokens,
            mask=mask,
            positions=positions,
        )

    def _prompt(self, pair: PreferencePair) -> tuple[list[int], torch.Tensor | None]:
        text = chat_prompt(self.processor, pair.prompt, with_image=pair.image is not None)
        if pair.image is None:
            return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"], None
        made = self.processor(images=[pair.image], text=[text], return_tensors="pt")
        extra = set(made) - {"input_ids", "attention_mask", "pixel_values"}
        if extra:
            raise InputError(f"the processor makes {sorted(extra)}, which this collator does not carry yet")
        return made["input_ids"][0].tolist(), made["pixel_values"][0]

    def _response(self, text: str) -> list[int]:
        # the templates put a space between "ASSISTANT:" and the answer
        ids = self.processor.tokenizer(" " + text.strip(), add_special_tokens=False)["input_ids"]
        return list([*ids, self.eos][: self.max_response_tokens])
