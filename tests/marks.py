"""Which parameters of a test run each time, and which are left to `make test-slow`."""

import pytest


def slow_but(quick, values):
    """`values` as parameters, slow but for those in `quick`; at least one of each."""
    marked = [pytest.param(v, marks=() if v in quick else pytest.mark.slow) for v in values]
    assert all(v in values for v in quick)
    assert len(quick) < len(marked)
    return marked
