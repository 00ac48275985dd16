import math

import numpy as np
import pytest
import torch

from tests.reference import twins
from uedpo.types import TokenScores
from uedpo.weights.segments import segment_weights
from uedpo.weights.signals import kl_divergence, token_signal
from uedpo.weights.uncertainty import epistemic_uncertainty


def scores_of(hidden, head, tokens, mask):
    """TokenScores and full logits of made-up hidden states."""
    logits = hidden @ head.T
    log_p = logits.log_softmax(-1)
    values = (
        log_p.gather(-1, tokens[..., None]).squeeze(-1),
        logits.gather(-1, tokens[..., None]).squeeze(-1),
        logits.argmax(-1),
        -(log_p.exp() * log_p).sum(-1),
    )
    kept = (torch.where(mask, v, 0) for v in values)
    return TokenScores(*kept, hidden, (head, None)), logits


@pytest.fixture
def case():
    torch.manual_seed(0)
    head, tokens = torch.randn(11, 6), torch.randint(11, (4, 5))
    mask = torch.arange(5) < torch.tensor([5, 3, 0, 1])[:, None]
    clear = scores_of(torch.randn(4, 5, 6), head, tokens, mask)
    corrupted = scores_of(torch.randn(4, 5, 6), head, tokens, mask)
    return clear, corrupted, tokens, mask


def test_signals_equal_their_definitions(case):
    (clear, z), (corrupted, z_noisy), tokens, mask = case
    p, q = (x.double().softmax(-1).numpy() for x in (z, z_noisy))
    want = {
        "entropy": -(p * np.log(p)).sum(-1),
        "surprisal": -np.log(np.take_along_axis(p, tokens[..., None].numpy(), -1)[..., 0]),
        "margin": (z.max(-1).values - z.gather(-1, tokens[..., None]).squeeze(-1)).numpy(),
        "kl": (p * np.log(p / q)).sum(-1),
        "uncertainty": twins.uncertainty(z.numpy(), z_noisy.numpy(), tokens.numpy()),
    }
    for name, value in want.items():
        got = token_signal(name, clear, corrupted, tokens, mask)
        np.testing.assert_allclose(got[mask], value[mask.numpy()], atol=1e-5)
        assert (got[~mask] == 0).all()
    torch.testing.assert_close(
        token_signal("uncertainty", clear, corrupted, tokens, mask)[mask],
        epistemic_uncertainty(z, z_noisy, tokens)[mask],
    )


def test_probe_free_signals_need_no_corrupted_scores(case):
    (clear, _), _, tokens, mask = case
    for name in ("entropy", "surprisal", "margin"):
        assert token_signal(name, clear, None, tokens, mask).isfinite().all()
    for name in ("uncertainty", "kl"):
        with pytest.raises(ValueError, match=f"signal={name} needs"):
            token_signal(name, clear, None, tokens, mask)
    with pytest.raises(ValueError, match="signal='loss'"):
        token_signal("loss", clear, None, tokens, mask)


def test_kl_hand_derived_and_zero_for_the_same_view():
    # p = (3/4, 1/4), q = (1/2, 1/2): KL = log 2 - H(p)
    head, tokens, mask = torch.eye(2), torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 1, dtype=torch.bool)
    clear, _ = scores_of(torch.tensor([[[math.log(3.0), 0.0]]] * 2), head, tokens, mask)
    flat, _ = scores_of(torch.zeros(2, 1, 2), head, tokens, mask)
    want = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    torch.testing.assert_close(kl_divergence(clear, flat, mask), torch.full((2, 1), want))
    assert (kl_divergence(clear, clear, mask) == 0).all()


def test_segments_weigh_what_was_rewritten():
    chosen, rejected = segment_weights([1, 2, 3, 9, 5, 6, 7], [1, 2, 3, 8, 8, 5, 6, 7], 1.5)
    assert chosen == [1, 1, 1, 1.5, 1, 1, 1]
    assert rejected == [1, 1, 1, 1.5, 1.5, 1, 1, 1]
    # matches of two are chance
    assert segment_weights([1, 2, 9], [1, 2, 8], 3.0) == ([3.0] * 3, [3.0] * 3)
    assert segment_weights([], [4], 2.0) == ([], [2.0])
