"""mDPO (arXiv 2406.11839): DPO with an image preference and a reward anchor."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from uedpo.loss.dpo import check_rows, masked, preference_loss
from uedpo.types import LossOutput, NonNegativeFloat, PositiveFloat


def mdpo_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    *,
    corrupted_policy_logps: Tensor,
    corrupted_reference_logps: Tensor,
    beta: PositiveFloat,
    image: NonNegativeFloat = 1.0,
    anchor: NonNegativeFloat = 1.0,
    anchor_margin: float = 0.0,
) -> LossOutput:
    """DPO + image x conditional preference + anchor x reward anchor, mean over pairs.

    Conditional: -log sigmoid(beta [(S(w|v) - S(w|v')) of policy minus the same of reference]).
    Anchor: -log sigmoid(beta [S(w|v) of policy minus reference] - anchor_margin).

    Deviation: policy and reference see the same crop v' (`corruption=crop`, 1 to 20 % of the area);
    the authors' code draws a new one in every forward pass.

    Args:
        policy_logps, reference_logps: nats [2B, T], chosen rows first.
        mask: [2B, T], True on response tokens.
        weights: refused.
        corrupted_policy_logps, corrupted_reference_logps: nats [2B, T] given v'; only the chosen
            rows count, and the policy's carry a gradient.
        beta: > 0.
        image, anchor: weights of the two terms; both 0 give DPO.
        anchor_margin: delta of the paper's equation 6.

    Raises:
        ValueError: shapes that differ, an odd number of rows, options out of range, weights given.
    """
    if weights is not None:
        raise ValueError("mdpo_loss takes no token weights; use weights=uniform")
    for name, value in (("image", image), ("anchor", anchor)):
        if not value >= 0:
            raise ValueError(f"{name}={value}: must be at least 0")
    check_rows(policy_logps, reference_logps, mask, beta, corrupted_policy_logps=corrupted_policy_logps,
               corrupted_reference_logps=corrupted_reference_logps)  # fmt: skip
    policy, reference, policy_blind, reference_blind = masked(
        mask, policy_logps, reference_logps, corrupted_policy_logps, corrupted_reference_logps
    )
    out = preference_loss(policy, reference, beta)
    clear = (policy - reference).sum(-1).chunk(2)[0]
    blind = (policy_blind - reference_blind).sum(-1).chunk(2)[0]
    image_margin = beta * (clear - blind)
    image_loss = -logsigmoid(image_margin).mean()
    anchor_loss = -logsigmoid(beta * clear - anchor_margin).mean()
    metrics = {
        **out.metrics,
        "image_margin": image_margin.detach().mean(),
        "anchor_loss": anchor_loss.detach(),
    }
    return LossOutput(out.loss + image * image_loss + anchor * anchor_loss, metrics)
