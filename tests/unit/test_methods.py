"""The compared methods against independent numpy twins, and their neutral settings."""

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
