"""V-DPO (arXiv 2411.02712): DPO of a policy under classifier-free visual guidance."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from uedpo.loss.dpo import Smoothing, check_rows, masked, preference_metrics
from uedpo.types import LossOutput, PositiveFloat

BLIND = "at 0 the policy gets no gradient at all"
Guidance = Annotated[float, Gt(0.0), BLIND]


def v_dpo_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    *,
    corrupted_policy_logps: Tensor,
    beta: PositiveFloat,
    gamma: Guidance,
    label_smoothing: Smoothing = 0.0,
) -> LossOutput:
    """DPO in which log pi_t becomes gamma log pi_t(v) - (gamma - 1) sg[log pi_t(no image)].

    Deviations from the authors' code: its shipped gamma of 0 leaves the policy without any
    gradient, so only gamma > 0 is taken; the image-free term comes from the policy as in its
    script (`dynamic_llm`), never from the reference; all response tokens count at gamma = 1 too
    (the code starts at the first token where the answers differ); no guidance of logits, no
    importance sampling. The image-free view is `corruption=blank`: all pixels 0 after
    preprocessing.

    Args:
        policy_logps, reference_logps: nats [2B, T], chosen rows first.
        mask: [2B, T], True on response tokens.
        weights: refused.
        corrupted_policy_logps: nats [2B, T] of the policy without the image; no gradient.
        beta: > 0.
        gamma: guidance; 1 gives DPO, above 1 rewards what the image adds.
        label_smoothing: in [0, 0.5).

    Raises:
        ValueError: shapes that differ, an odd number of rows, beta or gamma <= 0, or weights given.
    """
    if weights is not None:
        raise ValueError("v_dpo_loss takes no token weights; use weights=uniform")
    if not gamma > 0:
        raise ValueError(f"gamma={gamma}: must be greater than 0; {BLIND}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing={label_smoothing}: must be in [0, 0.5)")
    check_rows(policy_logps, reference_logps, mask, beta, corrupted_policy_logps=corrupted_policy_logps)
    policy, reference, blind = masked(mask, policy_logps, reference_logps, corrupted_policy_logps.detach())
    guided = gamma * policy - (gamma - 1) * blind
    chosen, rejected = (guided - reference).sum(-1).chunk(2)
    margin = beta * (chosen - rejected)
    loss = -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    metrics = preference_metrics(policy, reference, beta)
    return LossOutput(loss.mean(), {**metrics, "guided_margin": margin.detach().mean()})
