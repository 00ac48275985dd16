"""Independent numpy versions of the compared methods, one token at a time, gradients derived by hand.

Each returns (loss, gradient with respect to policy, ...). Rows: B chosen, then B rejected.
"""

from __future__ import annotations

import math

import numpy as np


def nls(x):
    """-log sigmoid(x); its derivative is -sig(-x)."""
    return max(-x, 0.0) + math.log1p(math.exp(-abs(x)))


def sig(x):
    return math.exp(-nls(x))


def total(value, mask, row):
    return sum(value[row, t] for t in range(mask.shape[1]) if mask[row, t])


def length(mask, row):
    return sum(1 for t in range(mask.shape[1]) if mask[row, t])


def push(grad, mask, row, slope):
    """Each token of the row enters the row's sum with coefficient 1."""
    for t in range(mask.shape[1]):
        if mask[row, t]:
            grad[row, t] += slope


def dpo(policy, reference, mask, beta, form="sigmoid", label_smoothing=0.0, length_normalised=False, sft=0.0):
    pairs, e = len(mask) // 2, label_smoothing
    loss, grad = 0.0, np.zeros(mask.shape)
    for w in range(pairs):
        l = w + pairs  # noqa: E741
        over_w, over_l = (max(length(mask, row), 1) if length_normalised else 1 for row in (w, l))
        d = (total(policy, mask, w) - total(reference, mask, w)) / over_w
        d -= (total(policy, mask, l) - total(reference, mask, l)) / over_l
        x = beta * d
        if form == "sigmoid":
            value = (1 - e) * nls(x) + e * nls(-x)
            slope = beta * (-(1 - e) * sig(-x) + e * sig(x))
        elif form == "robust":
            value = ((1 - e) * nls(x) - e * nls(-x)) / (1 - 2 * e)
            slope = beta * (-(1 - e) * sig(-x) - e * sig(x)) / (1 - 2 * e)
        elif form == "ipo":
            value = (d - 1 / (2 * beta)) ** 2
            slope = 2 * (d - 1 / (2 * beta))
        elif form == "hinge":
            value = max(0.0, 1 - x)
            slope = -beta if x < 1 else 0.0
        loss += value / pairs
        push(grad, mask, w, slope / over_w / pairs)
        push(grad, mask, l, -slope / over_l / pairs)
    tokens = sum(length(mask, w) for w in range(pairs))
    for w in range(pairs):
        if tokens:
            loss -= sft * total(policy, mask, w) / tokens
            push(grad, mask, w, -sft / tokens)
    return loss, grad


def tpo(policy, reference, mask, policy_sensitivity, reference_sensitivity, beta):
    """Also the gradient with respect to policy_sensitivity."""
    pairs = len(mask) // 2
    loss, grad, grad_s = 0.0, np.zeros(mask.shape), np.zeros(mask.shape)
    for i in range(pairs):
        x = 0.0
        for t in range(mask.shape[1]):
            if mask[i, t]:
                x += beta * (policy[i, t] + math.log(0.5 + sig(policy_sensitivity[i, t])))
                x -= beta * (reference[i, t] + math.log(0.5 + sig(reference_sensitivity[i, t])))
            j = i + pairs
            if mask[j, t]:
                x -= beta * (policy[j, t] + math.log(1.5 - sig(policy_sensitivity[j, t])))
                x += beta * (reference[j, t] + math.log(1.5 - sig(reference_sensitivity[j, t])))
        loss += nls(x) / pairs
        slope = -beta * sig(-x) / pairs
        push(grad, mask, i, slope)
        push(grad, mask, j, -slope)
        for t in range(mask.shape[1]):
            if mask[i, t]:
                p = sig(policy_sensitivity[i, t])
                grad_s[i, t] = slope * p * (1 - p) / (0.5 + p)
            if mask[j, t]:
                # two minus signs cancel: the rejected score is subtracted, and its weight falls with s
                p = sig(policy_sensitivity[j, t])
                grad_s[j, t] = slope * p * (1 - p) / (1.5 - p)
    return loss, grad, grad_s


def v_dpo(policy, reference, mask, corrupted_policy, beta, gamma, label_smoothing=0.0):
    pairs, e = len(mask) // 2, label_smoothing
    loss, grad = 0.0, np.zeros(mask.shape)
    for i in range(pairs):
        x = 0.0
        for row, sign in ((i, 1), (i + pairs, -1)):
            for t in range(mask.shape[1]):
                if mask[row, t]:
                    guided = gamma * policy[row, t] - (gamma - 1) * corrupted_policy[row, t]
                    x += sign * beta * (guided - reference[row, t])
        loss += ((1 - e) * nls(x) + e * nls(-x)) / pairs
        slope = beta * gamma * (e * sig(x) - (1 - e) * sig(-x)) / pairs
        push(grad, mask, i, slope)
        push(grad, mask, i + pairs, -slope)
    return loss, grad


