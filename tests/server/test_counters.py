"""Counters as Prometheus sees them: all of them, under their names, with labels that stay few."""

from collections import Counter
from dataclasses import fields
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from server.counters import DURATION_BUCKETS_SECONDS, CounterCollector, Counters, Histogram


def scraped(counters: Counters, gauges: dict[str, tuple[str, float]] | None = None) -> dict[str, float]:
    """Every sample of a scrape, by name and labels."""
    registry = CollectorRegistry()
    registry.register(CounterCollector(counters, lambda: gauges or {}))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        sample.name + "".join(f"|{key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_every_counter_is_exported() -> None:
    """A counter that is not on /metrics counts for nobody: each number shows under its own name."""
    counters = Counters()
    expected = {}
    for number, field in enumerate(fields(Counters), start=1):
        value = getattr(counters, field.name)
        if isinstance(value, int):
            setattr(counters, field.name, number)
            expected[f"seatrial_{field.name}_total"] = float(number)
        elif isinstance(value, Histogram):
            value.observe(number)
            expected[f"seatrial_{field.name}_count"] = 1.0
            expected[f"seatrial_{field.name}_sum"] = float(number)

    found = scraped(counters)

    assert expected.items() <= found.items()


@pytest.mark.parametrize(
    ("name", "key", "labels"),
    [
        ("flush_retries", "23505", "|reason=23505"),
        ("rows_rejected", "too_old", "|reason=too_old"),
        ("errors_sent", "seq_gap", "|code=seq_gap"),
        ("sockets_closed", ("agent", "4509"), "|code=4509|endpoint=agent"),
        ("handshakes_refused", ("live", "origin"), "|endpoint=live|reason=origin"),
        ("actions_denied", "forbidden", "|reason=forbidden"),
        ("actions_ended", "expired", "|state=expired"),
        ("rows_pruned", "audit", "|table=audit"),
    ],
)
def test_reasons_are_labels(name: str, key: str | tuple[str, str], labels: str) -> None:
    """A drop, refusal or close is counted by its reason."""
    counters = Counters()
    getattr(counters, name)[key] += 3

    assert scraped(counters)[f"seatrial_{name}_total{labels}"] == 3


def test_the_labelled_counters_are_all_tested() -> None:
    """A new labelled counter needs its place in the test above."""
    labelled = {field.name for field in fields(Counters) if isinstance(getattr(Counters(), field.name), Counter)}

    assert labelled == {
        "flush_retries", "rows_rejected", "errors_sent", "sockets_closed", "handshakes_refused", "actions_denied",
        "actions_ended", "rows_pruned",
    }  # fmt: skip


def test_gauges_are_read_at_the_scrape() -> None:
    """A gauge shows what is, with its text."""
    assert scraped(Counters(), {"agents_connected": ("Agents", 7)})["seatrial_agents_connected"] == 7


def test_a_histogram_is_cumulative() -> None:
    """Durations fall into the bucket whose bound they do not pass; the last one holds all."""
    counters = Counters()
    for seconds in (0.0, 0.0005, 0.0006, 1.0, 1000.0):
        counters.flush_seconds.observe(seconds)

    found = scraped(counters)
    buckets = [value for name, value in found.items() if name.startswith("seatrial_flush_seconds_bucket")]

    assert found["seatrial_flush_seconds_bucket|le=0.0005"] == 2
    assert found["seatrial_flush_seconds_bucket|le=0.000625"] == 3
    assert found["seatrial_flush_seconds_bucket|le=+Inf"] == found["seatrial_flush_seconds_count"] == 5
    assert found["seatrial_flush_seconds_sum"] == pytest.approx(1001.0011)
    assert buckets == sorted(buckets)
    assert buckets[-2] == 4


def test_buckets_are_a_quarter_apart() -> None:
    """A percentile read from the buckets is off by at most a quarter, from half a millisecond to 40 s."""
    assert all(1 < upper / lower < 1.26 for lower, upper in pairwise(DURATION_BUCKETS_SECONDS))
    assert DURATION_BUCKETS_SECONDS[0] == 0.0005
    assert DURATION_BUCKETS_SECONDS[-1] > 40
