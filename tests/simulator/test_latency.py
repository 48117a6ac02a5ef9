"""Latencies are recorded in microseconds and told in milliseconds."""

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.latency import Latency, SoFar, add_buckets, add_summaries, percentile_ms


def test_percentiles_are_milliseconds() -> None:
    """The values 1 to 1000 ms give their percentiles to three digits."""
    latency = Latency()
    for ms in range(1, 1001):
        latency.record(ms * 1000)
    summary = latency.summary()

    assert summary["count"] == 1000
    assert summary["p50"] == pytest.approx(500, rel=0.002)
    assert summary["p99"] == pytest.approx(990, rel=0.002)
    assert summary["p999"] == pytest.approx(999, rel=0.002)
    assert summary["max"] == pytest.approx(1000, rel=0.002)
    assert latency.p99_ms == summary["p99"]


def test_the_histogram_can_be_read_back() -> None:
    """`hdr` decodes to the same counts in microseconds."""
    latency = Latency()
    for us in (100, 2000, 2000, 30_000):
        latency.record(us)

    decoded = HdrHistogram.decode(latency.summary()["hdr"])

    assert decoded.get_total_count() == 4
    assert decoded.get_value_at_percentile(50) == pytest.approx(2000, rel=0.002)


@settings(deadline=None, max_examples=30)  # the library's histogram is encoded in Python, slowly
@given(st.lists(st.integers(1, 12).flatmap(lambda digits: st.integers(1, 10**digits)), min_size=1, max_size=300))
def test_it_is_the_histogram_of_its_values(values: list[int]) -> None:
    """Percentiles, maximum, mean and counts are those of a histogram that took each value by itself."""
    latency, direct = Latency(), HdrHistogram(1, 3_600_000_000, 3)
    for us in values:
        latency.record(us)
        direct.record_value(min(us, 3_600_000_000))
    summary = latency.summary()

    assert summary["hdr"] == direct.encode().decode()
    assert summary["max"] == direct.get_max_value() / 1000
    assert summary["mean"] == round(direct.get_mean_value() / 1000, 3)
    for name, percentile in {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p999": 99.9}.items():
        assert summary[name] == direct.get_value_at_percentile(percentile) / 1000
    assert latency.p99_ms == summary["p99"]


def test_memory_is_bounded_by_the_buckets() -> None:
    """A million different values take no more room than the histogram has buckets."""
    latency = Latency()
    for us in range(1, 3_600_000_000, 3_600):
        latency.record(us)

    assert len(latency._counts) <= HdrHistogram(1, 3_600_000_000, 3).counts_len


def test_without_values_there_are_no_percentiles() -> None:
    """An empty histogram tells its count and nothing that could pass for a figure."""
    summary = Latency().summary()

    assert summary["count"] == 0
    assert "p99" not in summary


def test_values_out_of_range_are_kept_at_the_edge_and_counted() -> None:
    """Below a microsecond and above an hour the nearest end is recorded."""
    latency = Latency()
    latency.record(-5)
    latency.record(10**12)

    assert latency.summary()["clamped"] == 2
    assert latency.summary()["count"] == 2


def test_figures_so_far_are_those_of_the_histogram() -> None:
    """Gathered from one while after the other, within one part in 100."""
    latency, so_far = Latency(), SoFar()
    assert so_far.statistics_ms() == {}
    for us in range(100, 300_000, 37):
        latency.record(us)
        if us % 1000 < 37:
            so_far.add(latency.take_recent())
    so_far.add(latency.take_recent())
    summary, statistics = latency.summary(), so_far.statistics_ms()

    assert statistics.keys() == summary.keys() - {"clamped", "hdr"}
    for name, value in statistics.items():
        assert value == pytest.approx(summary[name], rel=0.01), name


def test_values_with_their_time_are_kept_by_it() -> None:
    """A value without a time is in the histogram alone."""
    latency = Latency()
    latency.record(1000, 2_500_000)
    latency.record(1000)

    assert [interval.at_us for interval in latency.intervals()] == [2_000_000]
    assert latency.summary()["count"] == 2


def test_recent_values_are_taken_once() -> None:
    """The last while forgets what it told, and nothing of the whole."""
    latency = Latency()
    for us in (1000, 2000, 3000):
        latency.record(us)

    assert percentile_ms(latency.take_recent(), 50) == 2.0
    assert latency.take_recent() == {}
    latency.record(2000)
    assert latency.take_recent() == {2000: 1}
    assert latency.summary()["count"] == 4


def test_percentiles_of_no_values_are_none() -> None:
    """Silence is no latency of 0."""
    assert percentile_ms({}, 99) is None
    assert percentile_ms({1000: 99, 5000: 1}, 99) == 1.0
    assert percentile_ms({1000: 98, 5000: 2}, 99) == 5.0


@settings(deadline=None, max_examples=10)
@given(st.lists(st.lists(st.integers(1, 10**7), max_size=100), min_size=1, max_size=4))
def test_summaries_add_up_without_loss(parts: list[list[int]]) -> None:
    """The sum of several histograms is the histogram of all their values, to the bit."""
    whole = Latency()
    several = [Latency() for _ in parts]
    for values, latency in zip(parts, several, strict=True):
        for us in values:
            whole.record(us)
            latency.record(us)

    assert add_summaries([latency.summary() for latency in several]) == whole.summary()
    assert add_buckets([latency.take_recent() for latency in several]) == whole.take_recent()
