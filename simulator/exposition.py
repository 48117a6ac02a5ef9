"""The fleet's figures for Prometheus, over HTTP on this machine: what the live view shows, under names with units."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Self

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from simulator.latency import Buckets
from simulator.plan import PlanError
from simulator.status import Status

ADDRESS = "127.0.0.1"
BOUNDS_SECONDS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
"""Of the histograms' buckets."""
GAUGES = {
    "seatrial_fleet_agents": ("agents", "Simulated agents."),
    "seatrial_fleet_agents_connected": ("connected", "Agents with an open connection."),
    "seatrial_fleet_cpu_cores": ("cpu", "Cores used over the last second, all processes together."),
    "seatrial_fleet_resident_memory_bytes": ("rss_bytes", "Resident memory, all processes together."),
}
"""Name, field of the status, and meaning."""
COUNTERS = {
    "seatrial_fleet_batches_produced_total": ("batches_produced", "Batches produced."),
    "seatrial_fleet_batches_sent_total": ("batches_sent", "Batches sent, those sent again included."),
    "seatrial_fleet_batches_resent_total": ("batches_resent", "Batches sent again."),
    "seatrial_fleet_batches_acked_total": ("batches_acked", "Batches acknowledged."),
    "seatrial_fleet_batches_dropped_total": ("batches_dropped", "Batches given up."),
    "seatrial_fleet_rows_produced_total": ("rows", "Samples and log lines produced."),
    "seatrial_fleet_ticks_skipped_total": (
        "skipped_ticks",
        "Ticks not produced, the fleet being over an interval late.",
    ),
}
HISTOGRAMS = {
    "seatrial_fleet_ack_latency_seconds": ("ack", "From the time a batch was due to its acknowledgement."),
    "seatrial_fleet_schedule_lag_seconds": ("lag", "From the time a tick was due to its production."),
}
FAULTS = "seatrial_fleet_faults_total"
"""Faults that happened, by `kind`."""


class _Histogram:
    """A histogram of the run, added up second by second."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_SECONDS) + 1)
        self.sum_seconds = 0.0

    def add(self, recent: Buckets) -> None:
        for microseconds, count in recent.items():
            seconds = microseconds / 1e6
            self.counts[bisect_left(BOUNDS_SECONDS, seconds)] += count
            self.sum_seconds += seconds * count

    def family(self, name: str, meaning: str) -> HistogramMetricFamily:
        bounds = [*(f"{bound:g}" for bound in BOUNDS_SECONDS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(self.counts)), strict=True))
        return HistogramMetricFamily(name, meaning, buckets=buckets, sum_value=self.sum_seconds)


class _Collector(Collector):
    """Reads what `update` left: a scrape comes on a thread of its own."""

    def __init__(self) -> None:
        self._families: list[Metric] = []
        self._histograms = {name: _Histogram() for name in HISTOGRAMS}

    def update(self, status: Status) -> None:
        for name, (field, _) in HISTOGRAMS.items():
            self._histograms[name].add(getattr(status, field))
        faults = CounterMetricFamily(FAULTS, "Faults that happened.", labels=["kind"])
        for kind, count in status.faults.items():
            faults.add_metric([kind], count)
        self._families = [
            *(GaugeMetricFamily(name, meaning, getattr(status, field)) for name, (field, meaning) in GAUGES.items()),
            *(
                CounterMetricFamily(name, meaning, getattr(status, field))
                for name, (field, meaning) in COUNTERS.items()
            ),
            *(self._histograms[name].family(name, meaning) for name, (_, meaning) in HISTOGRAMS.items()),
            faults,
        ]

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


class Exposition:
    """Serves `/metrics` on 127.0.0.1 while it is entered.

    Args:
        port: to listen on; 0: a free one.

    Attributes:
        port: on which it listens, once entered.

    Raises:
        PlanError: on entering: the port cannot be had.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._collector = _Collector()

    def __enter__(self) -> Self:
        registry = CollectorRegistry()
        registry.register(self._collector)
        try:
            self._server, self._thread = start_http_server(self.port, ADDRESS, registry)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise PlanError("metrics-port", self.port, f"a free port of {ADDRESS} ({reason})") from None
        self.port = self._server.server_port
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def update(self, status: Status) -> None:
        """What a scrape gets from now on."""
        self._collector.update(status)
