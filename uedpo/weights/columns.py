"""Token weights that the rows bring, and no others: the columns chosen_weights and rejected_weights."""

from __future__ import annotations

import torch
from torch import Tensor

from uedpo.types import PairBatch, TokenScores
from uedpo.weights.weigher import TokenWeigher


class ColumnWeights(TokenWeigher):
    """Sets the module's `weigher` to 1, which the module multiplies by the weights of the rows."""

    def __init__(self) -> None:  # what `weights=columns` may set, which is nothing, is read here
        super().__init__()

    def weigh(self, batch: PairBatch, clear: TokenScores) -> Tensor:
        """1 everywhere, [2B, T]."""
        return torch.ones_like(clear.logps)
