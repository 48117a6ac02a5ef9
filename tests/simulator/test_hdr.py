"""The mean of a histogram, faster."""

from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.hdr import mean_value


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 3_600_000_000), max_size=50))
def test_it_is_the_mean_of_the_library(values: list[int]) -> None:
    """To the bit, before and after a histogram was encoded."""
    histogram = HdrHistogram(1, 3_600_000_000, 3)
    for value in values:
        histogram.record_value(value)
    again = HdrHistogram(1, 3_600_000_000, 3)
    again.decode_and_add(histogram.encode())

    assert mean_value(histogram) == mean_value(again) == histogram.get_mean_value()
