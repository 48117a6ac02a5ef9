"""The catalogue of metrics, and the judgement of a run against its thresholds.

A name here is the same in scenarios, `result.json`, the report and `docs/verdict.md`.
"""

from collections.abc import Mapping
from math import isnan
from typing import NamedTuple

from msgspec import Struct

from loadtests.measure import Latency, Series
from loadtests.recorded import CHART_RANGES
from simulator.scenario import Problem, Scenario, ScenarioError, Threshold
from simulator.scenario_format import unknown

CUTS = ("server_kill", "server_term", "resets")
"""Faults that end connections of agents."""

STATISTICS: dict[str, tuple[str, ...]] = {
    "latency": ("p50", "p90", "p95", "p99", "p999", "max", "mean", "count"),
    "series": ("min", "max", "mean", "last"),
    "count": ("count",),
    "value": ("value",),
}
"""What a threshold may bound, per kind of metric."""


class Metric(NamedTuple):
    """One metric of the catalogue."""

    unit: str
    """Empty: a plain number."""
    kind: str
    """A key of `STATISTICS`."""
    meaning: str
    needs: tuple[str, ...] = ()
    """Keys of the scenario that must be above 0, or there is nothing to measure."""
    needs_one_of: tuple[str, ...] = ()
    """Keys of which one at least must be."""
    needs_fault: tuple[str, ...] = ()
    """Kinds of fault of which one at least must be in the scenario."""


_API_USERS = ("actions.operators", "ui.chart_readers", "ui.log_downloaders", "ui.auditors")

