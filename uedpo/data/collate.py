"""From preference pairs to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from uedpo.data.texts import token_limit
from uedpo.model.chat import answer_frame, chat_prompt, no_second_start
from uedpo.model.families.family import TILE_SIDES
from uedpo.types import InputError, PairBatch, PreferencePair

# what processors say of an image, of each tile of it, and of each token, beside ids, mask and pixels
SIDES = ("image_grid_thw", "image_sizes", "batch_num_images", *TILE_SIDES)
TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")


class EncodedPrompt(NamedTuple):
    """What the processor makes of one prompt and its image.

    Attributes:
        ids: of the prompt, image placeholders expanded.
        types: [len(ids)] each, see TOKEN_TYPES.
        pixels: [tiles or patches, ...], or None for text only.
        sides: see SIDES; [tiles, ...] for those of tiles.
        whole: whether the image is always one picture.
    """

    ids: list[int]
    types: dict[str, Tensor]
    pixels: Tensor | None
    sides: dict[str, Tensor]
    whole: bool


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
        self.lead, self.end = answer_frame(processor)
        pad = processor.tokenizer.pad_token_id
        self.pad = self.end if pad is None else int(pad)
        self.max_length = token_limit(processor.tokenizer)

    def __call__(self, pairs: Sequence[PreferencePair]) -> PairBatch:
        encoded = [self._prompt(pair) for pair in pairs]
        answers = [self._answers(pair) for pair in pairs]
        sequences = [
            (prompt.ids, self._response(text))
            for side in zip(*answers, strict=True)
            for text, prompt in zip(side, encoded, strict=True)
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
        inputs = {"input_ids": input_ids, "attention_mask": attention}
        for name in TOKEN_TYPES:
            if any(name in prompt.types for prompt in encoded):
                inputs[name] = torch.zeros_like(input_ids)
                for i, prompt in enumerate(encoded * (rows // len(pairs))):
                    if name in prompt.types:
                        inputs[name][i, : len(prompt.ids)] = prompt.types[name]
        pixels, lengths = _pixels(pairs, encoded)
        return PairBatch(
            ids=[pair.id for pair in pairs],
            inputs=inputs,
            pixel_values=pixels,
            has_image=torch.tensor([prompt.pixels is not None for prompt in encoded]),
            tokens=tokens,
            mask=mask,
            positions=positions,
            similarity=self._similarity(pairs),
            image_inputs={n: _side(encoded, n) for n in SIDES if any(n in p.sides for p in encoded)},
            pixel_lengths=lengths,
            patch_shape=_patch_shape(self.processor, pixels, encoded),
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

    def _prompt(self, pair: PreferencePair) -> EncodedPrompt:
        text = chat_prompt(self.processor, pair.prompt, with_image=pair.image is not None)
        images = {} if pair.image is None else {"images": [pair.image]}
        start = no_second_start(self.processor, text)
        made = self.processor(**images, text=[text], return_tensors="pt", **start)
        extra = set(made) - {"input_ids", "attention_mask", "pixel_values", *TOKEN_TYPES, *SIDES}
        if extra:
            raise InputError(f"the processor makes {sorted(extra)}, which this collator does not carry yet")
        ids = made["input_ids"][0].tolist()
        types = {name: made[name][0] for name in TOKEN_TYPES if name in made}
        if "pixel_values" not in made:
            return EncodedPrompt(ids, types, None, {}, True)
        pixels = made["pixel_values"]
        stacked = pixels.dim() == 5  # [images, tiles, channels, height, width]
        return EncodedPrompt(
            ids,
            types,
            pixels[0] if stacked else pixels,
            # with one image, the first entry of what is said of images, or of the tiles of images
            {name: made[name][0] for name in SIDES if name in made},
            not stacked and "image_grid_thw" not in made and len(pixels) == 1,
        )

    def _response(self, text: str) -> list[int]:
        ids = self.processor.tokenizer(self.lead + text.strip(), add_special_tokens=False)["input_ids"]
        return list([*ids, self.end][: self.max_response_tokens])


def _pixels(
    pairs: Sequence[PreferencePair], encoded: list[EncodedPrompt]
) -> tuple[Tensor | None, list[int] | None]:
    """Pixels [B, ...] padded along the first axis of an image, and its lengths unless all are one picture."""
    rows = [prompt.pixels for prompt in encoded if prompt.pixels is not None]
    if not rows:
        return None, None
    for pair, prompt in zip(pairs, encoded, strict=True):
        if prompt.pixels is not None and prompt.pixels.shape[1:] != rows[0].shape[1:]:
            raise InputError(
                f"row {pair.id}: its pixels are {list(prompt.pixels.shape[1:])}, others of its batch "
                f"{list(rows[0].shape[1:])}; this model takes images of one size a batch: set "
                "data.batch_size=1 and raise trainer.accumulate_grad_batches"
            )
    blank = rows[0][:0]
    if all(prompt.whole for prompt in encoded):
        nothing = torch.zeros_like(rows[0][0])
        return torch.stack([nothing if p.pixels is None else p.pixels[0] for p in encoded]), None
    rows = [blank if prompt.pixels is None else prompt.pixels for prompt in encoded]
    return pad_sequence(rows, batch_first=True), [len(row) for row in rows]


def _side(encoded: list[EncodedPrompt], name: str) -> Tensor:
    """[B, ...], 0 where a row has no image, and where it has fewer tiles than others."""
    like = next(prompt.sides[name] for prompt in encoded if name in prompt.sides)
    if name in TILE_SIDES:
        return pad_sequence([p.sides.get(name, like[:0]) for p in encoded], batch_first=True)
    return torch.stack([p.sides.get(name, torch.zeros_like(like)) for p in encoded])


def _patch_shape(
    processor: Any, pixels: Tensor | None, encoded: list[EncodedPrompt]
) -> tuple[int, int, int, int] | None:
    """See `PairBatch`; only processors that make a grid of patches repeat the frame."""
    if pixels is None or not any("image_grid_thw" in prompt.sides for prompt in encoded):
        return None
    options = getattr(processor, "image_processor", None)
    side, copies = getattr(options, "patch_size", None), getattr(options, "temporal_patch_size", None)
    if side is None or copies is None:
        return None
    return pixels.shape[-1] // (copies * side * side), copies, side, side
