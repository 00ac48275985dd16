"""TPO, token preference optimisation (arXiv 2412.14487): self-calibrated visual-anchored rewards."""

from __future__ import annotations

import torch
from torch import Tensor

from uedpo.loss.dpo import check_rows, masked, preference_loss, preference_metrics
from uedpo.types import LossOutput, PositiveFloat


def tpo_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    *,
    policy_sensitivity: Tensor,
    reference_sensitivity: Tensor,
    beta: PositiveFloat,
    stop_gradient: bool = False,
) -> LossOutput:
    """DPO of sum_t [log pi_t + log c_t], c = sigmoid(s) + 1/2 for chosen, 3/2 - sigmoid(s) for rejected.

    s_t is the raw logit of the token given the clear image minus that given the corrupted one, of
    policy and reference each. The weight multiplies the probability, not the log-probability.

    Follows the authors' code where it and their README differ (which of the two forms belongs to
    the chosen response), and lets the gradient pass through c as that code does.

    Args:
        policy_logps, reference_logps: nats [2B, T], chosen rows first.
        mask: [2B, T], True on response tokens.
        weights: refused; TPO makes its own.
        policy_sensitivity, reference_sensitivity: s in logits [2B, T]; 0 everywhere gives DPO.
        beta: > 0.
        stop_gradient: hold c constant, so that log c only moves the margin.

    Raises:
        ValueError: shapes that differ, an odd number of rows, beta <= 0, or weights given.
    """
    if weights is not None:
        raise ValueError("tpo_loss makes its own token weights; use weights=uniform")
    check_rows(policy_logps, reference_logps, mask, beta, policy_sensitivity=policy_sensitivity,
               reference_sensitivity=reference_sensitivity)  # fmt: skip
    if stop_gradient:
        policy_sensitivity = policy_sensitivity.detach()
    policy, reference, s_policy, s_reference = masked(
        mask, policy_logps, reference_logps, policy_sensitivity, reference_sensitivity
    )
    weighted = preference_loss(policy + _log_c(s_policy), reference + _log_c(s_reference), beta)
    plain = preference_metrics(policy, reference, beta)
    return LossOutput(weighted.loss, {**plain, "weighted_margin": weighted.metrics["margin"]})


def _log_c(sensitivity: Tensor) -> Tensor:
    """log c [2B, T]; sigmoid(-s) + 1/2 is the rejected form, and 0 maps to 0."""
    chosen, rejected = sensitivity.chunk(2)
    return torch.log(torch.sigmoid(torch.cat([chosen, -rejected])) + 0.5)
