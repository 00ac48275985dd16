"""From preference pairs to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from uedpo.data.prompts import pair_prompt
from uedpo.data.texts import token_limit
from uedpo.data.weights import sample_weights, token_weights
from uedpo.types import InputError, PairBatch, PreferencePair

# what processors say of an image, and of each token, beside ids, mask and pixels
SIDES = ("image_grid_thw", "image_sizes")
TOKEN_TYPES = "mm_token_type_ids"


class EncodedPrompt(NamedTuple):
    """What the processor makes of a prompt and its images.

    Attributes:
        ids: image placeholders expanded.
        types: [len(ids)], or None where the processor says none.
        images: pixels and side tensors of each image.
    """

    ids: list[int]
    types: Tensor | None
    images: list[dict[str, Tensor]]


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
        chosen = [self._prompt(pair, pair.images) for pair in pairs]
        rejected = [
            prompt if pair.rejected_image is None else self._prompt(pair, pair.rejected_images)
            for pair, prompt in zip(pairs, chosen, strict=True)
        ]
        answers = list(zip(*(self._answers(pair) for pair in pairs), strict=True))
        prompts = [*chosen, *rejected, *chosen * (len(answers) - 2)]
        texts = [text for side in answers for text in side]
        sequences = [(p.ids, self._response(text)) for p, text in zip(prompts, texts, strict=True)]
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
        inputs = {"input_ids": input_ids, "attention_mask": attention}
        if any(prompt.types is not None for prompt in prompts):
            inputs[TOKEN_TYPES] = torch.zeros_like(input_ids)
            for i, prompt in enumerate(prompts):
                if prompt.types is not None:
                    inputs[TOKEN_TYPES][i, : len(prompt.types)] = prompt.types
        images, shown = _numbered(prompts)
        pixels, lengths = self._pixels(images)
        return PairBatch(
            ids=[pair.id for pair in pairs],
            inputs=inputs,
            pixel_values=pixels,
            has_image=torch.tensor([bool(prompt.images) for prompt in chosen]),
            tokens=tokens,
            mask=mask,
            positions=positions,
            similarity=self._similarity(pairs),
            image_inputs={n: self._stacked(images, n) for n in SIDES if any(n in made for made in images)},
            pixel_lengths=lengths,
            images=shown,
            token_weights=token_weights(self.processor.tokenizer, pairs, mask, lead=" "),
            sample_weights=sample_weights(pairs),
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
        """Pixels [N, ...] padded along the first axis of an image, and its lengths where they differ."""
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

    def _prompt(self, pair: PreferencePair, images: tuple[Any, ...]) -> EncodedPrompt:
        text = pair_prompt(self.processor, pair)
        if not images:
            ids = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            return EncodedPrompt(ids, None, [])
        try:
            made = self.processor(images=list(images), text=[text], return_tensors="pt")
        except ValueError as error:  # transformers', of a prompt that places another number of images
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"row {pair.id}: the processor refuses its prompt and images ({reason}); use the processor "
                "and chat template that belong to the model, or leave the row out"
            ) from None
        extra = set(made) - {"input_ids", "attention_mask", "pixel_values", TOKEN_TYPES, *SIDES}
        if extra:
            raise InputError(f"the processor makes {sorted(extra)}, which this collator does not carry yet")
        types = made[TOKEN_TYPES][0] if TOKEN_TYPES in made else None
        return EncodedPrompt(made["input_ids"][0].tolist(), types, _apart(pair, made, len(images)))

    def _response(self, text: str) -> list[int]:
        # the templates put a space between "ASSISTANT:" and the answer
        ids = self.processor.tokenizer(" " + text.strip(), add_special_tokens=False)["input_ids"]
        return list([*ids, self.eos][: self.max_response_tokens])


def _apart(pair: PreferencePair, made: Any, num: int) -> list[dict[str, Tensor]]:
    """Pixels and side tensors of each of the `num` images of a row."""
    pixels = made["pixel_values"]
    if SIDES[0] in made:  # with a grid, all patches of all images come in one row
        parts = list(torch.split(pixels, made[SIDES[0]].prod(-1).tolist()))
    elif len(pixels) == num:
        parts = list(pixels)
    else:
        raise InputError(
            f"row {pair.id}: the processor does not tell its {num} images apart; give this model one a row"
        )
    sides = [name for name in SIDES if name in made]
    return [{"pixel_values": part, **{n: made[n][i] for n in sides}} for i, part in enumerate(parts)]


def _numbered(prompts: list[EncodedPrompt]) -> tuple[list[dict[str, Tensor]], list[tuple[int, ...]]]:
    """(entries for all images, of each prompt the numbers of its own); a text-only prompt has an empty entry,
    which it does not show, and a prompt that stands there twice has its entries once."""
    images: list[dict[str, Tensor]] = []
    known: dict[int, tuple[int, ...]] = {}
    for prompt in prompts:
        if id(prompt) not in known:
            known[id(prompt)] = tuple(range(len(images), len(images) + len(prompt.images)))
            images += prompt.images or [{}]
    return images, [known[id(prompt)] for prompt in prompts]
