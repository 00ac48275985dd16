"""Losses of the methods against values derived by hand."""

import math

import numpy as np
import pytest
import torch

from tests.reference import method_twins as twins
from tests.unit.test_methods import dict_of, evaluate, random_case
from uedpo.loss import (
    da_dpo_loss,
    dpo_loss,
    mdpo_loss,
    napo_loss,
    opa_dpo_loss,
    rlhf_v_loss,
    tpo_loss,
    v_dpo_loss,
)


def nls(x):
    return math.log1p(math.exp(-x))


def value(loss, policy, reference, *, mask=None, **options):
    x = torch.tensor(policy, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64)
    mask = torch.ones_like(x[0]) if mask is None else torch.tensor(mask)
    options = {
        k: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v for k, v in options.items()
    }
    return loss(*x, mask, **options).loss.item()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # sums: chosen 0.5, rejected -0.25, D = 0.75; per-token means: 0.25, -0.25 (one token), D = 0.5
        ({"beta": 2.0}, nls(1.5)),
        ({"beta": 2.0, "length_normalised": True}, nls(1.0)),
        ({"beta": 2.0, "label_smoothing": 0.25}, 0.75 * nls(1.5) + 0.25 * nls(-1.5)),
        ({"beta": 2.0, "form": "robust", "label_smoothing": 0.25}, 1.5 * nls(1.5) - 0.5 * nls(-1.5)),
        ({"beta": 0.5, "form": "ipo"}, 0.0625),
        ({"beta": 0.5, "form": "ipo", "length_normalised": True}, 0.25),
        ({"beta": 1.0, "form": "hinge"}, 0.25),
        ({"beta": 2.0, "form": "hinge"}, 0.0),
        # chosen tokens -1 and -0.5: minus their mean is 0.75
        ({"beta": 2.0, "sft": 2.0}, nls(1.5) + 1.5),
    ],
)
def test_dpo_forms_hand_derived(options, expected):
    mask = [[True, True], [True, False]]
    assert value(
        dpo_loss, [[-1, -0.5], [-1, 9]], [[-1.25, -0.75], [-0.75, 9]], mask=mask, **options
    ) == pytest.approx(expected, abs=1e-12)


def test_sft_is_a_mean_over_tokens_not_over_rows():
    # chosen rows of 1 and 3 tokens, log-probs -4 and -1, -1, -2: -mean = 2; policy = reference gives log 2
    logps = [[-4.0, 0, 0], [-1, -1, -2], [-1, 0, 0], [-1, 0, 0]]
    mask = [[True, False, False], [True] * 3, [True, False, False], [True, False, False]]
    assert value(dpo_loss, logps, logps, mask=mask, beta=0.1, sft=1.0) == pytest.approx(math.log(2) + 2)


def test_tpo_hand_derived():
    # sigmoid(log 3) = 3/4: c = 5/4 chosen, 3/4 rejected; policy = reference, so margin log(5/3)
    s = [[math.log(3)], [math.log(3)]]
    same = [[-1.0], [-2.0]]
    options = {"policy_sensitivity": s, "reference_sensitivity": [[0.0], [0.0]], "beta": 1.0}
    assert value(tpo_loss, same, same, **options) == pytest.approx(math.log(1.6), abs=1e-12)
    # the same weights in the reference cancel
    options["reference_sensitivity"] = s
    assert value(tpo_loss, same, same, **options) == pytest.approx(math.log(2), abs=1e-12)


def test_v_dpo_hand_derived():
    # chosen 2 * -1 + 2 = 0 against -1; rejected 2 * -1 + 1 = -1 against -1: margin 1, slope 2 * -sigmoid(-1)
    policy = torch.tensor([[-1.0], [-1.0]], requires_grad=True)
    reference, corrupted = torch.tensor([[-1.0], [-1.0]]), torch.tensor([[-2.0], [-1.0]])
    out = v_dpo_loss(
        policy, reference, torch.ones(2, 1), corrupted_policy_logps=corrupted, beta=1.0, gamma=2.0
    )
    assert out.loss.item() == pytest.approx(nls(1.0))
    out.loss.backward()
    assert policy.grad[0].item() == pytest.approx(-2 / (1 + math.e))


