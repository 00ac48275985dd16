"""Token signals and exploration weights of UE-DPO (arXiv 2605.04874, sections 3 and 4).

Pure functions of tensors. The [B, T, V] signal functions are the readable definition; training
takes the same numbers from `TokenScores` without holding the vocabulary axis.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

EPS = 1e-6
Branch = Literal["chosen", "rejected"]
Center = Literal["mean", "median", "first_quartile"]
Scope = Literal["response", "batch"]
Select = Literal["sensitivity", "signal", "all"]


def epistemic_uncertainty(clear_logits: Tensor, corrupted_logits: Tensor, tokens: Tensor) -> Tensor:
    """u_t = z(ahat_t | v) - z(a_t | v) with ahat_t = argmax_a z(a | v'), in logits.

    Positive where the model, seeing the clear image, still prefers what it would say without
    seeing; 0 where the corrupted guess is the token itself.

    Args:
        clear_logits: [B, T, V] given the clear image; `clear_logits[:, t]` predicts `tokens[:, t]`.
        corrupted_logits: [B, T, V] given the corrupted image.
        tokens: [B, T].

    Returns:
        fp32 (or fp64 for fp64 input) [B, T]. Argmax ties go to the lowest id.

    Raises:
        ValueError: on shapes that do not match.
    """
    clear, corrupted = _checked(clear_logits, corrupted_logits, tokens)
    best = corrupted.max(-1, keepdim=True).values
    # argmax does not promise which of several maxima it returns
    guess = (corrupted == best).to(torch.int8).argmax(-1, keepdim=True)
    return (clear.gather(-1, guess) - clear.gather(-1, tokens[..., None])).squeeze(-1)


def visual_sensitivity(clear_logits: Tensor, corrupted_logits: Tensor, tokens: Tensor) -> Tensor:
    """Delta_t = z(a_t | v) - z(a_t | v'), in logits: how much seeing supports the token.

    Args, returns and raises as in `epistemic_uncertainty`.
    """
    clear, corrupted = _checked(clear_logits, corrupted_logits, tokens)
    index = tokens[..., None]
    return (clear.gather(-1, index) - corrupted.gather(-1, index)).squeeze(-1)


def ue_dpo_weights(
    clear_logits: Tensor,
    corrupted_logits: Tensor,
    tokens: Tensor,
    mask: Tensor,
    *,
    branch: Branch,
    alpha: float = 0.3,
    tau: float = 0.4,
    center: Center = "mean",
    scope: Scope = "response",
) -> Tensor:
    """lambda of one branch from two sets of logits: the whole of arXiv 2605.04874, section 4, in one call.

    For a loop of your own; it needs the whole vocabulary axis, which training here never holds.

    Args:
        clear_logits: [B, T, V] given the clear image; `clear_logits[:, t]` predicts `tokens[:, t]`.
        corrupted_logits: [B, T, V] given the corrupted image.
        tokens: response tokens [B, T].
        mask: bool [B, T], True on response tokens of rows with an image.
        branch: "chosen" or "rejected": whose responses these are.
        alpha, tau, center, scope: see `exploration_weights`.

    Returns:
        Detached fp32 weights [B, T]; 1 where `mask` is False.

    Raises:
        ValueError: shapes that do not match, or options out of range.
    """
    uncertainty = epistemic_uncertainty(clear_logits, corrupted_logits, tokens)
    sensitivity = visual_sensitivity(clear_logits, corrupted_logits, tokens)
    return exploration_weights(
        uncertainty, sensitivity, mask, branch=branch, alpha=alpha, tau=tau, center=center, scope=scope
    )


def _checked(clear: Tensor, corrupted: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    if clear.shape != corrupted.shape or clear.shape[:-1] != tokens.shape or clear.dim() != 3:
        raise ValueError(
            f"expected logits [B, T, V] twice and tokens [B, T], got {tuple(clear.shape)}, "
            f"{tuple(corrupted.shape)}, {tuple(tokens.shape)}"
        )
    dtype = torch.promote_types(clear.dtype, torch.float32)
    return clear.detach().to(dtype), corrupted.detach().to(dtype)


def select_tokens(sensitivity: Tensor, mask: Tensor, *, branch: Branch, tau: float, scope: Scope) -> Tensor:
    """I: the visually insensitive (chosen) or sensitive (rejected) tokens, bool [B, T].

    With n tokens in scope, the floor(tau (n - 1) + 1e-9) + 1 lowest (rejected: highest) Delta and
    all ties with the last of them.
    """
    key = sensitivity if branch == "chosen" else -sensitivity
    key = torch.where(mask, key, torch.inf)
    if scope == "batch":
        key = key.reshape(1, -1)
    num = mask.reshape(key.shape).sum(-1)
    if key.shape[-1] == 0:
        return torch.zeros_like(mask)
    rank = (tau * (num.double() - 1) + 1e-9).floor().long().clamp(min=0)
    threshold = key.sort(-1).values.gather(-1, rank[:, None])
    return (key <= threshold).reshape(mask.shape) & mask


def choose_tokens(
    uncertainty: Tensor,
    sensitivity: Tensor,
    mask: Tensor,
    *,
    branch: Branch,
    tau: float,
    scope: Scope,
    select: Select,
) -> Tensor:
    """I by another rule, bool [B, T].

    "sensitivity" is `select_tokens`, the paper's; "signal" takes the share tau with the highest
    `uncertainty` in both branches; "all" takes every response token.
    """
    if select == "all":
        return mask.bool()
    if select == "signal":
        return select_tokens(uncertainty, mask, branch="rejected", tau=tau, scope=scope)
    return select_tokens(sensitivity, mask, branch=branch, tau=tau, scope=scope)


def exploration_weights(
    uncertainty: Tensor,
    sensitivity: Tensor,
    mask: Tensor,
    *,
    branch: Branch,
    alpha: float,
    tau: float,
    center: Center = "mean",
    scope: Scope = "response",
    select: Select = "sensitivity",
) -> Tensor:
    """lambda_t = 1 +- alpha 1[t in I] sigmoid((u_t - mu_I) / s_I); + for chosen, - for rejected.

    mu_I is the mean, median or first quartile (linear interpolation) of u over I; s_I its
    population standard deviation. |I| < 2 or s_I < 1e-6 gives 1 +- alpha / 2; tokens outside I or
    masked, and empty responses, weigh 1. METHOD section 4; the quantile is the paper's without its
    rounding traps (see `select_tokens`).

    Args:
        uncertainty: u, or another signal in its place, [B, T].
        sensitivity: Delta [B, T].
        mask: bool [B, T], True on response tokens.
        branch: "chosen" or "rejected".
        alpha: strength in [0, 1]; 0 gives weights of exactly 1.
        tau: share selected, in (0, 0.5].
        center: what mu_I is.
        scope: whether I, mu_I and s_I are taken per response or over the whole batch given.
        select: what I is, see `choose_tokens`.

    Returns:
        Detached weights [B, T] in the dtype of `uncertainty`.

    Raises:
        ValueError: alpha, tau, branch, center, scope or select out of range, or shapes that differ.
    """
    _check_options(alpha, tau, branch, center, scope, select)
    if not uncertainty.shape == sensitivity.shape == mask.shape:
        raise ValueError("uncertainty, sensitivity and mask must have one shape [B, T]")
    uncertainty, mask = uncertainty.detach(), mask.bool()
    selected = choose_tokens(
        uncertainty, sensitivity.detach(), mask, branch=branch, tau=tau, scope=scope, select=select
    )
    rows_u = uncertainty.reshape(1, -1) if scope == "batch" else uncertainty
    rows_i = selected.reshape(rows_u.shape)
    num = rows_i.sum(-1, keepdim=True)
    mean = torch.where(rows_i, rows_u, 0).sum(-1, keepdim=True) / num.clamp(min=1)
    spread = torch.where(rows_i, (rows_u - mean) ** 2, 0).sum(-1, keepdim=True) / num.clamp(min=1)
    spread = spread.sqrt()
    middle = mean if center == "mean" else _quantile(rows_u, rows_i, 0.5 if center == "median" else 0.25)
    flat = (num < 2) | (spread < EPS)
    z = torch.where(flat, 0.0, (rows_u - middle) / spread.clamp(min=EPS)).reshape(mask.shape)
    sign = 1.0 if branch == "chosen" else -1.0
    return torch.where(selected, 1.0 + sign * alpha * torch.sigmoid(z), 1.0).to(uncertainty.dtype)


def _quantile(values: Tensor, keep: Tensor, q: float) -> Tensor:
    """Linear-interpolation quantile of the kept values of each row, [R, T] -> [R, 1]."""
    if values.shape[-1] == 0:
        return values.new_zeros(values.shape[0], 1)
    ordered = torch.where(keep, values, torch.inf).sort(-1).values
    last = (keep.sum(-1, keepdim=True) - 1).clamp(min=0)
    at = last.to(values.dtype) * q
    low, high = ordered.gather(-1, at.floor().long()), ordered.gather(-1, at.ceil().long())
    result = low + (high - low) * (at - at.floor())
    return torch.where(keep.any(-1, keepdim=True), result, 0)


def _check_options(alpha: float, tau: float, branch: str, center: str, scope: str, select: str) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: must be in [0, 1]; 0 gives plain DPO")
    if not 0 < tau <= 0.5:
        raise ValueError(f"tau={tau}: must be in (0, 0.5]")
    for name, value, allowed in (
        ("branch", branch, ("chosen", "rejected")),
        ("center", center, ("mean", "median", "first_quartile")),
        ("scope", scope, ("response", "batch")),
        ("select", select, ("sensitivity", "signal", "all")),
    ):
        if value not in allowed:
            raise ValueError(f"{name}={value!r}: must be one of {', '.join(allowed)}")
