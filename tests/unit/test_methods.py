"""The compared methods against independent numpy twins, their neutral settings and hand-derived values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import method_twins as twins
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
from uedpo.loss.opa_dpo import rating_weights
from uedpo.weights.segments import segment_weights

many = settings(max_examples=220, deadline=None)
seeds, betas = st.integers(0, 10**6), st.floats(0.01, 2)
shares, smoothings = st.floats(0, 2), st.floats(0, 0.49)


def random_case(seed, arrays=2, blocks=2, masked=float("nan")):
    """A ragged mask (some rows may have no token, some have holes) and arrays that are NaN outside it."""
    rng = np.random.default_rng(seed)
    rows, t = blocks * rng.integers(1, 5), rng.integers(1, 9)
    mask = np.arange(t) < rng.integers(0, t + 1, rows)[:, None]
    if rng.random() < 0.25:
        mask &= rng.random(mask.shape) < 0.7
    logps = -rng.exponential(size=(arrays, rows, t))
    return rng, mask, np.where(mask, logps, masked)


def dict_of(policy, reference, mask, **others):
    return {"policy_logps": policy, "reference_logps": reference, "mask": mask, **others}


def evaluate(loss, inputs, leaves=("policy_logps",), **options):
    """The loss and its gradients with respect to the leaves (None where there is none)."""
    x = {name: torch.tensor(value) for name, value in inputs.items()}
    for leaf in leaves:
        x[leaf].requires_grad_()
    out = loss(**x, **options)
    out.loss.backward()
    for name, value in out.metrics.items():
        assert value.dim() == 0, name
        assert not value.requires_grad, name
        assert torch.isfinite(value), name
    return out.loss.item(), *(x[leaf].grad for leaf in leaves)


def assert_same(results, expected):
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, value, rtol=1e-9, atol=1e-9, equal_nan=False)


# against the twins: value and gradient, ragged, NaN outside the mask


@many
@given(
    seed=seeds,
    beta=betas,
    form=st.sampled_from(["sigmoid", "ipo", "hinge", "robust"]),
    label_smoothing=smoothings,
    length_normalised=st.booleans(),
    sft=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_dpo_forms_equal_twin(seed, beta, form, label_smoothing, length_normalised, sft):
    _, mask, (policy, reference) = random_case(seed)
    options = {"beta": beta, "form": form, "length_normalised": length_normalised, "sft": sft}
    options["label_smoothing"] = label_smoothing if form in ("sigmoid", "robust") else 0.0
    results = evaluate(dpo_loss, dict_of(policy, reference, mask), **options)
    assert_same(results, twins.dpo(policy, reference, mask, **options))


@many
@given(seed=seeds, beta=betas, stop_gradient=st.booleans())
def test_tpo_equals_twin(seed, beta, stop_gradient):
    rng, mask, (policy, reference) = random_case(seed)
    s, s_ref = np.where(mask, rng.normal(scale=4, size=(2, *mask.shape)), np.nan)
    inputs = dict_of(policy, reference, mask, policy_sensitivity=s, reference_sensitivity=s_ref)
    loss, grad, grad_s = evaluate(
        tpo_loss, inputs, ("policy_logps", "policy_sensitivity"), beta=beta, stop_gradient=stop_gradient
    )
    expected = twins.tpo(policy, reference, mask, s, s_ref, beta)
    if stop_gradient:
        assert grad_s is None
        assert_same((loss, grad), expected[:2])
    else:
        assert_same((loss, grad, grad_s), expected)


@many
@given(seed=seeds, beta=betas, gamma=st.floats(0.1, 4), label_smoothing=smoothings)
def test_v_dpo_equals_twin(seed, beta, gamma, label_smoothing):
    _, mask, (policy, reference, corrupted) = random_case(seed, 3)
    options = {"beta": beta, "gamma": gamma, "label_smoothing": label_smoothing}
    inputs = dict_of(policy, reference, mask, corrupted_policy_logps=corrupted)
    *results, grad_c = evaluate(v_dpo_loss, inputs, ("policy_logps", "corrupted_policy_logps"), **options)
    assert grad_c is None
    assert_same(results, twins.v_dpo(policy, reference, mask, corrupted, **options))


@many
@given(seed=seeds, beta=betas, image=shares, anchor=shares, anchor_margin=st.floats(-1, 1))
def test_mdpo_equals_twin(seed, beta, image, anchor, anchor_margin):
    _, mask, (policy, reference, corrupted, corrupted_reference) = random_case(seed, 4)
    corrupted[len(mask) // 2 :] = np.nan  # the rejected rows do not matter
    options = {"beta": beta, "image": image, "anchor": anchor, "anchor_margin": anchor_margin}
    inputs = dict_of(
        policy,
        reference,
        mask,
        corrupted_policy_logps=corrupted,
        corrupted_reference_logps=corrupted_reference,
    )
    expected = twins.mdpo(policy, reference, mask, corrupted, corrupted_reference, **options)
    loss, grad, grad_c = evaluate(mdpo_loss, inputs, ("policy_logps", "corrupted_policy_logps"), **options)
    if image == 0 and grad_c is None:
        grad_c = torch.zeros(mask.shape)
    assert_same((loss, grad, grad_c), expected)


@many
@given(
    seed=seeds,
    beta=betas,
    lambdas=st.tuples(shares, shares, shares),
    alphas=st.tuples(st.floats(0.01, 5), st.floats(0.01, 5)),
)
def test_napo_equals_twin(seed, beta, lambdas, alphas):
    _, mask, (policy, reference) = random_case(seed, blocks=4)
    options = dict(zip(("rejected", "question_only", "image_only"), lambdas, strict=True))
    options |= {"beta": beta, "alpha_question": alphas[0], "alpha_image": alphas[1]}
    results = evaluate(napo_loss, dict_of(policy, reference, mask), **options)
    assert_same(results, twins.napo(policy, reference, mask, **options))


@many
@given(seed=seeds, beta=betas, average=st.booleans())
def test_rlhf_v_equals_twin(seed, beta, average):
    rng, mask, (policy, reference) = random_case(seed)
    weights = np.where(mask, rng.choice([0.5, 1.0, 3.0], mask.shape), np.nan)
    inputs = dict_of(policy, reference, mask, weights=weights)
    *results, grad_w = evaluate(rlhf_v_loss, inputs, ("policy_logps", "weights"), beta=beta, average=average)
    assert grad_w is None
    assert_same(results, twins.rlhf_v(policy, reference, mask, weights, beta, average))


@many
@given(seed=seeds, beta=betas, anchor=shares, anchor_margin=st.floats(-1, 1))
def test_opa_dpo_equals_twin(seed, beta, anchor, anchor_margin):
    rng, mask, (policy, reference) = random_case(seed)
    weights = np.where(mask, rng.choice([1.0, 1.5, 2.0, 2.5], mask.shape), np.nan)
    options = {"beta": beta, "anchor": anchor, "anchor_margin": anchor_margin}
    inputs = dict_of(policy, reference, mask, weights=weights)
    *results, grad_w = evaluate(opa_dpo_loss, inputs, ("policy_logps", "weights"), **options)
    assert grad_w is None
    assert_same(results, twins.opa_dpo(policy, reference, mask, weights, **options))


@many
@given(seed=seeds, beta=betas, scale=st.floats(0.1, 3))
def test_da_dpo_equals_twin(seed, beta, scale):
    rng, mask, (policy, reference) = random_case(seed)
    similarity = rng.uniform(-1, 1, len(mask))
    inputs = dict_of(policy, reference, mask, similarity=similarity)
    *results, grad_s = evaluate(da_dpo_loss, inputs, ("policy_logps", "similarity"), beta=beta, scale=scale)
    assert grad_s is None
    assert_same(results, twins.da_dpo(policy, reference, mask, similarity, beta, scale))


# neutral settings are DPO


@settings(max_examples=60, deadline=None)
@given(seed=seeds, beta=betas)
def test_neutral_settings_are_dpo(seed, beta):
    rng, mask, (policy, reference, one, two) = random_case(seed, 4)
    zero = np.zeros(mask.shape)
    pair = dict_of(policy, reference, mask)
    similarity = np.tile(rng.uniform(-1, 1, len(mask) // 2), 2)
    corrupted = {"corrupted_policy_logps": one, "corrupted_reference_logps": two}
    expected = evaluate(dpo_loss, pair, beta=beta)
    neutral = {
        "tpo": (tpo_loss, {"policy_sensitivity": zero, "reference_sensitivity": zero}, {}),
        "v_dpo": (v_dpo_loss, {"corrupted_policy_logps": one}, {"gamma": 1.0}),
        "mdpo": (mdpo_loss, corrupted, {"image": 0.0, "anchor": 0.0}),
        "rlhf_v": (rlhf_v_loss, {"weights": np.ones(mask.shape)}, {}),
        "da_dpo": (da_dpo_loss, {"similarity": similarity}, {}),
        "smoothing": (dpo_loss, {}, {"form": "robust", "label_smoothing": 0.0}),
    }
    for name, (loss, extra, options) in neutral.items():
        results = evaluate(loss, {**pair, **extra}, beta=beta, **options)
        for result, value in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, value, rtol=0, atol=1e-12, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, beta=betas)
def test_napo_of_the_rejected_rows_alone_is_dpo(seed, beta):
    _, mask, (policy, reference) = random_case(seed, blocks=4)
    half = len(mask) // 2
    loss, grad = evaluate(
        napo_loss,
        dict_of(policy, reference, mask),
        beta=beta,
        rejected=1.0,
        question_only=0.0,
        image_only=0.0,
    )
    expected, grad_half = evaluate(dpo_loss, dict_of(policy[:half], reference[:half], mask[:half]), beta=beta)
    assert loss == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(grad[:half], grad_half, rtol=0, atol=1e-12)
    assert not grad[half:].any()


@pytest.mark.parametrize("pairs", [1, 3])
def test_opa_dpo_of_one_token_is_dpo(pairs):
    policy, reference = -np.random.default_rng(pairs).exponential(size=(2, 2 * pairs, 1))
    inputs = dict_of(policy, reference, np.ones((2 * pairs, 1), bool))
    expected, grad = evaluate(dpo_loss, inputs, beta=0.7)
    for extra in ({}, {"weights": np.ones((2 * pairs, 1))}):
        loss, same = evaluate(opa_dpo_loss, {**inputs, **extra}, beta=0.7, anchor=0.0)
        assert loss == pytest.approx(expected, abs=1e-12)
        np.testing.assert_allclose(same, grad, rtol=0, atol=1e-12)


def test_opa_dpo_and_rlhf_v_without_weights_weigh_every_token_one():
    _, mask, (policy, reference) = random_case(3)
    inputs = dict_of(policy, reference, mask)
    for loss in (opa_dpo_loss, rlhf_v_loss):
        with_ones = evaluate(loss, {**inputs, "weights": np.ones(mask.shape)}, beta=0.3)
        assert_same(evaluate(loss, inputs, beta=0.3), with_ones)


# gradcheck


def gradcheck(loss, inputs, leaves=("policy_logps",), **options):
    x = {name: torch.tensor(value) for name, value in inputs.items()}
    start = [x[leaf].requires_grad_() for leaf in leaves]
    return torch.autograd.gradcheck(
        lambda *values: loss(**{**x, **dict(zip(leaves, values, strict=True))}, **options).loss, start
    )


@pytest.mark.parametrize("seed", [4, 11])
def test_gradcheck(seed):
    rng, mask, (policy, reference, one, two) = random_case(seed, 4, masked=0.0)
    pair = dict_of(policy, reference, mask)
    for form in ("sigmoid", "ipo", "hinge", "robust"):
        e = 0.1 if form in ("sigmoid", "robust") else 0.0
        for normalised in (False, True):
            assert gradcheck(
                dpo_loss,
                pair,
                beta=0.3,
                form=form,
                label_smoothing=e,
                length_normalised=normalised,
                sft=0.5,
            )
    s, s_ref = rng.normal(size=(2, *mask.shape))
    tpo = {**pair, "policy_sensitivity": s, "reference_sensitivity": s_ref}
    assert gradcheck(tpo_loss, tpo, ("policy_logps", "policy_sensitivity"), beta=0.3)
    assert gradcheck(tpo_loss, tpo, beta=0.3, stop_gradient=True)
    assert gradcheck(v_dpo_loss, {**pair, "corrupted_policy_logps": one}, beta=0.3, gamma=1.7)
    mdpo = {**pair, "corrupted_policy_logps": one, "corrupted_reference_logps": two}
    assert gradcheck(mdpo_loss, mdpo, ("policy_logps", "corrupted_policy_logps"), beta=0.3, anchor_margin=0.2)
    weighted = {**pair, "weights": rng.uniform(0.5, 3, mask.shape)}
    for average in (False, True):
        assert gradcheck(rlhf_v_loss, weighted, beta=0.3, average=average)
    assert gradcheck(opa_dpo_loss, weighted, beta=0.3, anchor=0.7, anchor_margin=0.2)
    assert gradcheck(da_dpo_loss, {**pair, "similarity": rng.uniform(-1, 1, len(mask))}, beta=0.3)


@pytest.mark.parametrize("shift", [-6.0, 6.0])
def test_gradcheck_napo_where_q_is_clamped(shift):
    """q carries no gradient, so finite differences agree only where it is constant: at 1 and at 0.001."""
    policy, reference = -np.random.default_rng(0).exponential(size=(2, 8, 3))
    policy[:2] += shift
    inputs = dict_of(policy, reference, np.ones((8, 3), bool))
    assert gradcheck(napo_loss, inputs, beta=0.3, rejected=0.3, alpha_question=50.0, alpha_image=50.0)


# padding


def test_nan_padding_changes_nothing():
    rng, mask, (policy, reference, one, two) = random_case(11, 4, masked=0.0)
    s, s_ref, weights = rng.uniform(0.5, 2, (3, *mask.shape))
    pair = dict_of(policy, reference, mask)
    cases = [
        (dpo_loss, {}, {"sft": 0.5, "length_normalised": True}),
        (tpo_loss, {"policy_sensitivity": s, "reference_sensitivity": s_ref}, {}),
        (v_dpo_loss, {"corrupted_policy_logps": one}, {"gamma": 2.0}),
        (mdpo_loss, {"corrupted_policy_logps": one, "corrupted_reference_logps": two}, {}),
        (rlhf_v_loss, {"weights": weights}, {"average": True}),
        (opa_dpo_loss, {"weights": weights}, {}),
    ]
    if len(mask) % 4 == 0:
        cases.append((napo_loss, {}, {}))
    for loss, extra, options in cases:
        inputs = {**pair, **extra}
        leaves = [name for name in inputs if name.startswith(("policy", "corrupted_policy"))]
        junk = np.full((len(mask), 3), np.nan)
        padded = {
            k: np.concatenate([v, np.zeros(junk.shape, bool) if k == "mask" else junk], 1)
            for k, v in inputs.items()
        }
        short = evaluate(loss, inputs, leaves, beta=0.3, **options)
        long = evaluate(loss, padded, leaves, beta=0.3, **options)
        assert long[0] == pytest.approx(short[0], abs=1e-12)
        for a, b in zip(short[1:], long[1:], strict=True):
            if a is not None:
                t = mask.shape[1]
                np.testing.assert_allclose(b[:, :t], a, atol=1e-12)
                assert not b[:, t:].any()


# hand-derived values


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


# token weights of RLHF-V and OPA-DPO


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("abcdef", "abcdef", ("......", "......")),
        ("abcdef", "uvwxyz", ("XXXXXX", "XXXXXX")),
        ("abcXdef", "abcYdef", ("...X...", "...X...")),
        # a common block of two is too short to count
        ("abX", "abY", ("XXX", "XXX")),
        ("abcX", "abcY", ("...X", "...X")),
        ("abcXdeYfgh", "abcUdeVfgh", ("...XXXX...", "...XXXX...")),
        ("Xabc", "abcY", ("X...", "...X")),
        ("", "abc", ("", "XXX")),
        ("", "", ("", "")),
    ],
)
def test_segment_weights_by_hand(chosen, rejected, expected):
    got = segment_weights([ord(c) for c in chosen], [ord(c) for c in rejected], 3.5)
    assert got == tuple([3.5 if mark == "X" else 1.0 for mark in row] for row in expected)


@many
@given(st.lists(st.integers(0, 2), max_size=10), st.lists(st.integers(0, 2), max_size=10))
def test_unchanged_segments_are_common_and_at_least_three_long(chosen, rejected):
    weights = segment_weights(chosen, rejected, 2.0)
    assert [len(w) for w in weights] == [len(chosen), len(rejected)]
    assert {x for w in weights for x in w} <= {1.0, 2.0}
    kept = [
        [token for token, x in zip(ids, w, strict=True) if x == 1]
        for ids, w in zip((chosen, rejected), weights, strict=True)
    ]
    assert kept[0] == kept[1]
    longest = twins.longest_common_block(chosen, rejected)
    assert len(kept[0]) >= longest if longest >= 3 else not kept[0]
    for w in weights:
        runs = "".join("." if x == 1 else "X" for x in w).split("X")
        assert all(len(run) == 0 or len(run) >= 3 for run in runs)


def test_long_responses_are_matched_too():
    """difflib's default drops tokens that are frequent in 200 or more."""
    body = np.random.default_rng(0).integers(1, 6, 250).tolist()
    chosen, rejected = segment_weights([0, *body], [9, *body], 2.0)
    assert chosen == rejected == [2.0] + [1.0] * 250


