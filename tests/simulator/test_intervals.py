"""Latencies by the time at which something was meant to happen."""

import pytest
from hdrh.histogram import HdrHistogram

from simulator.intervals import MOST, Intervals

SECOND = 1_000_000


def test_each_second_has_its_own() -> None:
    """A value belongs to the second for which it was meant, whenever it came."""
    times = Intervals()
    for microseconds, due in ((5_000, 0.2), (7_000, 1.9), (900_000, 0.9)):
        times.record(microseconds, round(due * SECOND))
    found = times.encoded()

    assert [(interval.at_us, interval.width_us) for interval in found] == [(0, SECOND), (SECOND, SECOND)]
    first = HdrHistogram.decode(found[0].hdr)
    assert first.get_total_count() == 2
    assert first.get_max_value() == pytest.approx(900_000, rel=0.01)


def test_a_long_run_keeps_its_values_in_wider_intervals() -> None:
    """There are never more than MOST intervals, and no value is lost."""
    times = Intervals()
    for second in range(MOST * 3):
        times.record(1_000 + second, second * SECOND)
    found = times.encoded()

    assert len(found) <= MOST
    assert {interval.width_us for interval in found} == {4 * SECOND}
    assert sum(HdrHistogram.decode(interval.hdr).get_total_count() for interval in found) == MOST * 3


def test_values_out_of_range_are_kept_at_the_edge() -> None:
    """Neither a negative latency nor one of days is lost."""
    times = Intervals()
    times.record(-3, 0)
    times.record(10**13, 0)

    assert HdrHistogram.decode(times.encoded()[0].hdr).get_total_count() == 2
