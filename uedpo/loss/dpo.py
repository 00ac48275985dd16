"""DPO (Rafailov et al. 2023, arXiv 2305.18290, equation 7) and its close relatives."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Interval
from torch import Tensor
from torch.nn.functional import logsigmoid

from uedpo.types import LossOutput, NonNegativeFloat, PositiveFloat

Form = Literal["sigmoid", "ipo", "hinge", "robust"]
Smoothing = Annotated[float, Interval(ge=0.0, lt=0.5)]
SMOOTHED = ("sigmoid", "robust")  # forms that label smoothing changes


def dpo_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    *,
    beta: PositiveFloat,
    form: Form = "sigmoid",
    label_smoothing: Smoothing = 0.0,
    length_normalised: bool = False,
    sft: NonNegativeFloat = 0.0,
    sample_weights: Tensor | None = None,
) -> LossOutput:
    """A function of D = S(chosen) - S(rejected), S the summed log-ratio of a response; mean over pairs.

    With e the label smoothing:
    "sigmoid": -(1 - e) log sigmoid(beta D) - e log sigmoid(-beta D); e > 0 is conservative DPO.
    "robust": (-(1 - e) log sigmoid(beta D) + e log sigmoid(-beta D)) / (1 - 2e) (arXiv 2403.00409).
    "ipo": (D - 1 / (2 beta))^2 (arXiv 2310.12036, equation 17); its authors and TRL divide S by the
    number of tokens, the original DPO code does not: choose with `length_normalised`.
    "hinge": max(0, 1 - beta D) (SLiC, arXiv 2309.06657).

    Args:
        policy_logps: nats [2B, T], chosen rows first; carries the gradient.
        reference_logps: nats [2B, T].
        mask: [2B, T], True on response tokens.
        weights: refused; token weights belong to `ue_dpo_loss`.
        beta: strength of the pull to the reference, > 0.
        label_smoothing: e in [0, 0.5).
        length_normalised: divide S by the response's number of tokens.
        sft: weight of the mean negative log-probability of all chosen tokens, added (RPO, arXiv
            2404.19733; LLaVA-Hound-DPO, arXiv 2404.01258, calls it gamma).
        sample_weights: [B], each pair's loss is multiplied by its own before the mean over B; not the sft
            term. None is 1.

    Raises:
        ValueError: shapes that differ, an odd number of rows, options out of range or that have no
            effect together, or weights given.
    """
    if weights is not None:
        raise ValueError("dpo_loss takes no token weights; use ue_dpo_loss or weights=uniform")
    check_rows(policy_logps, reference_logps, mask, beta)
    _check_form(form, label_smoothing, sft)
    policy, reference = masked(mask, policy_logps, reference_logps)
    if form == "sigmoid" and not (label_smoothing or length_normalised or sft):
        return preference_loss(policy, reference, beta, sample_weights)
    scores = (policy - reference).sum(-1)
    if length_normalised:
        scores = scores / mask.sum(-1).clamp(min=1)
    chosen, rejected = scores.chunk(2)
    losses = _losses(chosen - rejected, beta, form, label_smoothing)
    loss, metrics = weighted_mean(losses, sample_weights), preference_metrics(policy, reference, beta)
    if sft:
        num_tokens = mask.chunk(2)[0].sum().clamp(min=1)
        nll = -policy.chunk(2)[0].sum() / num_tokens
        loss, metrics = loss + sft * nll, {**metrics, "nll_chosen": nll.detach()}
    return LossOutput(loss, metrics)


def _losses(difference: Tensor, beta: float, form: Form, e: float) -> Tensor:
    """The loss of each pair [B] from its D; e is the label smoothing."""
    if form == "ipo":
        return (difference - 1 / (2 * beta)) ** 2
    if form == "hinge":
        return torch.relu(1 - beta * difference)
    kept, flipped = logsigmoid(beta * difference), logsigmoid(-beta * difference)
    if form == "sigmoid":
        return -(1 - e) * kept - e * flipped
    return (-(1 - e) * kept + e * flipped) / (1 - 2 * e)


def preference_loss(
    policy: Tensor, reference: Tensor, beta: float, sample_weights: Tensor | None = None
) -> LossOutput:
    """The sigmoid loss of per-token scores that are 0 where masked; metrics are plain means over pairs."""
    chosen, rejected = (policy - reference).sum(-1).chunk(2)
    margin = beta * (chosen - rejected)
    loss = weighted_mean(-logsigmoid(margin), sample_weights)
    return LossOutput(loss, preference_metrics(policy, reference, beta))


def weighted_mean(losses: Tensor, sample_weights: Tensor | None) -> Tensor:
    """Mean of weight times loss over pairs [B]; divided by B, not by the sum of weights, so that the parts of
    a batch on several devices add up."""
    return losses.mean() if sample_weights is None else (sample_weights.to(losses) * losses).mean()


def preference_metrics(policy: Tensor, reference: Tensor, beta: float) -> dict[str, Tensor]:
    """Detached margin, accuracy and both log-ratios of per-token scores that are 0 where masked."""
    chosen, rejected = (policy - reference).detach().sum(-1).chunk(2)
    margin = beta * (chosen - rejected)
    return {
        "margin": margin.mean(),
        "accuracy": (margin > 0).float().mean(),
        "log_ratio_chosen": chosen.mean(),
        "log_ratio_rejected": rejected.mean(),
    }


def masked(mask: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Each of `values` with 0 where masked, so that padding never reaches a sum or a gradient."""
    keep = mask.bool()
    return tuple(torch.where(keep, value, 0) for value in values)


def check_rows(
    policy_logps: Tensor,
    reference_logps: Tensor,
    mask: Tensor,
    beta: float,
    *,
    responses: int = 2,
    **more: Tensor,
) -> None:
    """Raise ValueError unless all are [responses x B, T] of one shape and beta > 0."""
    if policy_logps.dim() != 2 or not policy_logps.shape == reference_logps.shape == mask.shape:
        raise ValueError(f"policy_logps, reference_logps and mask must have one shape [{responses}B, T]")
    for name, value in more.items():
        if value.shape != mask.shape:
            raise ValueError(f"{name} {tuple(value.shape)} must have the shape of mask {tuple(mask.shape)}")
    if policy_logps.shape[0] == 0 or policy_logps.shape[0] % responses:
        raise ValueError(f"{policy_logps.shape[0]} rows: need {responses}B, the chosen ones first")
    if not beta > 0:
        raise ValueError(f"beta={beta}: must be greater than 0")


def _check_form(form: str, label_smoothing: float, sft: float) -> None:
    if form not in ("sigmoid", "ipo", "hinge", "robust"):
        raise ValueError(f"form={form!r}: must be one of sigmoid, ipo, hinge, robust")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing={label_smoothing}: must be in [0, 0.5)")
    if label_smoothing and form not in SMOOTHED:
        raise ValueError(f"label_smoothing={label_smoothing} has no effect with form={form}; set it to 0")
    if not sft >= 0:
        raise ValueError(f"sft={sft}: must be at least 0")
