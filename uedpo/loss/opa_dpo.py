"""OPA-DPO's token-position-wise loss with token scores (arXiv 2501.09695)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from uedpo.loss.dpo import check_rows, masked, preference_metrics
from uedpo.types import LossOutput, NonNegativeFloat, PositiveFloat

_WEIGHTS = (2.5, 2.0, 1.5, 1.0)


def opa_dpo_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    *,
    beta: PositiveFloat,
    anchor: NonNegativeFloat = 1.0,
    anchor_margin: float = 0.0,
) -> LossOutput:
    """Mean over positions of -log sigmoid(beta [c_t a_t(chosen) - d_t a_t(rejected)]), plus an anchor.

    a_t = log pi_t - log pi_ref_t; the t-th tokens of the two responses face each other. Anchor:
    -log sigmoid(beta a_t(chosen) - anchor_margin), the mean over the same positions.

    Deviations: this is the language term (L2) and the anchor for two responses, the revised one
    (chosen) and the policy's own (rejected); no masked-image terms and no supervised first stage.
    The mean runs over positions where either response has a token; the authors' code averages over
    all padded positions, so that its step depends on the padding.

    Args:
        policy_logps, reference_logps: nats [2B, T], chosen rows first.
        mask: [2B, T], True on response tokens.
        weights: token scores c, d [2B, T], constant (see `rating_weights`); None is 1.
        beta: > 0.
        anchor: weight of the anchor.
        anchor_margin: delta.

    Raises:
        ValueError: shapes that differ, an odd number of rows, options out of range.
    """
    if not anchor >= 0:
        raise ValueError(f"anchor={anchor}: must be at least 0")
    weights = torch.ones_like(policy_logps) if weights is None else weights.detach()
    check_rows(policy_logps, reference_logps, mask, beta, weights=weights)
    policy, reference, w = masked(mask, policy_logps, reference_logps, weights)
    chosen, rejected = (w * (policy - reference)).chunk(2)
    plain_chosen = (policy - reference).chunk(2)[0]
    used = torch.stack(mask.bool().chunk(2)).any(0)
    count = used.sum().clamp(min=1)
    loss = -torch.where(used, logsigmoid(beta * (chosen - rejected)), 0).sum() / count
    pull = -torch.where(used, logsigmoid(beta * plain_chosen - anchor_margin), 0).sum() / count
    metrics = preference_metrics(policy, reference, beta)
    return LossOutput(loss + anchor * pull, {**metrics, "anchor_loss": pull.detach()})


def rating_weights(ratings: Tensor) -> Tensor:
    """Weight of each token from a judge's rating of its sentence, 1 (worst) to 4: 2.5, 2, 1.5, 1.

    Raises:
        ValueError: a rating outside 1..4.
    """
    if ratings.numel() and not (int(ratings.min()) >= 1 and int(ratings.max()) <= 4):
        raise ValueError(f"ratings from {int(ratings.min())} to {int(ratings.max())}: must be in 1..4")
    return torch.tensor(_WEIGHTS, device=ratings.device)[ratings.long() - 1]
