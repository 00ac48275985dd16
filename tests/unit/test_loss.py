import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import twins
from uedpo.loss import dpo_loss, ue_dpo_loss


def random_case(seed):
    rng = np.random.default_rng(seed)
    pairs, t = rng.integers(1, 5), rng.integers(1, 9)
    policy, reference = -rng.exponential(size=(2, 2 * pairs, t))
    mask = np.arange(t) < rng.integers(0, t + 1, 2 * pairs)[:, None]
    return policy, reference, mask, rng.uniform(0, 2, (2 * pairs, t))


def tensors(*arrays):
    return [torch.tensor(a) for a in arrays]


@settings(max_examples=250, deadline=None)
@given(
    seed=st.integers(0, 10**6), beta=st.floats(0.01, 2), weight_on=st.sampled_from(["policy", "log_ratio"])
)
def test_ue_dpo_and_its_gradient_equal_numpy_twin(seed, beta, weight_on):
    policy, reference, mask, lam = random_case(seed)
    p, r, m, w = tensors(policy, reference, mask, lam)
    p.requires_grad_()
    out = ue_dpo_loss(p, r, m, w, beta=beta, weight_on=weight_on)
    out.loss.backward()
    loss, grad = twins.ue_dpo(policy, reference, mask, lam, beta, weight_on)
    assert out.loss.item() == pytest.approx(loss, abs=1e-9)
    np.testing.assert_allclose(p.grad, grad, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_weights_of_one_are_dpo_bit_for_bit(seed):
    policy, reference, mask, lam = random_case(seed)
    grads, losses = [], []
    for loss, weights in ((dpo_loss, None), (ue_dpo_loss, None), (ue_dpo_loss, np.ones_like(lam))):
        p, r, m = (x.float() if x.is_floating_point() else x for x in tensors(policy, reference, mask))
        p.requires_grad_()
        w = None if weights is None else torch.tensor(weights).float()
        out = loss(p, r, m, w, beta=0.1)
        out.loss.backward()
        grads.append(p.grad)
        losses.append(out.loss)
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


def test_dpo_hand_derived():
    # chosen log-ratio 0.5, rejected -0.25, beta 2: margin 1.5, loss log(1 + e^-1.5)
    policy = torch.tensor([[-1.0, -0.5], [-1.0, -0.25]])
    reference = torch.tensor([[-1.25, -0.75], [-0.75, -0.25]])
    out = dpo_loss(policy, reference, torch.ones(2, 2), beta=2.0)
    assert out.loss.item() == pytest.approx(math.log1p(math.exp(-1.5)))
    assert out.metrics["margin"].item() == pytest.approx(1.5)


def test_ue_dpo_hand_derived():
    # 2 * -1 - (-1) = -1 for chosen, 0.5 * -2 - (-2) = 1 for rejected: margin -2 beta = -1
    policy, reference = torch.tensor([[-1.0], [-2.0]]), torch.tensor([[-1.0], [-2.0]])
    out = ue_dpo_loss(policy, reference, torch.ones(2, 1), torch.tensor([[2.0], [0.5]]), beta=0.5)
    assert out.loss.item() == pytest.approx(math.log1p(math.e))
    assert out.metrics["weighted_margin"].item() == pytest.approx(-1.0)
    assert out.metrics["margin"].item() == 0.0


def test_step_zero_is_log_two_for_dpo():
    logps = -torch.rand(4, 5)
    out = dpo_loss(logps, logps, torch.ones(4, 5), beta=0.1)
    assert out.loss.item() == pytest.approx(math.log(2))


def test_gradient_is_beta_sigmoid_lambda_over_pairs():
    policy, reference, _, lam = random_case(5)
    mask = np.ones_like(policy, bool)
    p, r, m, w = tensors(policy, reference, mask, lam)
    p.requires_grad_()
    out = ue_dpo_loss(p, r, m, w, beta=0.3)
    out.loss.backward()
    pairs = len(policy) // 2
    margins = 0.3 * ((w * p - r).sum(-1)[:pairs] - (w * p - r).sum(-1)[pairs:]).detach()
    push = 0.3 * torch.sigmoid(-margins)[:, None] / pairs
    torch.testing.assert_close(p.grad, torch.cat([-push * w[:pairs], push * w[pairs:]]))


def test_loss_passes_gradcheck_and_ignores_padding():
    policy, reference, mask, lam = random_case(11)
    p, r, m, w = tensors(policy, reference, mask, lam)
    p.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ue_dpo_loss(x, r, m, w, beta=0.3).loss, (p,))
    junk = torch.full((len(p), 3), float("nan"), dtype=p.dtype)
    padded = [torch.cat([x.detach(), junk], 1) for x in (p, r, w)]
    longer = ue_dpo_loss(padded[0], padded[1], torch.cat([m, junk == 0], 1), padded[2], beta=0.3)
    torch.testing.assert_close(longer.loss, ue_dpo_loss(p, r, m, w, beta=0.3).loss.detach())


def test_weights_get_no_gradient():
    p, r, m, w = tensors(*random_case(2))
    p.requires_grad_()
    w.requires_grad_()
    ue_dpo_loss(p, r, m, w, beta=0.1).loss.backward()
    assert w.grad is None


def test_losses_refuse_bad_input():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="beta"):
        dpo_loss(x, x, x, beta=0.0)
    with pytest.raises(ValueError, match="rows"):
        dpo_loss(x[:1], x[:1], x[:1], beta=1.0)
    with pytest.raises(ValueError, match="one shape"):
        dpo_loss(x, x[:, :2], x, beta=1.0)
    with pytest.raises(ValueError, match="no token weights"):
        dpo_loss(x, x, x, x, beta=1.0)
    with pytest.raises(ValueError, match="weight_on"):
        ue_dpo_loss(x, x, x, x, beta=1.0, weight_on="reference")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape of mask"):
        ue_dpo_loss(x, x, x, x[:, :1], beta=1.0)