def test_rating_weights():
    got = rating_weights(torch.tensor([[1, 2], [3, 4]]))
    assert got.tolist() == [[2.5, 2.0], [1.5, 1.0]]
    assert got.is_floating_point()
    for bad in (0, 5, -1):
        with pytest.raises(ValueError, match="rating"):
            rating_weights(torch.tensor([1, bad]))


# refused inputs

X = torch.zeros(4, 3)
EXTRA = {
    dpo_loss: {},
    tpo_loss: {"policy_sensitivity": X, "reference_sensitivity": X},
    v_dpo_loss: {"corrupted_policy_logps": X, "gamma": 1.5},
    mdpo_loss: {"corrupted_policy_logps": X, "corrupted_reference_logps": X},
    napo_loss: {},
    rlhf_v_loss: {"weights": X},
    opa_dpo_loss: {},
    da_dpo_loss: {"similarity": torch.zeros(4)},
}


@pytest.mark.parametrize("loss", EXTRA)
def test_every_method_refuses_beta_rows_and_shapes(loss):
    for beta in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="beta"):
            loss(X, X, X, beta=beta, **EXTRA[loss])
    cut = {k: v[:3] if isinstance(v, torch.Tensor) else v for k, v in EXTRA[loss].items()}
    with pytest.raises(ValueError, match="rows"):
        loss(X[:3], X[:3], X[:3], beta=1.0, **cut)
    with pytest.raises(ValueError, match="shape"):
        loss(X, X[:, :2], X, beta=1.0, **EXTRA[loss])


