"""Percentiles with three digits, whatever the range."""

from hypothesis import given
from hypothesis import strategies as st
from zmqgame.cli.hdr import Histogram


@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0])
)
def test_a_percentile_is_at_most_a_thousandth_off(values, share):
    histogram = Histogram()
    histogram.add(values)
    ordered = sorted(values)
    exact = ordered[max(0, -(-int(share * 1_000) * len(values) // 1_000) - 1)] / 1_000
    (found,) = histogram.percentiles([share])
    assert exact <= found * 1.0000001
    assert found <= exact * 1.001 + 1e-9
    assert histogram.total == len(values)


def test_none_is_zero():
    assert Histogram().mean_us == 0.0
