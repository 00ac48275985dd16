import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import twins
from uedpo.types import TokenScores
from uedpo.weights.uncertainty import (
    epistemic_uncertainty,
    exploration_weights,
    select_tokens,
    visual_sensitivity,
)


def random_case(seed, ties=False):
    rng = np.random.default_rng(seed)
    b, t, v = rng.integers(1, 5), rng.integers(1, 12), rng.integers(2, 9)
    clear, corrupted = rng.normal(size=(2, b, t, v))
    if ties:
        clear, corrupted = clear.round(), corrupted.round()
    tokens = rng.integers(0, v, (b, t))
    mask = np.arange(t) < rng.integers(0, t + 1, b)[:, None]
    return clear, corrupted, tokens, mask


def weigh(u, delta, mask, **options):
    options = {"branch": "chosen", "alpha": 0.3, "tau": 0.4} | options
    return exploration_weights(torch.tensor(u), torch.tensor(delta), torch.tensor(mask), **options)


@pytest.mark.parametrize("ties", [False, True])
def test_signals_equal_numpy_twins(ties):
    for seed in range(60):
        clear, corrupted, tokens, _ = random_case(seed, ties)
        args = (torch.tensor(clear), torch.tensor(corrupted), torch.tensor(tokens))
        np.testing.assert_allclose(
            epistemic_uncertainty(*args), twins.uncertainty(clear, corrupted, tokens), atol=1e-12
        )
        np.testing.assert_allclose(
            visual_sensitivity(*args), twins.sensitivity(clear, corrupted, tokens), atol=1e-12
        )


@settings(max_examples=250, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    ties=st.booleans(),
    branch=st.sampled_from(["chosen", "rejected"]),
    alpha=st.floats(0, 1),
    tau=st.floats(0.01, 0.5),
    center=st.sampled_from(["mean", "median", "first_quartile"]),
    scope=st.sampled_from(["response", "batch"]),
    select=st.sampled_from(["sensitivity", "signal", "all"]),
)
def test_weights_equal_numpy_twin(seed, ties, branch, alpha, tau, center, scope, select):
    clear, corrupted, tokens, mask = random_case(seed, ties)
    u = twins.uncertainty(clear, corrupted, tokens)
    delta = twins.sensitivity(clear, corrupted, tokens)
    options = {"branch": branch, "alpha": alpha, "tau": tau, "center": center, "scope": scope}
    got = weigh(u, delta, mask, select=select, **options)
    want = twins.weights(u, delta, mask, select=select, **options)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_signals_hand_derived():
    clear = torch.tensor([[[1.0, 3.0, 2.0]]])
    corrupted = torch.tensor([[[0.5, 0.0, 4.0]]])
    # the corrupted guess is token 2: u = 2 - 1 = 1; Delta = 1 - 0.5
    assert epistemic_uncertainty(clear, corrupted, torch.tensor([[0]])).item() == 1.0
    assert visual_sensitivity(clear, corrupted, torch.tensor([[0]])).item() == 0.5
    assert epistemic_uncertainty(clear, corrupted, torch.tensor([[2]])).item() == 0.0


def test_weights_hand_derived():
    # n = 6, tau 0.4: floor(2.0) + 1 = 3 lowest Delta: tokens 0, 1, 2 with u 0, 0, 3:
    # mu 1, s sqrt 2, z = -1/sqrt2, -1/sqrt2, sqrt2
    u, delta = [[0.0, 0.0, 3.0, 9.0, 9.0, 9.0]], [[-3.0, -2.0, -1.0, 0.0, 1.0, 2.0]]
    low, high = 1 / (1 + np.exp(2**-0.5)), 1 / (1 + np.exp(-(2**0.5)))
    mask = [[True] * 6]
    want = [[1 + 0.3 * low, 1 + 0.3 * low, 1 + 0.3 * high, 1, 1, 1]]
    np.testing.assert_allclose(weigh(u, delta, mask), want, atol=1e-6)
    flipped = [[-x for x in delta[0]]]
    want = [[1 - 0.3 * low, 1 - 0.3 * low, 1 - 0.3 * high, 1, 1, 1]]
    np.testing.assert_allclose(weigh(u, flipped, mask, branch="rejected"), want, atol=1e-6)


