"""From preference pairs to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from uedpo.data.prompts import pair_turns
from uedpo.data.spans import sample_weights, token_weights
from uedpo.data.texts import token_limit
from uedpo.errors import InputError
from uedpo.model.chat import TOKEN_TYPES, AnswerFrame, Rendered, Response
from uedpo.model.families.family import TILE_SIDES
from uedpo.types import Normalisation, PairBatch, PreferencePair

# what processors say of an image and of each tile of it, beside ids, mask and pixels
SIDES = ("image_grid_thw", "image_sizes", "batch_num_images", *TILE_SIDES)


class EncodedImage(NamedTuple):
    """What the processor makes of one image.

    Attributes:
        pixels: [tiles or patches, ...].
        sides: see SIDES; [tiles, ...] for those of tiles.
        whole: whether the image is always one picture.
    """

    pixels: Tensor
    sides: dict[str, Tensor]
    whole: bool


class EncodedPrompt(NamedTuple):
    """What the processor makes of one prompt and its images.

    Attributes:
        ids: of the prompt, image placeholders expanded.
        types: [len(ids)] each, see TOKEN_TYPES.
        images: in the order of their places.
    """

    ids: list[int]
    types: dict[str, Tensor]
    images: list[EncodedImage]


class PairCollator:
    """Make a `PairBatch`: chosen rows first, right-padded, image placeholders expanded.

    A row holds the ids of its whole conversation as the chat template writes it. Its response is what follows
    the context in which `generate` asks; only the tail of a response is ever cut, its end of turn with it.

    Args:
        processor: of the model.
        max_response_tokens: longest response kept, end token included.
        negatives: carry the rows' further negatives too.
    """

    def __init__(self, processor: Any, max_response_tokens: int, negatives: bool = False) -> None:
        self.processor = processor
        self.negatives = negatives
        self.max_response_tokens = max_response_tokens
        self.frame = AnswerFrame(processor)
        pad = processor.tokenizer.pad_token_id
        self.pad = self.frame.end if pad is None else int(pad)
        self.max_length = token_limit(processor.tokenizer)

    def __call__(self, pairs: Sequence[PreferencePair]) -> PairBatch:
        rendered = [self._rendered(pair) for pair in pairs]
        chosen = [self._prompt(pair, t, pair.images) for pair, t in zip(pairs, rendered, strict=True)]
        rejected = [
            prompt if pair.rejected_image is None else self._prompt(pair, t, pair.rejected_images)
            for pair, t, prompt in zip(pairs, rendered, chosen, strict=True)
        ]
        answers = list(zip(*(r.responses for r in rendered), strict=True))
        prompts = [*chosen, *rejected, *chosen * (len(answers) - 2)]
        responses = [response for side in answers for response in side]
        sequences = [
            (p.ids[: len(p.ids) - r.swallowed], *self._cut(r))
            for p, r in zip(prompts, responses, strict=True)
        ]
        longest = self._longest([sum(map(len, sequence)) for sequence in sequences], pairs)
        width = max(len(r) for _, r, _ in sequences)
        rows = len(sequences)
        input_ids = torch.full((rows, longest), self.pad)
        attention = torch.zeros(rows, longest, dtype=torch.long)
        tokens = torch.full((rows, width), self.pad)
        mask = torch.zeros(rows, width, dtype=torch.bool)
        positions = torch.zeros(rows, width, dtype=torch.long)
        for i, (prefix, response, rest) in enumerate(sequences):
            total = len(prefix) + len(response)
            input_ids[i, : total + len(rest)] = torch.tensor(prefix + response + rest)
            attention[i, : total + len(rest)] = 1
            tokens[i, : len(response)] = torch.tensor(response)
            mask[i, : len(response)] = True
            positions[i, : len(response)] = torch.arange(len(prefix) - 1, total - 1)
        inputs = {"input_ids": input_ids, "attention_mask": attention}
        for name in TOKEN_TYPES:
            if any(name in prompt.types for prompt in prompts):
                inputs[name] = torch.zeros_like(input_ids)
                for i, prompt in enumerate(prompts):
                    if name in prompt.types:
                        inputs[name][i, : len(prompt.ids)] = prompt.types[name][: len(prompt.ids)]
        images, shown, rows_of = _numbered(prompts)
        pixels, lengths = stack_pixels(images, [pairs[row % len(pairs)].id for row in rows_of])
        sides = [image.sides for image in images if image is not None]
        return PairBatch(
            ids=[pair.id for pair in pairs],
            inputs=inputs,
            pixel_values=pixels,
            has_image=torch.tensor([bool(prompt.images) for prompt in chosen]),
            tokens=tokens,
            mask=mask,
            positions=positions,
            similarity=self._similarity(pairs),
            image_inputs={n: side_input(images, n) for n in SIDES if any(n in side for side in sides)},
            pixel_lengths=lengths,
            patch_shape=patch_shape_of(self.processor, pixels, sides),
            images=shown,
            normalisation=normalisation_of(self.processor),
            token_weights=token_weights(self.frame, pairs, mask),
            sample_weights=sample_weights(pairs),
        )

    def _longest(self, lengths: Sequence[int], pairs: Sequence[PreferencePair]) -> int:
        """Tokens of the longest sequence.

        Raises:
            InputError: the model takes fewer.
        """
        longest = max(lengths)
        if longest > self.max_length:
            worst = lengths.index(longest) % len(pairs)
            raise InputError(
                f"row {pairs[worst].id}: needs {longest} tokens with its image, the model takes "
                f"{self.max_length}; lower data.max_response_tokens, or leave the row out"
            )
        return longest

    def num_response_tokens(self, pair: PreferencePair) -> int:
        """Tokens of all responses of a row that are kept."""
        return sum(len(self._cut(response)[0]) for response in self._rendered(pair).responses)

    def _cut(self, response: Response) -> tuple[list[int], list[int]]:
        """What is kept of a response, and what follows its end of turn where that is kept."""
        if len(response.ids) > self.max_response_tokens:
            return response.ids[: self.max_response_tokens], []
        return response.ids, response.rest

    def _rendered(self, pair: PreferencePair) -> Rendered:
        try:
            return self.frame.render(pair_turns(pair), self._answers(pair))
        except InputError as error:
            raise InputError(f"row {pair.id}: {error}") from None

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

    def _prompt(self, pair: PreferencePair, rendered: Rendered, images: tuple[Any, ...]) -> EncodedPrompt:
        given = {"images": list(images)} if images else {}
        options = self.frame.options(rendered.probe)
        try:
            encoded = self.processor(**given, text=[rendered.probe], return_tensors="pt", **options)
        except ValueError as error:  # transformers', of a prompt that places another number of images
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"row {pair.id}: the processor refuses its prompt and images ({reason}); use the processor "
                "and chat template that belong to the model, or leave the row out"
            ) from None
        extra = set(encoded) - {"input_ids", "attention_mask", "pixel_values", *TOKEN_TYPES, *SIDES}
        if extra:
            raise InputError(f"the processor makes {sorted(extra)}, which this collator does not carry yet")
        types = {name: encoded[name][0] for name in TOKEN_TYPES if name in encoded}
        apart = images_apart(pair.id, encoded, len(images)) if "pixel_values" in encoded else []
        return EncodedPrompt(self.frame.context(rendered, encoded["input_ids"][0].tolist()), types, apart)


def images_apart(name: str, encoded: Any, num: int) -> list[EncodedImage]:
    """The images of a row, which the processor makes together."""
    pixels = encoded["pixel_values"]
    stacked = pixels.dim() == 5  # [images, tiles, channels, height, width]
    if "image_grid_thw" in encoded:
        parts = list(torch.split(pixels, encoded["image_grid_thw"].prod(-1).tolist()))
    elif num == 1:
        parts = [pixels[0] if stacked else pixels]
    elif len(pixels) == num and "batch_num_images" not in encoded:
        parts = list(pixels) if stacked else list(torch.split(pixels, 1))
    else:
        raise InputError(
            f"row {name}: the processor does not tell its {num} images apart; give this model one a row"
        )
    sides = [name for name in SIDES if name in encoded]
    single = not stacked and "image_grid_thw" not in encoded
    return [
        EncodedImage(part, {name: encoded[name][i] for name in sides}, single and len(part) == 1)
        for i, part in enumerate(parts)
    ]


def _numbered(
    prompts: list[EncodedPrompt],
) -> tuple[list[EncodedImage | None], list[tuple[int, ...]], list[int]]:
    """(entries for all images, of each prompt the numbers of its own, of each entry the row of its prompt); a
    text-only prompt has an empty entry, which it does not show; a prompt that stands there twice has its
    entries once."""
    images: list[EncodedImage | None] = []
    rows: list[int] = []
    known: dict[int, tuple[int, ...]] = {}
    for row, prompt in enumerate(prompts):
        if id(prompt) not in known:
            known[id(prompt)] = tuple(range(len(images), len(images) + len(prompt.images)))
            images += prompt.images or [None]
            rows += [row] * (len(images) - len(rows))
    return images, [known[id(prompt)] for prompt in prompts], rows


def stack_pixels(
    images: list[EncodedImage | None], owners: list[str]
) -> tuple[Tensor | None, list[int] | None]:
    """Pixels [N, ...] padded along the first axis of an image, and its lengths unless all are one picture."""
    there = [image for image in images if image is not None]
    if not there:
        return None, None
    for owner, image in zip(owners, images, strict=True):
        if image is not None and image.pixels.shape[1:] != there[0].pixels.shape[1:]:
            raise InputError(
                f"row {owner}: its pixels are {list(image.pixels.shape[1:])}, others of its batch "
                f"{list(there[0].pixels.shape[1:])}; this model takes images of one size a batch: set "
                "data.batch_size=1 and raise trainer.accumulate_grad_batches"
            )
    blank = there[0].pixels[:0]
    if all(image.whole for image in there):
        nothing = torch.zeros_like(there[0].pixels[0])
        return torch.stack([nothing if image is None else image.pixels[0] for image in images]), None
    rows = [blank if image is None else image.pixels for image in images]
    return pad_sequence(rows, batch_first=True), [len(row) for row in rows]


def side_input(images: list[EncodedImage | None], name: str) -> Tensor:
    """[N, ...], 0 where an entry has no image, and where it has fewer tiles than others."""
    like = next(image.sides[name] for image in images if image is not None and name in image.sides)
    blank = like[:0] if name in TILE_SIDES else torch.zeros_like(like)
    values = [blank if image is None else image.sides.get(name, blank) for image in images]
    return pad_sequence(values, batch_first=True) if name in TILE_SIDES else torch.stack(values)


def patch_shape_of(
    processor: Any, pixels: Tensor | None, sides: Sequence[Mapping[str, Tensor]]
) -> tuple[int, int, int, int] | None:
    """See `PairBatch`; only processors that make a grid of patches repeat the frame."""
    if pixels is None or not any("image_grid_thw" in side for side in sides):
        return None
    options = getattr(processor, "image_processor", None)
    side, copies = getattr(options, "patch_size", None), getattr(options, "temporal_patch_size", None)
    if side is None or copies is None:
        return None
    return pixels.shape[-1] // (copies * side * side), copies, side, side


def normalisation_of(processor: Any) -> Normalisation | None:
    """See `PairBatch`."""
    images = getattr(processor, "image_processor", None)
    mean, std = getattr(images, "image_mean", None), getattr(images, "image_std", None)
    if not (isinstance(mean, list | tuple) and isinstance(std, list | tuple)):
        return None
    return (tuple(mean), tuple(std)) if getattr(images, "do_normalize", True) else None
