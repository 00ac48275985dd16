"""The language head on response positions only, a chunk of the vocabulary axis at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from uedpo.errors import InputError
from uedpo.types import PairBatch, TokenScores

# logits held at once; 2^22 fp32 numbers are 16 MB, and larger chunks were no faster
CHUNK_ELEMENTS = 2**22


def token_scores(model: Any, hidden: Tensor, batch: PairBatch) -> TokenScores:
    """`TokenScores` of the N response tokens of `batch` from the states that predict them.

    Args:
        model: the image-text-to-text model itself, not a PEFT wrapper of it.
        hidden: last hidden states [N, H], in the order of `batch.layout.at`.
        batch: rows of responses, N tokens in all.

    Raises:
        InputError: the head is not a plain linear layer (an adapter on it would be ignored).
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        raise InputError(
            f"the language head is a {type(head).__name__}: scoring needs a plain Linear; "
            "take lm_head out of model.lora.target_modules"
        )
    at, shape = batch.layout.at, batch.mask.shape
    tokens = batch.tokens.flatten().index_select(0, at)
    scores = head_scores(hidden, head.weight, getattr(head, "bias", None), tokens)
    logps, target, argmax, entropy = (_spread(values, at, shape) for values in scores)
    return TokenScores(
        logps=logps,
        target_logits=target,
        argmax=argmax,
        entropy=entropy,
        hidden=_spread(hidden.detach(), at, shape),
        head=(head.weight.detach(), None if head.bias is None else head.bias.detach()),
    )


def head_scores(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(logps, target logits, argmax, entropy) of N tokens, each [N]; at least fp32.

    Log-probabilities and target logits are differentiable in `hidden`, and in the head where it is
    trainable; argmax (lowest id on ties) and entropy (nats) are not. Never more than one chunk of
    logits is alive, in the backward pass neither.

    Args:
        hidden: [N, H].
        weight, bias: of the head, [V, H] and [V] or None.
        tokens: [N].
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    trainable = weight.requires_grad or (bias is not None and bias.requires_grad)
    with torch.autocast(hidden.device.type, enabled=False):  # bf16 logits tie where fp32 ones do not
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
        if trainable and torch.is_grad_enabled():
            size = rows_at_once(weight)
            chunks = [
                checkpoint(_chunk, h, weight, bias, t, use_reentrant=False)[:4]
                for h, t in zip(torch.split(hidden, size), torch.split(tokens, size), strict=True)
            ]
            logps, target, argmax, entropy = (torch.cat(parts) for parts in zip(*chunks, strict=True))
            return logps, target, argmax, entropy
        apply: Any = _FrozenHead.apply
        scores: tuple[Tensor, Tensor, Tensor, Tensor] = apply(hidden, weight, bias, tokens)
        return scores


class _FrozenHead(torch.autograd.Function):
    """Head without a gradient of its own: d logp_t / d h_t = W[y_t] - p_t W is known in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor) -> Any:
        need = ctx.needs_input_grad[0]
        size = rows_at_once(weight)
        results, gradients = [], [hidden[:0]]
        for h, t in zip(torch.split(hidden, size), torch.split(tokens, size), strict=True):
            *scores, p = _chunk(h, weight, bias, t)
            results.append(scores)
            if need:
                gradients.append(torch.addmm(weight[t], p, weight, alpha=-1))
            del p
        logps, target, argmax, entropy = (torch.cat(parts) for parts in zip(*results, strict=True))
        if need:
            ctx.save_for_backward(torch.cat(gradients), weight, tokens)
        ctx.mark_non_differentiable(argmax, entropy)
        ctx.set_materialize_grads(False)
        return logps, target, argmax, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        logp_gradient, weight, tokens = ctx.saved_tensors
        for_logps, for_target = upstream[:2]
        gradient = None
        if for_logps is not None:
            gradient = for_logps[:, None] * logp_gradient
        if for_target is not None:
            rows = for_target[:, None] * weight[tokens]
            gradient = rows if gradient is None else gradient + rows
        return gradient, None, None, None


def _chunk(hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor) -> tuple[Tensor, ...]:
    """logps, target logits, argmax, entropy [n], and the probabilities [n, V]."""
    z = linear(hidden, weight, bias)
    target = z.gather(-1, tokens[:, None]).squeeze(-1)
    top, argmax = z.max(-1)  # documented to return the first of several maxima
    p = z.softmax(-1)
    # log p of the best is as exact as a logsumexp, which would take two more passes over [n, V]
    best = p.gather(-1, argmax[:, None]).squeeze(-1).log()
    logps = target - top + best
    with torch.no_grad():
        entropy = top - best - z.detach().mul_(p).sum(-1)
    return logps, target, argmax, entropy, p


def rows_at_once(weight: Tensor) -> int:
    """Tokens whose logits are held at once by a head of these weights [V, H]."""
    return max(1, CHUNK_ELEMENTS // weight.shape[0])


def _spread(values: Tensor, at: Tensor, shape: torch.Size) -> Tensor:
    """[N, ...] -> [rows, T, ...], 0 where masked."""
    rest = values.shape[1:]
    return values.new_zeros(shape.numel(), *rest).index_copy(0, at, values).view(*shape, *rest)