def test_uncertainty_ties_take_the_lowest_id():
    corrupted = torch.zeros(1, 1, 5)
    clear = torch.arange(5.0).reshape(1, 1, 5)
    assert epistemic_uncertainty(clear, corrupted, torch.tensor([[4]])).item() == -4.0


def test_uncertainty_ignores_a_constant_shift_of_clear_logits():
    clear, corrupted, tokens, _ = random_case(3)
    args = torch.tensor(corrupted), torch.tensor(tokens)
    torch.testing.assert_close(
        epistemic_uncertainty(torch.tensor(clear + 7), *args),
        epistemic_uncertainty(torch.tensor(clear), *args),
    )


def test_weights_do_not_see_padding():
    u, delta = np.random.default_rng(0).normal(size=(2, 3, 7))
    mask = np.ones((3, 7), bool)
    plain = weigh(u, delta, mask)
    junk = np.full((3, 4), np.nan)
    padded = weigh(np.hstack([u, junk]), np.hstack([delta, junk]), np.hstack([mask, junk == 0]))
    assert torch.equal(padded[:, :7], plain)
    assert torch.equal(padded[:, 7:], torch.ones(3, 4, dtype=torch.float64))


@pytest.mark.parametrize(("branch", "value"), [("chosen", 1.15), ("rejected", 0.85)])
def test_weights_degenerate_sequences(branch, value):
    one = weigh([[2.0]], [[0.1]], [[True]], branch=branch)
    assert one.item() == pytest.approx(value)
    alike = weigh([[2.0] * 4], [[0.1] * 4], [[True] * 4], branch=branch)
    np.testing.assert_allclose(alike, [[value] * 4], atol=1e-6)
    empty = weigh([[2.0] * 4], [[0.1] * 4], [[False] * 4], branch=branch)
    assert torch.equal(empty, torch.ones(1, 4))
    for scope in ("response", "batch"):
        none = exploration_weights(
            torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, 0, dtype=bool),
            branch=branch, alpha=0.3, tau=0.4, scope=scope,
        )  # fmt: skip
        assert none.shape == (2, 0)


def test_alpha_zero_gives_exact_ones():
    u, delta = np.random.default_rng(0).normal(size=(2, 3, 7))
    assert torch.equal(
        weigh(u, delta, np.ones((3, 7), bool), alpha=0.0), torch.ones(3, 7, dtype=torch.float64)
    )


def test_selection_counts_survive_rounding():
    # tau (n - 1) = 2.0000000000000004 or 1.9999999999999998 must both give three tokens
    for tau, n in ((0.4, 6), (0.2, 11), (0.1, 21)):
        delta = torch.arange(float(n))[None]
        picked = select_tokens(
            delta, torch.ones(1, n, dtype=torch.bool), branch="chosen", tau=tau, scope="response"
        )
        assert picked.sum() == 3


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"alpha": 1.1}, "alpha"), ({"alpha": -0.1}, "alpha"), ({"alpha": float("nan")}, "alpha"),
        ({"tau": 0.0}, "tau"), ({"tau": 0.51}, "tau"), ({"branch": "best"}, "branch"),
        ({"center": "mode"}, "center"), ({"scope": "world"}, "scope"), ({"select": "best"}, "select"),
    ],
)  # fmt: skip
def test_weights_refuse_options_out_of_range(options, key):
    with pytest.raises(ValueError, match=key):
        weigh([[0.0]], [[0.0]], [[True]], **options)


def test_functions_refuse_shapes_that_differ():
    with pytest.raises(ValueError, match="expected logits"):
        epistemic_uncertainty(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="one shape"):
        weigh([[0.0]], [[0.0, 1.0]], [[True]])


def test_token_scores_gather_any_logit():
    hidden, weight, bias = torch.randn(2, 3, 4), torch.randn(9, 4), torch.randn(9)
    tokens = torch.randint(9, (2, 3))
    blank = torch.zeros(2, 3)
    scores = TokenScores(blank, blank, tokens, blank, hidden, (weight, bias))
    want = (hidden @ weight.T + bias).gather(-1, tokens[..., None]).squeeze(-1)
    torch.testing.assert_close(scores.logits_of(tokens), want)
