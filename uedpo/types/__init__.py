"""Shared types and number ranges.

Axes: B pairs, 2B responses (chosen rows first; K B where pairs bring further negatives), T response
tokens, V vocabulary, H hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Interval, Le

if TYPE_CHECKING:  # validation needs the ranges below, and no torch
    import torch
    from torch import Tensor

    from uedpo.types.layout import Layout

Fraction = Annotated[float, Interval(ge=0.0, le=1.0)]
BelowOne = Annotated[float, Interval(ge=0.0, lt=1.0)]
LayerPattern = Annotated[
    str | None, "a regular expression of whole names of layers, as in '.*[.](q_proj|v_proj)'"
]
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]
Tau = Annotated[float, Gt(0.0), Le(0.5)]
PositiveFloat = Annotated[float, Gt(0.0)]
NonNegativeFloat = Annotated[float, Ge(0.0)]
PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]


Span = tuple[int, int, float]
# mean and standard deviation of each channel, of pixels in [0, 1]
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class PreferencePair:
    """One row.

    Attributes:
        image: PIL image, a list of several in the order of their places, or None (text-only).
        negatives: further rejected responses, the same number in every row (NaPO: an answer to the
            question alone, and one to the image alone).
        similarity: offline image-text scores of chosen and rejected (DA-DPO), or None.
        rejected_image: what the rejected response is about where that differs, as many images; else None.
        history: earlier turns, the oldest first, as (system | user | assistant, text).
        image_at: where each image stands, as (turn, characters into its text); the prompt is the turn after
            those of `history`. Empty: all before the prompt.
        weight: of the pair in the loss.
        chosen_weights, rejected_weights: (start, end, weight) of spans of characters of a response that do
            not overlap; the rest weighs 1.
    """

    id: str
    image: Any
    prompt: str
    chosen: str
    rejected: str
    negatives: tuple[str, ...] = ()
    similarity: tuple[float, float] | None = None
    rejected_image: Any = None
    history: tuple[tuple[str, str], ...] = ()
    image_at: tuple[tuple[int, int], ...] = ()
    weight: float = 1.0
    chosen_weights: tuple[Span, ...] = ()
    rejected_weights: tuple[Span, ...] = ()

    @property
    def images(self) -> tuple[Any, ...]:
        """Images of the prompt of the chosen response."""
        return _as_tuple(self.image)

    @property
    def rejected_images(self) -> tuple[Any, ...]:
        """Images of the prompt of the rejected response."""
        return self.images if self.rejected_image is None else _as_tuple(self.rejected_image)


def _as_tuple(image: Any) -> tuple[Any, ...]:
    return tuple(image) if isinstance(image, list) else () if image is None else (image,)


@dataclass
class PairBatch:
    """B pairs ready for the model.

    Attributes:
        ids: sample id of each pair.
        inputs: what the processor made (input_ids [2B, S], attention_mask [2B, S], ...), without
            pixels.
        pixel_values: pixels [N, ...], an entry for each image, an empty one for each text-only pair; None
            where no pair has an image.
        has_image: bool [B].
        tokens: response tokens [2B, T], right-padded; the end-of-sequence token is included.
        mask: bool [2B, T], True on response tokens.
        positions: [2B, T], index in the sequence whose logits predict `tokens`.
        similarity: [2B], see `PreferencePair`; None where the rows have none.
        image_inputs: what else the processor says of each image (image_grid_thw [N, 3], image_sizes
            [N, 2], pixel_attention_mask [N, tiles, H, W]), 0 where there is none.
        pixel_lengths: how much of the first axis of `pixel_values[n]` is image, the rest is padding;
            None where all images have one shape.
        patch_shape: (channels, copies of the frame, height, width) that the last axis of pixels
            [N, patches, D] is made of; None for other layouts.
        images: the entries of `pixel_values` that the prompt of each response shows, in their order, a
            tuple for each of the 2B rows. Left out, pair i shows entry i where it has an image.
        token_weights: [2B, T], 1 where the data set says nothing, or None where no row has any.
        sample_weights: [B], or None where all are 1.
        prefix_lengths, response_lengths: tokens before each of the 2B responses, and in it; left out, read
            from `positions` and `mask`. Numbers of the host: reading a device would wait for it.
        normalisation: that the processor put pixels in [0, 1] through; None where it does not say.
        layout: where responses lie, see `uedpo.types.layout`; made with the batch.

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
    images: list[tuple[int, ...]] = field(default_factory=list)
    token_weights: Tensor | None = None
    sample_weights: Tensor | None = None
    prefix_lengths: list[int] = field(default_factory=list)
    response_lengths: list[int] = field(default_factory=list)
    normalisation: Normalisation | None = None

    layout: Layout = field(init=False)
    _host: PairBatch | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        from uedpo.types.layout import lay_out

        if not self.prefix_lengths:
            self.prefix_lengths = (self.positions[:, 0] + 1).tolist()
            self.response_lengths = self.mask.sum(1).tolist()
        if not self.images:
            for i, has_image in enumerate(self.has_image.tolist() * self.num_responses):
                self.images.append((i % len(self.ids),) if has_image else ())
        self.layout = lay_out(
            self.inputs["input_ids"], self.tokens, self.mask, self.positions,
            self.prefix_lengths, self.response_lengths, self._sharing(),
        )  # fmt: skip

    def _sharing(self) -> list[list[int]]:
        """Rows that share a prompt and its images: all of a pair, or fewer where images differ, or the first
        token of a response swallows the end of its prompt."""
        groups: dict[tuple[int, tuple[int, ...], int], list[int]] = {}
        for i in range(len(self.ids)):
            for row in range(i, len(self.images), len(self.ids)):
                groups.setdefault((i, self.images[row], self.prefix_lengths[row]), []).append(row)
        return list(groups.values())

    @property
    def num_responses(self) -> int:
        """K, responses per pair."""
        return len(self.tokens) // len(self.ids)

    @property
    def visual_mask(self) -> Tensor:
        """bool [2B, T]: response tokens of pairs with an image, the only ones that corruption can change."""
        return self.mask & self.has_image.repeat(self.num_responses)[:, None]

    @property
    def image_ids(self) -> list[str]:
        """A name for each entry of `pixel_values`, by which it gets its noise: that of its pair, numbered
        from the second one on."""
        names = [""] * (0 if self.pixel_values is None else len(self.pixel_values))
        for i, name in enumerate(self.ids):
            entries = dict.fromkeys(e for row in self.images[i :: len(self.ids)] for e in row)
            for number, entry in enumerate(entries):
                names[entry] = f"{name}#{number + 1}" if number else name
        return names

    @property
    def host(self) -> PairBatch:
        """The batch as the collator made it: whoever needs a number reads it there, and not from a GPU."""
        return self if self._host is None else self._host

    def of_responses(self, values: Tensor) -> tuple[Tensor, ...]:
        """The entries of [2B, T] on response tokens, row after row: ([n of chosen], [n of rejected])."""
        half = len(self.response_lengths) // 2
        sizes = [sum(self.response_lengths[:half]), sum(self.response_lengths[half:])]
        found: tuple[Tensor, ...] = values.flatten().index_select(0, self.layout.at).split(sizes)
        return found

    def to(self, device: torch.device | str) -> PairBatch:
        """The same on `device`, with this one as its `host`."""
        from uedpo.types.layout import to_device

        made = self._each(lambda tensor: to_device(tensor, device))
        made._host = self.host
        return made

    def pin_memory(self) -> PairBatch:
        """In memory from which a GPU can take it while the host goes on; torch's loader asks for it."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> PairBatch:
        made = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, dict):
                setattr(made, name, {k: change(v) for k, v in value.items()})
            elif name == "layout":
                made.layout = value.each(change)
            elif hasattr(value, "untyped_storage"):  # a tensor
                setattr(made, name, change(value))
        return made


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
        from torch.nn.functional import embedding

        weight, bias = self.head
        rows = embedding(tokens, weight)
        dtype = self.target_logits.dtype
        value = (self.hidden.to(dtype) * rows.to(dtype)).sum(-1)
        return value if bias is None else value + bias[tokens].to(dtype)


@dataclass
class LossOutput:
    """A loss with gradient, and detached scalars to log."""

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
