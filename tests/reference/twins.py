"""Independent numpy versions of every formula, one token at a time and float64: slow, readable."""

from __future__ import annotations

import math

import numpy as np


def uncertainty(clear, corrupted, tokens):
    out = np.zeros(tokens.shape)
    for b, t in np.ndindex(tokens.shape):
        row = list(corrupted[b, t])
        guess = row.index(max(row))
        out[b, t] = clear[b, t, guess] - clear[b, t, tokens[b, t]]
    return out


def sensitivity(clear, corrupted, tokens):
    out = np.zeros(tokens.shape)
    for b, t in np.ndindex(tokens.shape):
        out[b, t] = clear[b, t, tokens[b, t]] - corrupted[b, t, tokens[b, t]]
    return out


def _lambda_of_list(u, delta, branch, alpha, tau, center, select):
    n = len(u)
    if n == 0:
        return []
    if select == "all":
        key = [0] * n
    elif select == "signal":
        key = [-x for x in u]
    else:
        key = list(delta) if branch == "chosen" else [-d for d in delta]
    cut = sorted(key)[math.floor(tau * (n - 1) + 1e-9)]
    inside = [i for i in range(n) if key[i] <= cut]
    values = [u[i] for i in inside]
    mean = sum(values) / len(values)
    s = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    mu = {"mean": mean, "median": np.percentile(values, 50), "first_quartile": np.percentile(values, 25)}[
        center
    ]
    sign = 1 if branch == "chosen" else -1
    out = [1.0] * n
    for i in inside:
        z = 0.0 if len(inside) < 2 or s < 1e-6 else (u[i] - mu) / s
        out[i] = 1 + sign * alpha / (1 + math.exp(-z))
    return out


def weights(u, delta, mask, branch, alpha, tau, center="mean", scope="response", select="sensitivity"):
    out = np.ones(u.shape)
    groups = (
        [np.argwhere(mask)]
        if scope == "batch"
        else [
            np.array([(b, t) for t in range(u.shape[1]) if mask[b, t]]).reshape(-1, 2)
            for b in range(u.shape[0])
        ]
    )
    for cells in groups:
        values = _lambda_of_list(
            [u[b, t] for b, t in cells], [delta[b, t] for b, t in cells], branch, alpha, tau, center, select
        )
        for (b, t), value in zip(cells, values, strict=True):
            out[b, t] = value
    return out


def ue_dpo(policy, reference, mask, lam, beta, weight_on="policy"):
    """(loss, gradient with respect to policy)."""
    pairs = policy.shape[0] // 2
    losses, grad = [], np.zeros(policy.shape)
    for i in range(pairs):
        margin = 0.0
        for row, sign in ((i, 1), (i + pairs, -1)):
            for t in range(policy.shape[1]):
                if mask[row, t]:
                    scale = lam[row, t] if weight_on == "log_ratio" else 1.0
                    margin += sign * beta * (lam[row, t] * policy[row, t] - scale * reference[row, t])
        losses.append(math.log1p(math.exp(-margin)))
        for row, sign in ((i, 1), (i + pairs, -1)):
            for t in range(policy.shape[1]):
                if mask[row, t]:
                    grad[row, t] = -sign * beta / (1 + math.exp(margin)) * lam[row, t] / pairs
    return sum(losses) / pairs, grad
