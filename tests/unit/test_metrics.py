import math

import pytest

from uedpo.metrics import mean_interval, ratio_metrics


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
