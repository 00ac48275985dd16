"""Signals in the place of u, from the scores a step has anyway, and the probe's KL divergence.

All are [2B, T], detached, higher where the model is less sure of the token.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

from uedpo.scoring.head import rows_at_once
from uedpo.types import TokenScores

Signal = Literal["uncertainty", "entropy", "surprisal", "margin", "kl"]
NEEDS_PROBE = ("uncertainty", "kl")


@torch.no_grad()
def token_signal(
    signal: Signal,
    clear: TokenScores,
    corrupted: TokenScores | None,
    tokens: Tensor,
    mask: Tensor,
    at: Tensor | None = None,
) -> Tensor:
    """One signal for every response token, 0 where masked.

    "uncertainty": u (arXiv 2605.04874), logits. "entropy": of the next-token distribution, nats.
    "surprisal": -log p of the token, nats. "margin": best logit minus the token's. "kl": KL from the
    distribution given the clear image to that given the corrupted one, nats.

    Args:
        at: where `mask` is true, see `uedpo.types.layout.Layout`; found where it is left out.

    Raises:
        ValueError: unknown signal, or one that needs `corrupted` without it.
    """
    if signal in NEEDS_PROBE and corrupted is None:
        raise ValueError(f"signal={signal} needs the scores given the corrupted image")
    if signal == "entropy":
        value = clear.entropy
    elif signal == "surprisal":
        value = -clear.logps.detach()
    elif signal == "margin":
        value = _gap(clear, clear.argmax, tokens)
    elif signal == "uncertainty":
        assert corrupted is not None
        value = _gap(clear, corrupted.argmax, tokens)
    elif signal == "kl":
        assert corrupted is not None
        return kl_divergence(clear, corrupted, mask, at)
    else:
        raise ValueError(f"signal={signal!r}: must be uncertainty, entropy, surprisal, margin or kl")
    return torch.where(mask, value, 0)


def _gap(clear: TokenScores, guess: Tensor, tokens: Tensor) -> Tensor:
    """Logit of the guess minus that of the token."""
    other = clear.logits_of(guess) - clear.target_logits.detach()
    # the two logits come from different kernels: 0 must be exactly 0 where the guess is the token
    return torch.where(guess == tokens, 0, other)


@torch.no_grad()
def kl_divergence(
    clear: TokenScores, corrupted: TokenScores, mask: Tensor, at: Tensor | None = None
) -> Tensor:
    """KL(p(. given v) || p(. given v')) in nats, fp32 [2B, T], 0 where masked."""
    weight, bias = clear.head
    weight, bias = weight.float(), None if bias is None else bias.float()
    parts, rows = [], rows_at_once(weight)
    at = mask.flatten().nonzero().squeeze(1) if at is None else at
    states = (scores.hidden.flatten(0, 1).index_select(0, at).split(rows) for scores in (clear, corrupted))
    pairs = zip(*states, strict=True)
    with torch.autocast(mask.device.type, enabled=False):
        for a, b in pairs:
            log_p = linear(a.float(), weight, bias).log_softmax(-1)
            log_q = linear(b.float(), weight, bias).log_softmax(-1)
            parts.append((log_p.exp() * (log_p - log_q)).sum(-1))
    values = torch.cat(parts) if parts else clear.logps.new_zeros(0)
    return clear.logps.detach().new_zeros(mask.numel()).index_copy(0, at, values).view(mask.shape)
