"""Latencies are recorded in microseconds and told in milliseconds."""

import pytest
from hdrh.histogram import HdrHistogram

from simulator.latency import Latency


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


def test_recent_values_are_taken_once() -> None:
    """The last while's percentiles forget what they told."""
    latency = Latency()
    for us in (1000, 2000, 3000):
        latency.record(us)

    assert latency.take_recent_ms() == {"p50": 2.0, "p99": 3.0}
    assert latency.take_recent_ms() == {}