@pytest.mark.parametrize("loss", [dpo_loss, tpo_loss, v_dpo_loss, mdpo_loss, napo_loss, da_dpo_loss])
def test_methods_without_token_weights_refuse_them(loss):
    with pytest.raises(ValueError, match="weights"):
        loss(X, X, X, X, beta=1.0, **EXTRA[loss])


@pytest.mark.parametrize(
    ("loss", "key", "bad"),
    [
        (dpo_loss, "form", {"form": "exo"}),
        (dpo_loss, "label_smoothing", {"label_smoothing": 0.5}),
        (dpo_loss, "label_smoothing", {"label_smoothing": -0.1}),
        (dpo_loss, "label_smoothing", {"form": "robust", "label_smoothing": 0.5}),
        (dpo_loss, "label_smoothing", {"form": "ipo", "label_smoothing": 0.1}),
        (dpo_loss, "label_smoothing", {"form": "hinge", "label_smoothing": 0.1}),
        (dpo_loss, "sft", {"sft": -0.1}),
        (tpo_loss, "policy_sensitivity", {"policy_sensitivity": X[:, :2]}),
        (tpo_loss, "reference_sensitivity", {"reference_sensitivity": X[:2]}),
        (v_dpo_loss, "gamma", {"gamma": 0.0}),
        (v_dpo_loss, "gamma", {"gamma": -1.0}),
        (v_dpo_loss, "label_smoothing", {"label_smoothing": 0.5}),
        (v_dpo_loss, "corrupted_policy_logps", {"corrupted_policy_logps": X[:, :2]}),
        (mdpo_loss, "corrupted_policy_logps", {"corrupted_policy_logps": X[:, :2]}),
        (mdpo_loss, "corrupted_reference_logps", {"corrupted_reference_logps": X[:, :2]}),
        (mdpo_loss, "image", {"image": -1.0}),
        (mdpo_loss, "anchor", {"anchor": -1.0}),
        (napo_loss, "rejected", {"rejected": -1.0}),
        (napo_loss, "question_only", {"question_only": -1.0}),
        (napo_loss, "image_only", {"image_only": -1.0}),
        (rlhf_v_loss, "weights", {"weights": X[:, :2]}),
        (opa_dpo_loss, "weights", {"weights": X[:, :2]}),
        (opa_dpo_loss, "anchor", {"anchor": -1.0}),
        (da_dpo_loss, "similarity", {"similarity": torch.zeros(2)}),
        (da_dpo_loss, "scale", {"scale": 0.0}),
    ],
)
def test_bad_settings_are_refused_by_name(loss, key, bad):
    with pytest.raises(ValueError, match=key):
        loss(X, X, X, **{"beta": 1.0, **EXTRA[loss], **bad})


def test_napo_wants_four_blocks_of_rows():
    x = torch.zeros(6, 3)
    with pytest.raises(ValueError, match="rows"):
        napo_loss(x, x, x, beta=1.0)