METRICS: dict[str, Metric] = {
    "ack_latency_ms": Metric("ms", "latency", "From a batch's intended time to its ack at the agent: it is committed."),
    "live_latency_ms": Metric(
        "ms", "latency", "From a sample's own time to its receipt by a browser.", ("ui.subscribers",)
    ),
    "log_latency_ms": Metric(
        "ms",
        "latency",
        "From a log line's own time to its receipt by a browser.",
        ("ui.subscribers", "fleet.log_lines"),
    ),
    "action_round_trip_ms": Metric(
        "ms", "latency", "From the intended time of an action's request to its known outcome.", ("actions.operators",)
    ),
    "chart_query_ms": Metric(
        "ms", "latency", "From the intended time of a chart's request to the whole answer.", ("ui.chart_readers",)
    ),
    **{
        f"chart_query_{name}_ms": Metric(
            "ms", "latency", f"The same for charts of {name} alone.", ("ui.chart_readers",)
        )
        for name in CHART_RANGES
    },
    "log_download_ms": Metric(
        "ms",
        "latency",
        "From the intended time of a log download's request to its last byte.",
        ("ui.log_downloaders", "fleet.log_lines"),
    ),
    "log_lines_downloaded": Metric(
        "", "count", "Log lines in all downloads.", ("ui.log_downloaders", "fleet.log_lines")
    ),
    "insert_rows_per_second": Metric("rows/s", "series", "Rows committed in each second, samples and log lines."),
    "insert_batch_ms": Metric("ms", "latency", "One flush of a writer lane, COPY to COMMIT."),
    "prune_rows_per_second": Metric("rows/s", "series", "Rows removed by retention, over each pruning."),
    "table_bytes": Metric("B", "series", "Heap of the tables of samples and log lines."),
    "index_bytes": Metric("B", "series", "Indexes of the tables of samples and log lines."),
    "dead_rows": Metric(
        "rows", "series", "Rows removed and not yet vacuumed, as the statistics collector counts them."
    ),
    "oldest_row_age_s": Metric("s", "series", "Age of the oldest sample or log line stored."),
    "schedule_lag_ms": Metric(
        "ms", "latency", "How much later than intended the fleet sent; above 10 % of the interval a run is invalid."
    ),
    "ledger_missing": Metric("rows", "count", "Rows acked and not stored."),
    "ledger_foreign": Metric("rows", "count", "Rows stored that no agent sent."),
    "ledger_altered": Metric("rows", "count", "Rows stored with other values than were sent."),
    "ledger_verified_fraction": Metric(
        "", "value", "Rows compared with the database, of those that were acked: 0 to 1."
    ),
    "resends": Metric("", "count", "Batches that agents sent again after a reconnect."),
    "rows_replayed": Metric(
        "rows", "count", "Rows that came again though they were stored, and were not stored twice."
    ),
    "batches_replayed": Metric("", "count", "Batches that came again to a server that had received them."),
    "batches_dropped": Metric("", "count", "Batches that agents' spools lost and declared."),
    "batches_unsettled": Metric("", "count", "Batches neither acked nor declared lost when the fleet left."),
    "connections_lost": Metric(
        "", "count", "Connections of agents that ended otherwise than by the agent's own leave."
    ),
    "handshakes_refused": Metric("", "count", "Handshakes of agents that the server refused with an HTTP status."),
    "pulses": Metric("", "count", "Newest values that agents sent for live views while batches had to wait."),
    "server_restarts": Metric("", "count", "Times that the runner started the server again."),
    "server_failures": Metric(
        "", "count", "Times that the server ended by itself, or after SIGTERM with another exit code than 0."
    ),
    "server_unready_s": Metric("s", "value", "Time for which /readyz answered 503."),
    "reconnect_99_s": Metric(
        "s",
        "series",
        "From a fault that cut connections until 99 % of the agents were welcomed again.",
        needs_fault=CUTS,
    ),
    "reconnect_peak_share": Metric(
        "", "series", "Largest share of the fleet welcomed in one second after such a fault: 0 to 1.", needs_fault=CUTS
    ),
    "connection_resets": Metric("", "count", "Connections of agents that the proxy reset.", needs_fault=("resets",)),
    "withheld_bytes": Metric(
        "B", "count", "Bytes of the server that the proxy held back from agents.", needs_fault=("acks_withheld",)
    ),
    "live_messages": Metric("", "count", "Messages that browsers received.", ("ui.subscribers",)),
    "live_foreign": Metric(
        "", "count", "Messages about something that the browser had not asked for.", ("ui.subscribers",)
    ),
    "live_violations": Metric(
        "",
        "count",
        "Messages of no known form, samples going back in time, log lines twice, topics without an answer.",
        ("ui.subscribers",),
    ),
    "api_violations": Metric(
        "",
        "count",
        "Answers of the API that break a promise, attempts that must be denied and were not.",
        (),
        _API_USERS,
    ),
    "turns_skipped": Metric(
        "", "count", "Turns that simulated users left out because the one before took too long.", (), _API_USERS
    ),
    "audit_missing": Metric("rows", "count", "Attempts without a row in the audit log.", ("actions.operators",)),
    "audit_duplicate": Metric(
        "rows", "count", "Audit rows beyond the one of their attempt, or of no attempt.", ("actions.operators",)
    ),
    "audit_wrong": Metric(
        "rows", "count", "Audit rows that tell another attempt or outcome than took place.", ("actions.operators",)
    ),
    "actions_executed_twice": Metric(
        "", "count", "Executions of an action beyond its first, over all agents.", ("actions.operators",)
    ),
    "actions_sent_twice": Metric(
        "", "count", "Actions that reached an agent which knew them already.", ("actions.operators",)
    ),
}
"""Every metric there is."""

ALWAYS: tuple[Threshold, ...] = (
    Threshold(metric="ledger_missing", stat="count", op="==", limit=0),
    Threshold(metric="ledger_foreign", stat="count", op="==", limit=0),
    Threshold(metric="ledger_altered", stat="count", op="==", limit=0),
    Threshold(metric="ledger_verified_fraction", stat="value", op=">=", limit=0.99),
    Threshold(metric="live_foreign", stat="count", op="==", limit=0),
    Threshold(metric="live_violations", stat="count", op="==", limit=0),
    Threshold(metric="api_violations", stat="count", op="==", limit=0),
    Threshold(metric="audit_missing", stat="count", op="==", limit=0),
    Threshold(metric="audit_duplicate", stat="count", op="==", limit=0),
    Threshold(metric="audit_wrong", stat="count", op="==", limit=0),
    Threshold(metric="actions_executed_twice", stat="count", op="==", limit=0),
    Threshold(metric="actions_sent_twice", stat="count", op="==", limit=0),
)
"""Judged in every run that can measure them, whatever the scenario says: it can be stricter, never laxer."""

_CORRECTNESS = frozenset(threshold.metric for threshold in ALWAYS)

Measured = Mapping[str, Latency | Series | float]
"""What a run measured, by metric; a metric without samples may be absent."""


