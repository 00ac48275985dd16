"""Token weights that rows bring: RLHF-V's segments and OPA-DPO's ratings."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import method_twins as twins
from tests.unit.test_methods import many
from uedpo.loss.opa_dpo import rating_weights
from uedpo.weights.segments import segment_weights


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
