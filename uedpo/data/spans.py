"""Weights that rows bring: of spans of characters as weights of tokens, and of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from uedpo.data.prompts import pair_turns
from uedpo.data.rows import CheckedPairs
from uedpo.errors import InputError
from uedpo.model.chat import AnswerFrame
from uedpo.types import PreferencePair, Span


def token_weights(frame: AnswerFrame, pairs: Sequence[PreferencePair], mask: Tensor) -> Tensor | None:
    """[K B, T]: a token weighs the mean of its characters, and 1 where no span covers it; further negatives,
    and the end token, weigh 1. None where no pair has spans.

    Args:
        mask: [K B, T], True on response tokens.

    Raises:
        InputError: the tokenizer does not say which characters a token has.
    """
    if not any(pair.chosen_weights or pair.rejected_weights for pair in pairs):
        return None
    weights = torch.ones(mask.shape)
    sides = (
        *((pair, pair.chosen, pair.chosen_weights) for pair in pairs),
        *((pair, pair.rejected, pair.rejected_weights) for pair in pairs),
    )
    for row, (pair, text, spans) in enumerate(sides):
        if spans:
            values = response_weights(frame, pair, text, spans)[: int(mask[row].sum())]
            weights[row, : len(values)] = torch.tensor(values)
    return weights


def response_weights(
    frame: AnswerFrame, pair: PreferencePair, text: str, spans: Sequence[Span]
) -> list[float]:
    """One weight for each token of a response; raises as `token_weights` does."""
    characters = [1.0] * len(text)
    for start, end, weight in spans:
        characters[start:end] = [weight] * (end - start)
    first = len(text) - len(text.lstrip())
    weights = []
    for begin, end in frame.spans(pair_turns(pair), text):
        own = characters[begin + first : end + first]
        weights.append(sum(own) / len(own) if own else 1.0)
    return weights


def sample_weights(pairs: Sequence[PreferencePair]) -> Tensor | None:
    """[B], or None where all are 1."""
    weights = [pair.weight for pair in pairs]
    return None if all(weight == 1 for weight in weights) else torch.tensor(weights)


def check_weights_are_read(pairs: Sequence[PreferencePair], asked: Sequence[str], weighed: bool) -> None:
    """Refuse weights of rows that this run would not read.

    Args:
        pairs: of training; data sets other than files have no weights.
        asked: what the loss asks for, see `uedpo.loss`.
        weighed: whether the configuration weighs tokens.

    Raises:
        InputError: naming a row and the remedy.
    """
    for pair in pairs.rows if isinstance(pairs, CheckedPairs) else []:
        if pair.weight != 1 and "sample_weights" not in asked:
            raise InputError(
                f"row {pair.id}: has weight {pair.weight:g}, which this loss does not take; use loss=dpo or "
                "ue_dpo, or leave the column out"
            )
        if (pair.chosen_weights or pair.rejected_weights) and not weighed:
            raise InputError(
                f"row {pair.id}: has weights of its tokens, and this configuration weighs none; set "
                "weights=columns with a loss that takes them, or leave the columns out"
            )
