"""UE-DPO (arXiv 2605.04874, section 5 of the method)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from uedpo.loss.dpo import check_rows, preference_loss
from uedpo.types import LossOutput, PositiveFloat


def ue_dpo_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    *,
    beta: PositiveFloat,
    weight_on: Literal["policy", "log_ratio"] = "policy",
    sample_weights: Tensor | None = None,
) -> LossOutput:
    """-log sigmoid(beta (sum_t [lambda_t log pi - log pi_ref] of chosen minus rejected)), mean.

    lambda is not differentiated. d loss / d log pi_t = -+ beta sigmoid(-m) lambda_t / B. Weights of
    1 (or None) give `dpo_loss` bit for bit.

    Args:
        policy_logps: nats [2B, T], chosen rows first; carries the gradient.
        reference_logps: nats [2B, T].
        mask: [2B, T], True on response tokens.
        weights: lambda [2B, T], or None for 1.
        beta: > 0.
        weight_on: "policy", the paper's log(pi^lambda / pi_ref), or "log_ratio",
            lambda (log pi - log pi_ref). With "policy" the margin is not 0 at step 0, by design.
        sample_weights: [B], see `dpo_loss`.

    Raises:
        ValueError: shapes that differ, an odd number of rows, beta <= 0, unknown weight_on.
    """
    check_rows(policy_logps, reference_logps, mask, beta)
    if weight_on not in ("policy", "log_ratio"):
        raise ValueError(f"weight_on={weight_on!r}: must be policy or log_ratio")
    keep = mask.bool()
    policy, reference = torch.where(keep, policy_logps, 0), torch.where(keep, reference_logps, 0)
    if weights is None:
        return preference_loss(policy, reference, beta, sample_weights)
    if weights.shape != mask.shape:
        raise ValueError(f"weights {tuple(weights.shape)} must have the shape of mask {tuple(mask.shape)}")
    scale = torch.where(keep, weights.detach(), 1)
    weighted = preference_loss(
        policy * scale, reference * scale if weight_on == "log_ratio" else reference, beta, sample_weights
    )
    # log-ratios and accuracy stay those of the model itself, comparable across alpha
    plain = preference_loss(policy.detach(), reference, beta).metrics
    return LossOutput(weighted.loss, {**plain, "weighted_margin": weighted.metrics["margin"]})