def mdpo(
    policy,
    reference,
    mask,
    corrupted_policy,
    corrupted_reference,
    beta,
    image=1.0,
    anchor=1.0,
    anchor_margin=0.0,
):
    """Also the gradient with respect to corrupted_policy."""
    loss, grad = dpo(policy, reference, mask, beta)
    pairs, grad_c = len(mask) // 2, np.zeros(mask.shape)
    for w in range(pairs):
        of_policy = total(policy, mask, w) - total(corrupted_policy, mask, w)
        of_reference = total(reference, mask, w) - total(corrupted_reference, mask, w)
        x = beta * (of_policy - of_reference)
        loss += image * nls(x) / pairs
        push(grad, mask, w, -image * beta * sig(-x) / pairs)
        push(grad_c, mask, w, image * beta * sig(-x) / pairs)
        x = beta * (total(policy, mask, w) - total(reference, mask, w)) - anchor_margin
        loss += anchor * nls(x) / pairs
        push(grad, mask, w, -anchor * beta * sig(-x) / pairs)
    return loss, grad, grad_c


def napo_q(policy, reference, mask, block, alpha, average):
    """q of the negatives in the given block of rows (2 question-only, 3 image-only)."""
    pairs, psi = len(mask) // 4, 0.0
    for w in range(pairs):
        for row, sign in ((w, 1), (w + block * pairs, -1)):
            over = max(length(mask, row), 1) if average else 1
            psi += sign * (total(policy, mask, row) - total(reference, mask, row)) / over / pairs
    return min(max(2 * (1 - sig(alpha * psi)), 0.001), 1.0)


def napo(
    policy,
    reference,
    mask,
    beta,
    rejected=0.04,
    question_only=0.48,
    image_only=0.48,
    alpha_question=0.5,
    alpha_image=0.01,
):
    pairs = len(mask) // 4
    loss, grad = 0.0, np.zeros(mask.shape)
    q = {
        2: napo_q(policy, reference, mask, 2, alpha_question, average=True),
        3: napo_q(policy, reference, mask, 3, alpha_image, average=False),
    }
    for w in range(pairs):
        chosen = total(policy, mask, w) - total(reference, mask, w)
        for block, share in ((1, rejected), (2, question_only), (3, image_only)):
            k = w + block * pairs
            m = beta * (chosen - total(policy, mask, k) + total(reference, mask, k))
            if block == 1:
                value, slope = nls(m), -sig(-m)
            else:
                value = (1 - sig(m) ** q[block]) / q[block]
                slope = -(sig(m) ** q[block]) * sig(-m)  # q constant; sig' = sig(m) sig(-m)
            loss += share * value / pairs
            push(grad, mask, w, share * slope * beta / pairs)
            push(grad, mask, k, -share * slope * beta / pairs)
    return loss, grad


def rlhf_v(policy, reference, mask, weights, beta, average=False):
    pairs = len(mask) // 2
    loss, grad = 0.0, np.zeros(mask.shape)
    for i in range(pairs):
        x, over = 0.0, {}
        for row, sign in ((i, 1), (i + pairs, -1)):
            score = total(weights * (policy - reference), mask, row)
            over[row] = (total(weights, mask, row) or 1.0) if average else 1.0
            x += sign * beta * score / over[row]
        loss += nls(x) / pairs
        for row, sign in ((i, 1), (i + pairs, -1)):
            for t in range(mask.shape[1]):
                if mask[row, t]:
                    grad[row, t] = -sign * beta * sig(-x) * weights[row, t] / over[row] / pairs
    return loss, grad


def opa_dpo(policy, reference, mask, weights, beta, anchor=1.0, anchor_margin=0.0):
    pairs = len(mask) // 2
    loss, grad = 0.0, np.zeros(mask.shape)
    positions = [
        (i, t) for i in range(pairs) for t in range(mask.shape[1]) if mask[i, t] or mask[i + pairs, t]
    ]
    n = len(positions)
    for i, t in positions:
        j = i + pairs
        chosen = policy[i, t] - reference[i, t] if mask[i, t] else 0.0
        of_chosen = weights[i, t] if mask[i, t] else 0.0
        rejected = policy[j, t] - reference[j, t] if mask[j, t] else 0.0
        of_rejected = weights[j, t] if mask[j, t] else 0.0
        x = beta * (of_chosen * chosen - of_rejected * rejected)
        y = beta * chosen - anchor_margin
        loss += (nls(x) + anchor * nls(y)) / n
        if mask[i, t]:
            grad[i, t] = -beta * (sig(-x) * of_chosen + anchor * sig(-y)) / n
        if mask[j, t]:
            grad[j, t] = beta * sig(-x) * of_rejected / n
    return loss, grad


def da_dpo(policy, reference, mask, similarity, beta, scale=1.0):
    pairs = len(mask) // 2
    loss, grad = 0.0, np.zeros(mask.shape)
    for i in range(pairs):
        j = i + pairs
        rate = beta * (abs(similarity[i] - similarity[j]) + 1) * scale
        x = rate * (total(policy, mask, i) - total(reference, mask, i))
        x -= rate * (total(policy, mask, j) - total(reference, mask, j))
        loss += nls(x) / pairs
        push(grad, mask, i, -rate * sig(-x) / pairs)
        push(grad, mask, j, rate * sig(-x) / pairs)
    return loss, grad


def longest_common_block(a, b):
    """Length of the longest run of tokens that both lists contain, by trying every pair of starts."""
    best = 0
    for i in range(len(a)):
        for j in range(len(b)):
            n = 0
            while i + n < len(a) and j + n < len(b) and a[i + n] == b[j + n]:
                n += 1
            best = max(best, n)
    return best
