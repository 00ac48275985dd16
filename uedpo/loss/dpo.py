"""DPO (Rafailov et al. 2023, arXiv 2305.18290, equation 7)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from uedpo.types import LossOutput, PositiveFloat


def dpo_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    *,
    beta: PositiveFloat,
) -> LossOutput:
    """-log sigmoid(beta (sum_t chosen log-ratio - sum_t rejected log-ratio)), mean over pairs.

    Args:
        policy_logps: nats [2B, T], chosen rows first; carries the gradient.
        reference_logps: nats [2B, T].
        mask: [2B, T], True on response tokens.
        weights: refused; token weights belong to `ue_dpo_loss`.
        beta: strength of the pull to the reference, > 0.

    Raises:
        ValueError: shapes that differ, an odd number of rows, beta <= 0, or weights given.
    """
    if weights is not None:
        raise ValueError("dpo_loss takes no token weights; use ue_dpo_loss or weights=uniform")
    check_rows(policy_logps, reference_logps, mask, beta)
    return preference_loss(
        torch.where(mask.bool(), policy_logps, 0), torch.where(mask.bool(), reference_logps, 0), beta
    )


def preference_loss(policy: Tensor, reference: Tensor, beta: float) -> LossOutput:
    """The sigmoid loss of per-token scores that are 0 where masked; metrics are means over pairs."""
    chosen, rejected = (policy - reference).sum(-1).chunk(2)
    margin = beta * (chosen - rejected)
    chosen_d, rejected_d, margin_d = chosen.detach(), rejected.detach(), margin.detach()
    metrics = {
        "margin": margin_d.mean(),
        "accuracy": (margin_d > 0).float().mean(),
        "log_ratio_chosen": chosen_d.mean(),
        "log_ratio_rejected": rejected_d.mean(),
    }
    return LossOutput(-logsigmoid(margin).mean(), metrics)


def check_rows(policy_logps: Tensor, reference_logps: Tensor, mask: Tensor, beta: float) -> None:
    """Raise ValueError unless all are [2B, T] of one shape and beta > 0."""
    if not policy_logps.shape == reference_logps.shape == mask.shape or policy_logps.dim() != 2:
        raise ValueError("policy_logps, reference_logps and mask must have one shape [2B, T]")
    if policy_logps.shape[0] == 0 or policy_logps.shape[0] % 2:
        raise ValueError(f"{policy_logps.shape[0]} rows: need 2B, the chosen ones first")
    if not beta > 0:
        raise ValueError(f"beta={beta}: must be greater than 0")
