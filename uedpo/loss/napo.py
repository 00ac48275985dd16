"""NaPO, noise-aware preference optimisation (arXiv 2503.17928): two more kinds of negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from uedpo.loss.dpo import check_rows, masked, preference_metrics
from uedpo.types import LossOutput, NonNegativeFloat, PositiveFloat


def napo_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    *,
    beta: PositiveFloat,
    rejected: NonNegativeFloat = 0.04,
    question_only: NonNegativeFloat = 0.48,
    image_only: NonNegativeFloat = 0.48,
    alpha_question: NonNegativeFloat = 0.5,
    alpha_image: NonNegativeFloat = 0.01,
) -> LossOutput:
    """DPO on the annotated pair, generalised cross-entropy on two self-made negatives.

    m_k = beta [S(chosen) - S(k)]; the annotated negative gives -log sigmoid(m), the other two
    (1 - sigmoid(m_k)^q_k) / q_k with q from `adaptive_q`: near 0 it is the former, at 1 it is the
    mean absolute error, which a noisy negative hurts less. psi_k is the unscaled margin, averaged
    over each response's tokens for the question-only negatives and summed for the image-only ones.

    Deviation: the weights and alphas are those noted in the authors' pipeline script, whose active
    lines belong to another run; the paper's own values are not known to us.

    Args:
        policy_logps, reference_logps: nats [4B, T]: B chosen, B rejected, B answers to the question
            without the image, B answers to the image without the question.
        mask: [4B, T], True on response tokens.
        weights: refused.
        beta: > 0.
        rejected, question_only, image_only: weights of the terms; 1, 0, 0 give DPO.
        alpha_question, alpha_image: how fast a large margin lowers q.

    Raises:
        ValueError: shapes that differ, rows not a multiple of 4, options out of range, weights given.
    """
    if weights is not None:
        raise ValueError("napo_loss takes no token weights; use weights=uniform")
    options = {"rejected": rejected, "question_only": question_only, "image_only": image_only,
               "alpha_question": alpha_question, "alpha_image": alpha_image}  # fmt: skip
    for name, value in options.items():
        if not value >= 0:
            raise ValueError(f"{name}={value}: must be at least 0")
    check_rows(policy_logps, reference_logps, mask, beta, responses=4)
    policy, reference = masked(mask, policy_logps, reference_logps)
    scores = (policy - reference).sum(-1).chunk(4)
    means = ((policy - reference).sum(-1) / mask.sum(-1).clamp(min=1)).chunk(4)
    q_question = adaptive_q(means[0] - means[2], alpha_question)
    q_image = adaptive_q(scores[0] - scores[3], alpha_image)
    loss = -rejected * logsigmoid(beta * (scores[0] - scores[1])).mean()
    loss = loss + question_only * robust_cross_entropy(beta * (scores[0] - scores[2]), q_question).mean()
    loss = loss + image_only * robust_cross_entropy(beta * (scores[0] - scores[3]), q_image).mean()
    half = len(policy) // 2
    metrics = preference_metrics(policy[:half], reference[:half], beta)
    return LossOutput(loss, {**metrics, "q_question": q_question, "q_image": q_image})


def robust_cross_entropy(margin: Tensor, q: Tensor) -> Tensor:
    """(1 - sigmoid(margin)^q) / q, elementwise; [B] and a scalar in (0, 1]."""
    return -torch.expm1(q * logsigmoid(margin)) / q


def adaptive_q(margins: Tensor, alpha: float) -> Tensor:
    """q = 2 (1 - sigmoid(alpha psi)) in [0.001, 1], psi the mean of [B] margins over all ranks.

    The larger the mean margin, the less noise is assumed and the nearer q is to cross-entropy. No
    gradient.
    """
    psi = margins.detach().mean()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(psi)
        psi = psi / torch.distributed.get_world_size()
    return (2 * torch.sigmoid(-alpha * psi)).clamp(0.001, 1.0)
