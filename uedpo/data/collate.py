"""From preference pairs to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from uedpo.data.texts import token_limit
from uedpo.model.chat import chat_prompt
from uedpo.types import InputError, PairBatch, PreferencePair

# what processors say of an image, and of each token, beside ids, mask and pixels
SIDES = ("image_grid_thw", "image_sizes")
TOKEN_TYPES = "mm_token_type_ids"


class PairCollator:
    """Make a `PairBatch`: chosen rows first, right-padded, image placeholders expanded.

    Prompt and response are tokenised apart, so that the boundary never depends on a merge; only the
    tail of a response is ever cut, and its end token goes with it.

    Args:
        processor: of the model.
        max_response_tokens: longest response kept, end token included.
        negatives: carry the rows' further negatives too.
    """

    def __init__(self, processor: Any, max_response_tokens: int, negatives: bool = False) -> None:
        self.processor = processor
        self.negatives = negatives
        self.max_response_tokens = max_response_tokens
        self.eos = int(processor.tokenizer.eos_token_id)
        pad = processor.tokenizer.pad_token_id
        self.pad = self.eos if pad is None else int(pad)
        self.max_length = token_limit(processor.tokenizer)

    def __call__(self, pairs: Sequence[PreferencePair]) -> PairBatch:
        encoded = [self._prompt(pair) for pair in pairs]
        answers = [self._answers(pair) for pair in pairs]
        sequences = [
            (prompt, self._response(text))
            for side in zip(*answers, strict=True)
            for text, (prompt, _) in zip(side, encoded, strict=True)
        ]
        longest = max(len(p) + len(r) for p, r in sequences)
        if longest > self.max_length:
            worst = max(range(len(sequences)), key=lambda i: sum(map(len, sequences[i]))) % len(pairs)
            raise InputError(
                f"row {pairs[worst].id}: needs {longest} tokens with its image, the model takes "
                f"{self.max_length}; lower data.max_response_tokens, or leave the row out"
            )
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
        images = [made for _, made in encoded]
        pixels, lengths = self._pixels(images)
        inputs = {"input_ids": input_ids, "attention_mask": attention}
        if any(TOKEN_TYPES in made for made in images):
            inputs[TOKEN_TYPES] = torch.zeros_like(input_ids)
            for i, made in enumerate(images * (len(sequences) // len(pairs))):
                if TOKEN_TYPES in made:
                    inputs[TOKEN_TYPES][i, : len(made[TOKEN_TYPES])] = made[TOKEN_TYPES]
        return PairBatch(
            ids=[pair.id for pair in pairs],
            inputs=inputs,
            pixel_values=pixels,
            has_image=torch.tensor(["pixel_values" in made for made in images]),
            tokens=tokens,
            mask=mask,
            positions=positions,
            similarity=self._similarity(pairs),
            image_inputs={n: self._stacked(images, n) for n in SIDES if any(n in made for made in images)},
            pixel_lengths=lengths,
        )

    def _answers(self, pair: PreferencePair) -> tuple[str, ...]:
        if not self.negatives:
            return pair.chosen, pair.rejected
        if not pair.negatives:
            raise InputError(
                f"row {pair.id}: has no further negatives; set data.negatives=false, or add them"
            )
        return pair.chosen, pair.rejected, *pair.negatives

    def _similarity(self, pairs: Sequence[PreferencePair]) -> Tensor | None:
        scores = [pair.similarity for pair in pairs if pair.similarity is not None]
        if len(scores) < len(pairs):
            return None
        return torch.tensor(scores).T.flatten()

    def _pixels(self, images: list[dict[str, Tensor]]) -> tuple[Tensor | None, list[int] | None]:
        """Pixels [B, ...] padded along the first axis of an image, and its lengths where they differ."""
        if not any(images):
            return None, None
        if not any(name in made for made in images for name in SIDES):
            return self._stacked(images, "pixel_values"), None
        rows = [made["pixel_values"] for made in images if made]
        blank = rows[0][:0]
        rows = [made.get("pixel_values", blank) for made in images]
        return pad_sequence(rows, batch_first=True), [len(row) for row in rows]

    @staticmethod
    def _stacked(images: list[dict[str, Tensor]], name: str) -> Tensor:
        blank = torch.zeros_like(next(made[name] for made in images if made))
        return torch.stack([made.get(name, blank) for made in images])

    def _prompt(self, pair: PreferencePair) -> tuple[list[int], dict[str, Tensor]]:
        """Ids of the prompt, and what the processor says of the image ({} for text only)."""
        text = chat_prompt(self.processor, pair.prompt, with_image=pair.image is not None)
        if pair.image is None:
            return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"], {}
        made = self.processor(images=[pair.image], text=[text], return_tensors="pt")
        extra = set(made) - {"input_ids", "attention_mask", "pixel_values", TOKEN_TYPES, *SIDES}
        if extra:
            raise InputError(f"the processor makes {sorted(extra)}, which this collator does not carry yet")
        image = {name: made[name][0] for name in (TOKEN_TYPES, *SIDES) if name in made}
        # with a grid, all patches of all images come in one row
        image["pixel_values"] = made["pixel_values"] if SIDES[0] in made else made["pixel_values"][0]
        return made["input_ids"][0].tolist(), image

    def _response(self, text: str) -> list[int]:
        # the templates put a space between "ASSISTANT:" and the answer
        ids = self.processor.tokenizer(" " + text.strip(), add_special_tokens=False)["input_ids"]
        return list([*ids, self.eos][: self.max_response_tokens])
