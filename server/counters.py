"""What the server counts. Plain integers on the hot path; `/metrics` reads them when it is scraped.

A drop never happens without a counter that names its reason. No label ever holds an agent, a container or a user.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

DURATION_BUCKETS_SECONDS = tuple(round(0.0005 * 1.25**i, 6) for i in range(52))
"""0.5 ms to about 44 s in steps of a quarter: a percentile read from them is off by at most 25 %."""


class Histogram:
    """Durations in seconds, counted in fixed buckets."""

    def __init__(self) -> None:
        self.counts = [0] * (len(DURATION_BUCKETS_SECONDS) + 1)
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(DURATION_BUCKETS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds

    def family(self, name: str, text: str) -> HistogramMetricFamily:
        """As Prometheus wants it: cumulative."""
        buckets, total = [], 0
        for bound, count in zip((*map(str, DURATION_BUCKETS_SECONDS), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=self.sum_seconds)


@dataclass(slots=True)
class Counters:
    """Totals since the start."""

    frames_received: int = 0
    batches_accepted: int = 0
    batches_replayed: int = 0
    """Sent again though received before: dropped, acknowledged with the original."""
    batches_declared_dropped: int = 0
    """Numbers that an agent's spool lost and declared by raising `oldest`."""
    metric_rows_stored: int = 0
    log_rows_stored: int = 0
    rows_replayed: int = 0
    """Rows of the merge path that were stored already, with equal values."""
    flushes: int = 0
    flushes_merged: int = 0
    """Flushes that went by INSERT ... ON CONFLICT, all or in part."""
    flush_retries: Counter[str] = field(default_factory=Counter)
    rows_rejected: Counter[str] = field(default_factory=Counter)
    errors_sent: Counter[str] = field(default_factory=Counter)
    sockets_closed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By endpoint and close code."""
    handshakes_refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By endpoint and reason."""
    takeovers: int = 0
    duplicate_identities: int = 0
    actions_requested: int = 0
    actions_sent: int = 0
    actions_denied: Counter[str] = field(default_factory=Counter)
    actions_ended: Counter[str] = field(default_factory=Counter)
    """By state."""
    action_results_unknown: int = 0
    action_results_repeated: int = 0
    action_results_dropped: int = 0
    """Reported while the queue to the database was full: the agents repeat them."""
    live_frames_sent: int = 0
    live_metrics_conflated: int = 0
    """Frames replaced by a newer one before a slow subscriber read them."""
    live_samples_late: int = 0
    """Stored while somebody of the organisation watched samples, and not shown: newer ones were."""
    live_lines_dropped: int = 0
    """Log lines that a slow subscriber got as a `gap`."""
    metric_rows_pruned: int = 0
    log_rows_pruned: int = 0
    log_bytes_pruned: int = 0
    """Of lines whose container passed its bound; those are among the rows, too."""
    prunings_failed: int = 0
    rows_pruned: Counter[str] = field(default_factory=Counter)
    """By table, but for samples and lines."""
    container_collisions: int = 0
    containers_forgotten: int = 0
    directory_rows_refused: int = 0
    flush_seconds: Histogram = field(default_factory=Histogram)
    ack_seconds: Histogram = field(default_factory=Histogram)
    """From a batch's arrival to its COMMIT."""
    prune_seconds: Histogram = field(default_factory=Histogram)
    minutes_rolled_up: int = 0
    """Minutes of containers that were computed, each as often as it was."""
    rollup_seconds: Histogram = field(default_factory=Histogram)


_TOTALS = {
    "frames_received": "Frames that agents sent",
    "batches_accepted": "Batches taken for storage",
    "batches_replayed": "Batches sent again though received before",
    "batches_declared_dropped": "Batch numbers that agents declared dropped",
    "metric_rows_stored": "Samples committed",
    "log_rows_stored": "Log lines committed",
    "rows_replayed": "Rows that were stored already, with equal values",
    "flushes": "Transactions that stored rows",
    "flushes_merged": "Of these, with rows that went by INSERT ON CONFLICT",
    "takeovers": "Agent connections replaced by a newer one of the same machine",
    "duplicate_identities": "Connections refused because another machine has the identity",
    "actions_requested": "Actions admitted",
    "actions_sent": "Actions sent to agents",
    "action_results_unknown": "Results of actions that were not sent to that host",
    "action_results_repeated": "Results reported again though stored before",
    "action_results_dropped": "Results dropped while the queue to the database was full; agents repeat them",
    "live_frames_sent": "Frames written to subscribers",
    "live_metrics_conflated": "Metric frames replaced by newer ones before a slow subscriber read them",
    "live_samples_late": "Samples behind newer ones of a pulse or the same batch, where the organisation had watchers",
    "live_lines_dropped": "Log lines that slow subscribers got as a gap",
    "metric_rows_pruned": "Samples removed by retention",
    "log_rows_pruned": "Log lines removed by retention, or because their container passed its bound",
    "log_bytes_pruned": "Bytes of log lines removed because their container passed its bound",
    "prunings_failed": "Removals of what is too old in which some table failed",
    "minutes_rolled_up": "Minutes of containers computed for the rollup, each as often as it was",
    "container_collisions": "Containers refused because their 63-bit id is taken",
    "directory_rows_refused": "Hosts and containers that Postgres refused to store",
    "containers_forgotten": "Containers dropped from memory after they were gone for the retention",
}
_LABELLED = {
    "actions_denied": ("Attempts refused", ("reason",)),
    "actions_ended": ("Actions that ended", ("state",)),
    "rows_pruned": ("Rows removed by retention from the other tables", ("table",)),
    "flush_retries": ("Flushes tried again", ("reason",)),
    "rows_rejected": ("Rows not stored", ("reason",)),
    "errors_sent": ("Error frames sent", ("code",)),
    "sockets_closed": ("WebSockets ended", ("endpoint", "code")),
    "handshakes_refused": ("Upgrades refused", ("endpoint", "reason")),
}


class CounterCollector(Collector):
    """Counters and gauges as Prometheus metrics, read at each scrape."""

    def __init__(self, counters: Counters, gauges: Callable[[], dict[str, tuple[str, float]]]) -> None:
        self._counters = counters
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Every family, named seatrial_*."""
        for name, text in _TOTALS.items():
            yield CounterMetricFamily(f"seatrial_{name}", text, value=getattr(self._counters, name))
        for name, (text, labels) in _LABELLED.items():
            family = CounterMetricFamily(f"seatrial_{name}", text, labels=labels)
            for key, value in getattr(self._counters, name).items():
                family.add_metric((key,) if isinstance(key, str) else key, value)
            yield family
        yield self._counters.flush_seconds.family("seatrial_flush_seconds", "BEGIN to COMMIT of a flush")
        yield self._counters.ack_seconds.family(
            "seatrial_ack_seconds", "A batch's arrival to its COMMIT: its ack is due"
        )
        yield self._counters.prune_seconds.family("seatrial_prune_seconds", "One removal of what is too old")
        yield self._counters.rollup_seconds.family("seatrial_rollup_seconds", "One round of the rollup")
        for name, (text, value) in self._gauges().items():
            yield GaugeMetricFamily(f"seatrial_{name}", text, value=value)
