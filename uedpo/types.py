"""Shared types and number ranges.

Axes: B pairs, 2B responses (chosen rows first; K B where pairs bring further negatives), T response
tokens, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Interval, Le
from torch import Tensor

from uedpo.errors import InputError as InputError

Fraction = Annotated[float, Interval(ge=0.0, le=1.0)]
Momentum = Annotated[float, Interval(ge=0.0, lt=1.0)]
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]
Tau = Annotated[float, Gt(0.0), Le(0.5)]
PositiveFloat = Annotated[float, Gt(0.0)]
NonNegativeFloat = Annotated[float, Ge(0.0)]
PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]


@dataclass(frozen=True)
class PreferencePair:
    """One row.

    Attributes:
        image: PIL image, or None (text-only).
        negatives: further rejected responses, the same number in every row (NaPO: an answer to the
            question alone, and one to the image alone).
        similarity: offline image-text scores of chosen and rejected (DA-DPO), or None.
    """

    id: str
    image: Any
    prompt: str
    chosen: str
    rejected: str
    negatives: tuple[str, ...] = ()
    similarity: tuple[float, float] | None = None


@dataclass
class PairBatch:
    """B pairs ready for the model.

    Attributes:
        ids: sample id of each pair.
        inputs: what the processor made (input_ids [2B, S], attention_mask [2B, S], ...), without
            pixels.
        pixel_values: pixels of the image of each pair, [B, ...], or None where no row has one.
        has_image: bool [B].
        tokens: response tokens [2B, T], right-padded; the end-of-sequence token is included.
        mask: bool [2B, T], True on response tokens.
        positions: [2B, T], index in the sequence whose logits predict `tokens`.
        similarity: [2B], see `PreferencePair`; None where the rows have none.
        image_inputs: what else the processor says of each image (image_grid_thw [B, 3], image_sizes
            [B, 2], pixel_attention_mask [B, tiles, H, W]), 0 where there is none.
        pixel_lengths: how much of the first axis of `pixel_values[i]` is image, the rest is padding;
            None where all images have one shape.
        patch_shape: (channels, copies of the frame, height, width) that the last axis of pixels
            [B, patches, D] is made of; None for other layouts.

    With further negatives all of [2B, ...] are [K B, ...]: B chosen, B rejected, B of each negative.
    """

    ids: list[str]
    inputs: dict[str, Tensor]
    pixel_values: Tensor | None
    has_image: Tensor
    tokens: Tensor
    mask: Tensor
    positions: Tensor
    image_inputs: dict[str, Tensor] = field(default_factory=dict)
    pixel_lengths: list[int] | None = None
    similarity: Tensor | None = None
    patch_shape: tuple[int, int, int, int] | None = None

    @property
    def num_responses(self) -> int:
        """K, responses per pair."""
        return len(self.tokens) // len(self.ids)

    def to(self, device: torch.device | str) -> PairBatch:
        return PairBatch(
            self.ids,
            {k: v.to(device) for k, v in self.inputs.items()},
            None if self.pixel_values is None else self.pixel_values.to(device),
            self.has_image.to(device),
            self.tokens.to(device),
            self.mask.to(device),
            self.positions.to(device),
            {k: v.to(device) for k, v in self.image_inputs.items()},
            self.pixel_lengths,
            None if self.similarity is None else self.similarity.to(device),
            self.patch_shape,
        )


@dataclass
class TokenScores:
    """What a forward pass says of the response tokens; never holds [2B, T, V].

    Attributes:
        logps: log-probability of each token in nats, fp32 [2B, T], 0 where masked; differentiable.
        target_logits: raw logit of each token, fp32 [2B, T], 0 where masked; differentiable.
        argmax: the likeliest token at each position, lowest id on ties [2B, T].
        entropy: entropy of the next-token distribution in nats, detached [2B, T].
        hidden: last hidden states at these positions, detached [2B, T, H].
        head: the language head's weight, detached [V, H], and its bias or None.
    """

    logps: Tensor
    target_logits: Tensor
    argmax: Tensor
    entropy: Tensor
    hidden: Tensor
    head: tuple[Tensor, Tensor | None]

    def logits_of(self, tokens: Tensor) -> Tensor:
        """Raw logit of any one other token per position: [2B, T] -> fp32 [2B, T]."""
        weight, bias = self.head
        rows = torch.nn.functional.embedding(tokens, weight)
        dtype = self.target_logits.dtype
        value = (self.hidden.to(dtype) * rows.to(dtype)).sum(-1)
        return value if bias is None else value + bias[tokens].to(dtype)


@dataclass
class LossOutput:
    """A loss with gradient, and detached scalars to log."""

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
