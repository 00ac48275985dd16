import math

import numpy as np
import pytest

from uedpo.results.statistics import mean_interval, paired_bootstrap, paired_variances, ratio_metrics


def test_ratio_metrics_are_ratios_of_sums():
    rows = [{"a": 1, "b": 2}, {"a": 0, "b": 2}, {"a": 2, "b": 4}]
    result = ratio_metrics(rows, {"r": ("a", "b")})["r"]
    assert result["value"] == pytest.approx(3 / 8)
    assert (result["numerator"], result["denominator"]) == (3, 8)
    assert 0 <= result["low"] <= 3 / 8 <= result["high"] <= 0.5
    assert ratio_metrics(rows, {"r": ("a", "b")}) == ratio_metrics(rows, {"r": ("a", "b")})


def test_ratio_metrics_of_nothing_are_null():
    result = ratio_metrics([{"a": 0, "b": 0}], {"r": ("a", "b")})["r"]
    assert result == {"value": None, "low": None, "high": None, "numerator": 0, "denominator": 0}
    with pytest.raises(ValueError, match="no rows"):
        ratio_metrics([])
    with pytest.raises(ValueError, match="level"):
        ratio_metrics([{"a": 1, "b": 1}], {"r": ("a", "b")}, level=1.0)


def test_bootstrap_interval_matches_the_normal_one():
    rows = [{"a": int(i % 4 == 0), "b": 1} for i in range(400)]
    result = ratio_metrics(rows, {"r": ("a", "b")}, resamples=4000)["r"]
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert result["high"] - result["low"] == pytest.approx(2 * half, rel=0.1)


def test_mean_interval_hand_derived():
    mean, half = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.303 / math.sqrt(3))  # t(2) times s / sqrt 3, s = 1
    assert math.isnan(mean_interval([5.0])[1])
    assert mean_interval([1.0] * 20) == (1.0, 0.0)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def counts(rate, seeds=3, scenes=500, seed=0):
    """[seeds, scenes, 2]: 0 to 4 mentions a scene, each wrong with probability `rate`."""
    rng = np.random.default_rng(seed)
    mentions = rng.integers(0, 5, size=(seeds, scenes))
    return np.stack([rng.binomial(mentions, rate), mentions], -1)


def test_paired_bootstrap_of_one_thing_with_itself_is_exactly_0():
    a = counts(0.2)
    assert paired_bootstrap(a, a) == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_paired_bootstrap_finds_a_shift_on_the_same_scenes():
    b = counts(0.2)
    a = b.copy()
    a[..., 0] += b[..., 1]  # one wrong mention more per mention
    assert paired_bootstrap(a, b) == pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0})


def test_paired_bootstrap_hand_derived():
    # two scenes, one seed: resamples draw (2,0), (1,1), (0,2) of them with probability 1/4, 1/2, 1/4
    a = np.array([[[1, 1], [0, 1]]])
    b = np.array([[[0, 1], [0, 3]]])
    result = paired_bootstrap(a, b, resamples=400)
    assert result == {"value": 0.5, "low": 0.0, "high": 1.0}
    # two seeds of constant differences 0.25 and 0.75: the seeds alone make the interval
    a = np.array([[[1, 4]], [[3, 4]]])
    result = paired_bootstrap(a, np.array([[[0, 4]], [[0, 4]]]), resamples=400)
    assert result == {"value": 0.5, "low": 0.25, "high": 0.75}


def test_paired_bootstrap_matches_the_normal_interval_and_its_seed():
    a, b = counts(0.3, seeds=1, scenes=4000), counts(0.2, seeds=1, scenes=4000, seed=1)
    result = paired_bootstrap(a, b)
    n = a[..., 1].sum(), b[..., 1].sum()
    half = 1.96 * math.sqrt(0.3 * 0.7 / n[0] + 0.2 * 0.8 / n[1])
    assert result["value"] == pytest.approx(0.1, abs=2 * half)
    assert result["high"] - result["low"] == pytest.approx(2 * half, rel=0.1)
    assert paired_bootstrap(a, b) == result
    assert paired_bootstrap(a, b, seed=1) != result


def test_paired_bootstrap_compares_one_seed_with_many():
    a, b = counts(0.3), counts(0.2, seeds=1, seed=1)
    assert paired_bootstrap(a, b) == paired_bootstrap(a, np.repeat(b, 3, axis=0))
    nothing = np.zeros_like(a)
    assert paired_bootstrap(a, nothing)["value"] is None


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (counts(0.1), counts(0.1, scenes=499), "same scenes"),
        (counts(0.1), counts(0.1, seeds=2), "same seeds"),
        (counts(0.1)[0], counts(0.1)[0], "seeds, scenes, 2"),
    ],
)
def test_paired_bootstrap_refuses_what_does_not_pair(a, b, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(a, b)


def test_paired_variances_hand_derived():
    ones = np.ones((2, 2))
    a, b = np.stack([np.array([[0, 2], [4, 10]]), ones], -1), np.stack([0 * ones, ones], -1)
    # seed means 1 and 7, scene means 2 and 6, mean 4; what is left is +1, -1, -1, +1, so both = 4 / 1;
    # seeds 18 - 4 / 2, scenes 8 - 4 / 2
    assert paired_variances(a, b) == pytest.approx((16, 6, 4))
    assert paired_variances(a, a) == (0, 0, 0)


def test_paired_variances_make_the_bootstrap_interval():
    random = np.random.default_rng(0)
    seeds, scenes = 30, 400
    below = random.integers(1, 6, (seeds, scenes))
    of_seed = 0.05 * random.standard_normal((seeds, 1))
    chance = 0.3 + of_seed + 0.1 * random.standard_normal((1, scenes))
    a = np.stack([random.binomial(below, chance.clip(0, 1)), below], -1)
    b = np.stack([random.binomial(below, 0.2), below], -1)
    of_seeds, of_scenes, of_both = paired_variances(a, b)
    found = paired_bootstrap(a, b)
    error = math.sqrt(of_seeds / seeds + of_scenes / scenes + of_both / (seeds * scenes))
    assert (found["high"] - found["low"]) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert of_seeds == pytest.approx(of_seed.var(ddof=1), rel=0.15)


@pytest.mark.parametrize("shape", [(1, 5, 2), (3, 1, 2), (3, 5)])
def test_paired_variances_refuses_what_has_no_variance(shape):
    with pytest.raises(ValueError, match="two of each at least"):
        paired_variances(np.ones(shape), np.ones(shape))


def test_paired_variances_refuses_a_method_that_says_nothing():
    x = np.ones((2, 3, 2))
    with pytest.raises(ValueError, match="denominator is 0"):
        paired_variances(x, x * [1, 0])
