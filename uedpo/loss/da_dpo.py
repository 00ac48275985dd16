"""DA-DPO, difficulty-aware DPO (arXiv 2601.00623): easy pairs get a larger effective beta."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from uedpo.loss.dpo import check_rows, masked, preference_metrics
from uedpo.types import LossOutput, PositiveFloat


def da_dpo_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    *,
    similarity: Tensor,
    beta: PositiveFloat,
    scale: PositiveFloat = 1.0,
) -> LossOutput:
    """-log sigmoid(beta omega D), omega = (|sim(chosen) - sim(rejected)| + 1) scale, mean over pairs.

    The similarities are offline image-text scores that come with the data (the authors use CLIP);
    a wide gap means an easy pair. Deviation: none of their samplers is offered.

    Args:
        policy_logps, reference_logps: nats [2B, T], chosen rows first.
        mask: [2B, T], True on response tokens.
        weights: refused.
        similarity: [2B], of each response with the image; equal ones and scale 1 give DPO.
        beta: > 0.
        scale: `db_alpha` of the authors' code, > 0.

    Raises:
        ValueError: shapes that differ, an odd number of rows, options out of range, weights given.
    """
    if weights is not None:
        raise ValueError("da_dpo_loss takes no token weights; use weights=uniform")
    if not scale > 0:
        raise ValueError(f"scale={scale}: must be greater than 0")
    check_rows(policy_logps, reference_logps, mask, beta)
    if similarity.shape != mask.shape[:1]:
        raise ValueError(f"similarity {tuple(similarity.shape)}: must be [{len(mask)}], one per response")
    policy, reference = masked(mask, policy_logps, reference_logps)
    of_chosen, of_rejected = similarity.detach().chunk(2)
    omega = ((of_chosen - of_rejected).abs() + 1) * scale
    chosen, rejected = (policy - reference).sum(-1).chunk(2)
    loss = -logsigmoid(beta * omega * (chosen - rejected)).mean()
    metrics = preference_metrics(policy, reference, beta)
    return LossOutput(loss, {**metrics, "difficulty_weight": omega.mean()})
