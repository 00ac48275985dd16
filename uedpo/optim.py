"""AdamW with warm-up and a cosine."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch.nn import Parameter
from torch.optim.lr_scheduler import LambdaLR

from uedpo.types import BelowOne, Fraction, NonNegativeFloat, PositiveFloat


def adamw_cosine(
    params: Iterable[Parameter],
    max_steps: int,
    *,
    lr: PositiveFloat,
    weight_decay: NonNegativeFloat = 0.0,
    beta1: BelowOne = 0.9,
    beta2: BelowOne = 0.999,
    warmup: Fraction = 0.1,
    final: Fraction = 0.0,
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Optimizer and per-step schedule: linear warm-up over `warmup` of the steps, then a cosine.

    Args:
        max_steps: optimiser steps of the whole run.
        lr: peak learning rate.
        warmup: share of the steps.
        final: learning rate at the end, as a share of the peak.
    """
    optimizer = torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay, betas=(beta1, beta2))
    rise = math.ceil(warmup * max_steps)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        along = (step - rise) / max(1, max_steps - rise)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, along)))

    return optimizer, LambdaLR(optimizer, factor)
