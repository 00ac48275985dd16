"""What the collator makes of every row of a data set: lengths, cuts, image tokens. Costs no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader, Dataset

from uedpo.data.collate import PairCollator
from uedpo.errors import InputError, plain_line
from uedpo.scoring.placeholders import check_placeholders
from uedpo.types import PreferencePair

QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Measured:
    """One row: numbers of tokens, and what is wrong with it ("" for nothing).

    Attributes:
        lengths: of "prompt" (with its template, without image tokens), "image" (all of them), "chosen",
            "rejected", and "whole" (the longer sequence).
        images: of the prompt of the chosen response.
        cut: responses that lose their tail.
    """

    lengths: dict[str, int] = field(default_factory=dict)
    images: int = 0
    cut: int = 0
    problem: str = ""


class _Measuring(Dataset[Measured]):
    """A data set whose items are measured where they are asked for, in a loader's workers."""

    def __init__(self, pairs: Sequence[PreferencePair], collate: PairCollator, config: Any) -> None:
        self.pairs, self.collate, self.config = pairs, collate, config

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> Measured:
        try:
            return measure(self.pairs[i], self.collate, self.config)
        except InputError as error:
            return Measured(problem=plain_line(error))


def measure(pair: PreferencePair, collate: PairCollator, config: Any) -> Measured:
    """Numbers of one row.

    Args:
        config: of the whole model, transformers'.

    Raises:
        InputError: the row cannot be collated, or has not as many placeholders as its images give features
            (where its family says so without weights).
    """
    batch = collate([pair])
    check_placeholders(batch, config)
    image_token = getattr(config, "image_token_id", None)
    placeholders = [row.count(image_token) for row in batch.inputs["input_ids"].tolist()]
    responses, whole = batch.mask.sum(1).tolist(), batch.inputs["attention_mask"].sum(1).tolist()
    lengths = {
        "prompt": batch.prefix_lengths[0] - placeholders[0],
        "image": placeholders[0],
        "chosen": responses[0],
        "rejected": responses[1],
        "whole": max(whole),
    }
    # a response ends with the end token unless it was cut
    lasts = [int(batch.tokens[row, n - 1]) for row, n in enumerate(responses)]
    cut = sum(
        n == collate.max_response_tokens and t != collate.frame.end
        for n, t in zip(responses, lasts, strict=True)
    )
    problem = "" if image_token is None else _placeholder_problem(pair, placeholders)
    return Measured(lengths, len(pair.images), cut, problem)


def _placeholder_problem(pair: PreferencePair, placeholders: list[int]) -> str:
    """Why the placeholders of a row, one number for each response, cannot be right; "" where they can."""
    for found, images in zip(placeholders, (pair.images, pair.rejected_images), strict=False):
        if bool(found) != bool(images) or found < len(images):
            return (
                f"row {pair.id}: {found} image placeholders for {len(images)} images; use the processor and "
                "chat template that belong to the model"
            )
    if pair.rejected_image is None and len(set(placeholders)) > 1:
        return f"row {pair.id}: {placeholders} image placeholders in one and the same prompt"
    return ""


def survey(
    pairs: Sequence[PreferencePair],
    collate: PairCollator,
    config: Any,
    *,
    num_workers: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> list[Measured]:
    """Every row, decoded, tokenised and processed as training does it.

    Args:
        config: see `measure`.
        num_workers: processes that do so.
        advance: called after each row.
    """
    data = _Measuring(pairs, collate, config)
    loader: Iterator[Measured] = iter(DataLoader(data, batch_size=None, num_workers=num_workers))
    rows = []
    for row in loader:
        rows.append(row)
        advance()
    return rows


def quantiles(values: Sequence[int]) -> list[int]:
    """Values at `QUANTILES`, each one that is there (nearest rank)."""
    ordered = sorted(values)
    return [ordered[max(0, -(-int(q * 1000) * len(ordered) // 1000) - 1)] for q in QUANTILES]


def images_a_row(rows: Sequence[Measured]) -> dict[int, int]:
    """Number of images -> how many rows have so many."""
    return dict(sorted(Counter(row.images for row in rows if not row.problem).items()))
