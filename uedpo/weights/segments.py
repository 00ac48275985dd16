"""Token weights of RLHF-V and OPA-DPO: what an annotator rewrote weighs more."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

from uedpo.types import PairBatch, PositiveFloat, TokenScores
from uedpo.types.layout import to_device
from uedpo.weights.weigher import TokenWeigher

_LEAST = 3  # tokens; shorter matches are chance


def segment_weights(
    chosen: Sequence[int], rejected: Sequence[int], weight: float
) -> tuple[list[float], list[float]]:
    """1 on tokens in matching blocks of at least three, `weight` on the rest; one list a response.

    Blocks are those of `difflib.SequenceMatcher`, as in the code of RLAIF-V, with two deviations:
    what was only inserted or only deleted counts as rewritten too, and frequent tokens of long
    responses are matched like any other.
    """
    matcher = difflib.SequenceMatcher(None, list(chosen), list(rejected), autojunk=False)
    weights = [weight] * len(chosen), [weight] * len(rejected)
    for block in matcher.get_matching_blocks():
        if block.size >= _LEAST:
            for side, start in zip(weights, (block.a, block.b), strict=True):
                side[start : start + block.size] = [1.0] * block.size
    return weights


class SegmentWeights(TokenWeigher):
    """Sets the module's `weigher` to segment weights, a function of the two answers only.

    Args:
        weight: of the tokens that differ; 1 gives plain DPO.
    """

    def __init__(self, weight: PositiveFloat = 1.1) -> None:
        self.weight = weight

    def weigh(self, batch: PairBatch, clear: TokenScores) -> Tensor:
        """w [2B, T], 1 where masked."""
        host, pairs = batch.host, len(batch.ids)
        weights = torch.ones(batch.mask.shape)
        for i in range(pairs):
            rows = (i, i + pairs)
            chosen, rejected = (host.tokens[row][host.mask[row]].tolist() for row in rows)
            sides = segment_weights(chosen, rejected, self.weight)
            for row, values in zip(rows, sides, strict=True):
                weights[row, : len(values)] = torch.tensor(values)
        return to_device(weights, clear.logps.device).to(clear.logps.dtype)