def test_mdpo_hand_derived():
    # margins: pair 1, image (-1 + 3) - (-2 + 2) = 2, anchor 1 - 0.5
    options = {"corrupted_policy_logps": [[-3.0], [7.0]], "corrupted_reference_logps": [[-2.0], [8.0]]}
    got = value(mdpo_loss, [[-1.0], [-1.0]], [[-2.0], [-1.0]], beta=1.0, anchor_margin=0.5, **options)
    assert got == pytest.approx(nls(1.0) + nls(2.0) + nls(0.5), abs=1e-12)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # chosen log-ratio log 3 in each of 2 tokens, the others 0: every m = log 9, sigmoid 9/10
        ({"rejected": 1.0, "question_only": 0.0, "image_only": 0.0}, math.log(10 / 9)),
        # alpha psi = log 3 (mean with alpha 1, sum with alpha 1/2): q = 2 (1 - 3/4) = 1/2
        ({"rejected": 0.0, "question_only": 1.0, "image_only": 0.0}, 2 * (1 - math.sqrt(0.9))),
        ({"rejected": 0.0, "question_only": 0.0, "image_only": 1.0}, 2 * (1 - math.sqrt(0.9))),
        (
            {"rejected": 0.5, "question_only": 0.25, "image_only": 0.25},
            0.5 * math.log(10 / 9) + (1 - math.sqrt(0.9)),
        ),
    ],
)
def test_napo_hand_derived(options, expected):
    reference = np.full((4, 2), -2.0)
    policy = reference.copy()
    policy[0] += math.log(3)
    got = value(napo_loss, policy, reference, beta=1.0, alpha_question=1.0, alpha_image=0.5, **options)
    assert got == pytest.approx(expected, abs=1e-12)


def test_napo_defaults_at_step_zero():
    # q = 1 and sigmoid(m) = 1/2: 0.04 log 2 + 2 * 0.48 / 2
    same = np.full((8, 3), -1.0)
    assert value(napo_loss, same, same, beta=0.1) == pytest.approx(0.04 * math.log(2) + 0.48)


def test_napo_keeps_its_digits_in_float32_at_the_smallest_q():
    _, mask, (policy, reference) = random_case(1, blocks=4, masked=0.0)
    policy[: len(mask) // 4] += 20.0  # a large margin: q = 0.001
    options = {"beta": 0.02, "rejected": 0.0, "alpha_question": 5.0, "alpha_image": 5.0}
    assert twins.napo_q(policy, reference, mask, 2, 5.0, average=True) == 0.001
    inputs = dict_of(policy.astype(np.float32), reference.astype(np.float32), mask)
    loss, grad = evaluate(napo_loss, inputs, **options)
    expected, expected_grad = twins.napo(policy, reference, mask, **options)
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=1e-9)


def test_rlhf_v_hand_derived():
    # chosen 2 * 0.5 + 1 * 0.25 = 1.25 (5/12 if averaged over weights of sum 3), rejected 0, beta 2
    policy, reference, weights = [[-1.0, -0.5], [-1, -1]], [[-1.5, -0.75], [-1, -1]], [[2.0, 1.0], [1, 1]]
    got = value(rlhf_v_loss, policy, reference, weights=weights, beta=2.0)
    assert got == pytest.approx(nls(2.5), abs=1e-12)
    got = value(rlhf_v_loss, policy, reference, weights=weights, beta=2.0, average=True)
    assert got == pytest.approx(nls(2.5 / 3), abs=1e-12)


def test_opa_dpo_hand_derived():
    # log-ratios: chosen 1 and -1, rejected 1 in one token: x = 2.5 - 2 and -1; anchor 1 - 0.5 and -1 - 0.5
    got = value(
        opa_dpo_loss,
        [[-1.0, -2.0], [-1, 9]],
        [[-2.0, -1.0], [-2, 3]],
        mask=[[True, True], [True, False]],
        weights=[[2.5, 1.0], [2.0, 5.0]],
        beta=1.0,
        anchor_margin=0.5,
    )
    assert got == pytest.approx((nls(0.5) + nls(-1) + nls(0.5) + nls(-1.5)) / 2, abs=1e-12)


def test_da_dpo_hand_derived():
    # omega = (|0.25 - 0.75| + 1) * 2 = 3, D = 1, beta 1/2
    got = value(da_dpo_loss, [[-1.0], [-1.0]], [[-2.0], [-1.0]], similarity=[0.25, 0.75], beta=0.5, scale=2.0)
    assert got == pytest.approx(nls(1.5), abs=1e-12)
