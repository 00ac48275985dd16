"""RLHF-V's dense DPO (arXiv 2312.00849, equation 4): corrected segments weigh more."""

from __future__ import annotations

import torch
from torch import Tensor

from uedpo.loss.dpo import check_rows, masked, preference_loss, preference_metrics
from uedpo.types import LossOutput, PositiveFloat


def rlhf_v_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    *,
    beta: PositiveFloat,
    average: bool = False,
) -> LossOutput:
    """DPO of S = sum_t w_t (log pi_t - log pi_ref_t), divided by sum_t w_t if `average`.

    The weights (`weights=segments`) act on policy and reference alike, unlike UE-DPO's.

    Args:
        policy_logps, reference_logps: nats [2B, T], chosen rows first.
        mask: [2B, T], True on response tokens.
        weights: w [2B, T], constant; None is 1, which gives DPO where `average` is off.
        beta: > 0.
        average: the normalised score of the paper's equation 5.

    Raises:
        ValueError: shapes that differ, an odd number of rows, or beta <= 0.
    """
    weights = torch.ones_like(policy_logps) if weights is None else weights.detach()
    check_rows(policy_logps, reference_logps, mask, beta, weights=weights)
    policy, reference, w = masked(mask, policy_logps, reference_logps, weights)
    scale = w / w.sum(-1, keepdim=True).clamp(min=1e-6) if average else w
    weighted = preference_loss(policy * scale, reference * scale, beta)
    plain = preference_metrics(policy, reference, beta)
    return LossOutput(weighted.loss, {**plain, "weighted_margin": weighted.metrics["margin"]})