class Judged(Struct, frozen=True, kw_only=True):
    """One threshold, and how it went."""

    metric: str
    stat: str
    unit: str
    value: float | None
    """None: no samples."""
    limit: str
    """The bound as in the scenario: `< 1000`."""
    passed: bool
    reason: str = ""
    """Why it failed; empty: it passed."""

    @property
    def key(self) -> str:
        """The name as it stands in a scenario: `ack_latency_ms.p99`."""
        return f"{self.metric}.{self.stat}"

    @property
    def correctness(self) -> bool:
        """Whether this is about data and not about speed. Without samples nothing was found, good or bad."""
        return self.metric in _CORRECTNESS and self.value is not None


def validate_thresholds(scenario: Scenario) -> None:
    """Check that every threshold names a metric and a statistic that this scenario can measure.

    Raises:
        ScenarioError: with every threshold that does not.
    """
    problems = []
    for threshold in scenario.thresholds:
        mistake = _mistake(threshold, scenario)
        if mistake:
            problems.append(Problem(scenario.path, f"thresholds.{threshold.key}", threshold.bound, mistake))
    if problems:
        raise ScenarioError(*problems)


def _mistake(threshold: Threshold, scenario: Scenario) -> str:
    metric = METRICS.get(threshold.metric)
    if metric is None:
        return unknown(threshold.metric, METRICS, "metric")
    statistics = STATISTICS[metric.kind]
    if threshold.stat not in statistics:
        return f"unknown statistic; {threshold.metric} has {', '.join(statistics)}"
    return _lack(metric, scenario)


def measurable(name: str, scenario: Scenario) -> bool:
    """Whether a scenario makes what a metric measures."""
    return not _lack(METRICS[name], scenario)


def _lack(metric: Metric, scenario: Scenario) -> str:
    """What the scenario lacks to measure it; empty: nothing."""

    def number(key: str) -> int:
        section, _, leaf = key.partition(".")
        return int(getattr(getattr(scenario, section), leaf))

    for key in metric.needs:
        if not number(key):
            return f"cannot be measured with {key} = 0"
    if metric.needs_one_of and not any(map(number, metric.needs_one_of)):
        return f"cannot be measured without {' or '.join(metric.needs_one_of)}"
    if metric.needs_fault and not any(fault.kind in metric.needs_fault for fault in scenario.faults):
        return f"cannot be measured without a fault {' or '.join(metric.needs_fault)}"
    return ""


def judge(scenario: Scenario, measured: Measured) -> list[Judged]:
    """Judge the thresholds of `ALWAYS` and then the scenario's own, in their order.

    A threshold on a metric without samples has failed.

    Raises:
        ValueError: `measured` holds a name that is no metric, or a metric measured as another kind.
    """
    statistics = {name: statistics_of(name, measurement) for name, measurement in measured.items()}
    always = [threshold for threshold in ALWAYS if not _mistake(threshold, scenario)]
    thresholds = dict.fromkeys((*always, *scenario.thresholds))
    return [_judge(threshold, statistics.get(threshold.metric, {})) for threshold in thresholds]


def statistics_of(name: str, measurement: Latency | Series | float) -> dict[str, float]:
    """The statistics of one measured metric; empty: no samples.

    Raises:
        ValueError: the name is no metric, or its kind is another.
    """
    if name not in METRICS:
        raise ValueError(f"{name}: {unknown(name, METRICS, 'metric')}")
    kind = METRICS[name].kind
    if isinstance(measurement, Latency | Series):
        found = measurement.statistics()
        given = "latency" if isinstance(measurement, Latency) else "series"
    else:
        given = kind if kind in {"count", "value"} else "count"
        found = {kind: float(measurement)}
    if given != kind:
        raise ValueError(f"{name} = {measurement!r}: expected a {kind}")
    return found


def _judge(threshold: Threshold, statistics: Mapping[str, float]) -> Judged:
    value = statistics.get(threshold.stat)
    if value is None or isnan(value):
        passed, reason = False, "no samples"
    else:
        passed = threshold.holds(value)
        reason = "" if passed else f"{value:.15g} is not {threshold.bound}"
    return Judged(
        metric=threshold.metric,
        stat=threshold.stat,
        unit="" if threshold.stat == "count" else METRICS[threshold.metric].unit,
        value=None if reason == "no samples" else value,
        limit=threshold.bound,
        passed=passed,
        reason=reason,
    )
