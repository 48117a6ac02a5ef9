"""The catalogue of metrics: every name that a scenario may bound, and that `result.json` and the report may hold.

A name here is the same in scenarios, `result.json`, the report and `docs/verdict.md`.
"""

from typing import NamedTuple

from loadtests.growth import METRICS as GROWTHS
from loadtests.probes.catalogue import PROCESS_SERIES, SERIES
from loadtests.recorded import CHART_RANGES, LATENCIES
from simulator.fault_kinds import FLEET_FAULTS
from simulator.scenario import Scenario

CUTS = ("server_kill", "server_kill_before_ack", "server_term", "resets", "disconnect", "reconnect_storm")
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
    needs_several: tuple[str, ...] = ()
    """Keys that must be above 1."""
    needs_fault: tuple[str, ...] = ()
    """Kinds of fault of which one at least must be in the scenario."""
    excludes: tuple[str, ...] = ()
    """Keys that must be 0."""


_API_USERS = ("actions.operators", "ui.chart_readers", "ui.log_downloaders", "ui.auditors")

GROWN = {
    "rows": "Growth of the rows",
    "table_bytes": "Growth of the heap",
    "index_bytes": "Growth of the indexes",
    "dead_rows": "Growth of the dead rows",
    "oldest_row_age_s": "Growth of the oldest row's age",
}
"""What each of `loadtests.growth` is, for people."""

_WATCHING = ("ui.subscribers", "ui.reconnecting")
_BROWSERS = (*_WATCHING, "ui.slow")
_USERS = (*_BROWSERS, *_API_USERS)
_NETWORK_FAULTS = ("acks_withheld", "resets")


def _needs(series: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """What a probe's series needs: users, or a proxy, whose processes there are then."""
    if series not in PROCESS_SERIES:
        return (), (), ()
    return (), _USERS if series.startswith("users_") else (), _NETWORK_FAULTS if series.startswith("proxy_") else ()


METRICS: dict[str, Metric] = {
    "ack_latency_ms": Metric("ms", "latency", "From a batch's intended time to its ack at the agent: it is committed."),
    "bystander_ack_latency_ms": Metric(
        "ms", "latency", "The same, of the agents that no fault of the fleet strikes.", needs_fault=FLEET_FAULTS
    ),
    "live_latency_ms": Metric("ms", "latency", "From a sample's own time to its receipt by a browser.", (), _WATCHING),
    "log_latency_ms": Metric(
        "ms",
        "latency",
        "From a log line's own time to its receipt by a browser.",
        ("fleet.log_lines",),
        _WATCHING,
    ),
    "slow_live_latency_ms": Metric(
        "ms", "latency", "From a sample's or line's own time to its receipt by a slow browser.", ("ui.slow",)
    ),
    "browser_clock_offset_ms": Metric(
        "ms", "value", "How far the server's clock is ahead of the browsers', by their heartbeats.", (), _BROWSERS
    ),
    "browser_clock_error_ms": Metric("ms", "value", "By how much that may be wrong.", (), _BROWSERS),
    "agents_clock_offset_ms": Metric("ms", "value", "How far the server's clock is ahead of the fleet's."),
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
    "prune_duration_s": Metric("s", "series", "How long each removal took, rests included."),
    **{
        f"{half}_{latency}": Metric("ms", "latency", f"{latency} of what was due {when}.", (), needs)
        for latency, needs in (("ack_latency_ms", ()), ("live_latency_ms", _WATCHING))
        for half, when in (("pruning", "while the server pruned"), ("quiet", "between two prunings"))
    },
    "pruning_ack_p99_ratio": Metric("", "value", "p99 of pruning_ack_latency_ms to that of quiet_ack_latency_ms."),
    "pruning_live_p99_ratio": Metric(
        "", "value", "p99 of pruning_live_latency_ms to that of quiet_live_latency_ms.", (), _WATCHING
    ),
    "table_bytes": Metric("B", "series", "Heap of the tables of samples and log lines."),
    "index_bytes": Metric("B", "series", "Indexes of the tables of samples and log lines."),
    "dead_rows": Metric(
        "rows", "series", "Rows removed and not yet vacuumed, as the statistics collector counts them."
    ),
    "oldest_row_age_s": Metric("s", "series", "Age of the oldest sample or log line stored."),
    **{
        name: Metric("", "value", f"{GROWN[what]} of the table that grew most after the first window, as a share.")
        for what, name in GROWTHS.items()
    },
    "schedule_lag_ms": Metric(
        "ms", "latency", "How much later than intended the fleet sent; above 10 % of the interval a run is invalid."
    ),
    "ledger_missing": Metric("rows", "count", "Rows acked and not stored."),
    "ledger_foreign": Metric("rows", "count", "Rows stored that no agent sent."),
    "ledger_altered": Metric("rows", "count", "Rows stored with other values than were sent."),
    "ledger_verified_fraction": Metric(
        "", "value", "Rows compared with the database, of those that were acked: 0 to 1."
    ),
    "stored_fraction": Metric(
        "",
        "value",
        "Rows acknowledged and not missing in the database, of those that the fleet's schedule held: 0 to 1.",
        excludes=("storage.backfill_seconds",),
    ),
    **{name: Metric(probed.unit, "series", probed.meaning, *_needs(name)) for name, probed in SERIES.items()},
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
    "takeovers": Metric("", "count", "Connections that agents opened with a new token while the old one still stood."),
    "rows_rejected": Metric("rows", "count", "Rows that acks named or counted as not stored."),
    "fleet_faults": Metric(
        "",
        "count",
        "How often the fleet's own faults happened: connections struck, frames sent, dials made.",
        needs_fault=FLEET_FAULTS,
    ),
    "impostors_welcomed": Metric(
        "",
        "count",
        "Second machines and copies that the server welcomed as an agent that was connected.",
        needs_fault=("duplicate_identity", "cloned_epoch"),
    ),
    "pulses": Metric("", "count", "Newest values that agents sent for live views while batches had to wait."),
    "containers_recreated": Metric(
        "", "count", "Containers that others of the same service replaced (churn).", ("fleet.churn_per_hour",)
    ),
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
    "live_messages": Metric("", "count", "Messages that browsers received.", (), _BROWSERS),
    "live_foreign": Metric(
        "", "count", "Messages and answers about what was not asked for, or is another's.", (), _BROWSERS
    ),
    "live_violations": Metric(
        "",
        "count",
        "Messages of no known form, samples going back in time, lines twice, lines and samples lost without a gap, topics"
        " without an answer.",
        (),
        _BROWSERS,
    ),
    "live_errors": Metric(
        "",
        "count",
        "Live sockets that did not open, fell silent or were closed by the server, and errors that it told on them.",
        (),
        (*_BROWSERS, "actions.operators"),
    ),
    "trespasses": Metric(
        "",
        "count",
        "Attempts of browsers to see another organisation's that were refused.",
        ("ui.subscribers",),
        needs_several=("fleet.organisations",),
    ),
    "live_checks": Metric("", "count", "Times that a browser held what came against what is stored.", (), _BROWSERS),
    "live_samples_checked": Metric("", "count", "Stored samples that browsers held against what came.", (), _BROWSERS),
    "live_samples_overtaken": Metric(
        "", "count", "Of these, samples in whose place a newer one came, as gaps must have told.", (), _BROWSERS
    ),
    "live_samples_dropped": Metric("", "count", "Samples that gaps told browsers of.", (), _BROWSERS),
    "live_gaps": Metric("", "count", "Gaps in logs that the server told browsers of.", (), _BROWSERS),
    "live_lines_dropped": Metric("", "count", "Log lines that these gaps told of.", (), _BROWSERS),
    "slow_closed": Metric("", "count", "Times that a slow browser was closed for being slow.", ("ui.slow",)),
    "api_violations": Metric(
        "",
        "count",
        "Answers of the API that break a promise, attempts that must be denied and were not.",
        (),
        _API_USERS,
    ),
    "api_errors": Metric(
        "",
        "count",
        "Requests without a good answer, and actions whose outcome did not become known in time.",
        (),
        _USERS,
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
    "charts_checked": Metric(
        "", "count", "Charts that were held against the generator's samples.", ("ui.chart_readers",)
    ),
    "charts_wrong": Metric("", "count", "Of these, that tell something else.", ("ui.chart_readers",)),
    "actions_executed_twice": Metric(
        "", "count", "Executions of an action beyond its first, over all agents.", ("actions.operators",)
    ),
    "actions_sent_twice": Metric(
        "", "count", "Actions that reached an agent which knew them already.", ("actions.operators",)
    ),
}
"""Every metric there is."""


PRUNING_VALUES = (
    "pruning_ack_latency_ms", "quiet_ack_latency_ms", "pruning_ack_p99_ratio",
    "pruning_live_latency_ms", "quiet_live_latency_ms", "pruning_live_p99_ratio",
)  # fmt: skip
"""What is told of the time while the server pruned, and of that between."""

_SOURCES: dict[str, tuple[str, ...]] = {
    "fleet.json": (
        "ack_latency_ms", "schedule_lag_ms", "resends", "batches_dropped", "batches_unsettled", "connections_lost",
        "handshakes_refused", "pulses", "actions_sent_twice", "reconnect_99_s", "reconnect_peak_share",
        "agents_clock_offset_ms", "takeovers",
        "bystander_ack_latency_ms", "rows_rejected", "fleet_faults", "impostors_welcomed", "containers_recreated",
    ),
    "fleet.json, findings.json": ("stored_fraction",),
    "users.json": (
        *LATENCIES, "chart_query_ms", "log_lines_downloaded", "live_messages", "live_foreign", "live_violations",
        "live_errors", "trespasses", "live_checks", "live_samples_checked", "live_samples_overtaken",
        "live_samples_dropped", "live_gaps", "live_lines_dropped",
        "slow_closed", "browser_clock_offset_ms", "browser_clock_error_ms", "api_violations", "api_errors", "turns_skipped",
    ),
    "findings.json": ("ledger_missing", "ledger_foreign", "ledger_altered", "ledger_verified_fraction"),
    "audit.json": ("audit_missing", "audit_duplicate", "audit_wrong", "actions_executed_twice"),
    "charts.json": ("charts_checked", "charts_wrong"),
    "/metrics: seatrial_*_rows_stored_total": ("insert_rows_per_second",),
    "/metrics: seatrial_flush_seconds": ("insert_batch_ms",),
    "/metrics: seatrial_*_rows_pruned_total, seatrial_prune_seconds": ("prune_rows_per_second",),
    "/metrics: seatrial_prune_begun_timestamp_seconds, seatrial_prune_ended_timestamp_seconds": (
        "prune_duration_s", *PRUNING_VALUES,
    ),
    "pg_stat_get_live_tuples, pg_table_size, pg_indexes_size, pg_stat_get_dead_tuples, the smallest timestamp": (
        *GROWTHS.values(),
    ),
    "/metrics: seatrial_rows_replayed_total": ("rows_replayed",),
    "/metrics: seatrial_batches_replayed_total": ("batches_replayed",),
    "/readyz": ("server_unready_s",),
    "pg_table_size, pg_indexes_size, pg_stat_get_dead_tuples": ("table_bytes", "index_bytes", "dead_rows"),
    "the smallest timestamp of each table": ("oldest_row_age_s",),
    "server.log": ("server_restarts", "server_failures"),
    "network.log": ("connection_resets", "withheld_bytes"),
}  # fmt: skip
SOURCES: dict[str, str] = {name: source for source, names in _SOURCES.items() for name in names} | {
    name: probed.source for name, probed in SERIES.items()
}
"""Where each metric comes from: a file beside `result.json`, or what a probe read."""

TIMED = frozenset({"ack_latency_ms", "schedule_lag_ms", "chart_query_ms", *LATENCIES})
"""Latencies that are known by the time at which something was meant to happen, too."""

_AT_THE_END = frozenset(
    {
        *_SOURCES["audit.json"], *_SOURCES["charts.json"], *PRUNING_VALUES, *GROWTHS.values(),
        "ledger_verified_fraction", "batches_unsettled", "connections_lost",
        "handshakes_refused", "pulses", "actions_sent_twice", "reconnect_99_s", "reconnect_peak_share", "insert_batch_ms",
        "connection_resets", "withheld_bytes", "agents_clock_offset_ms", "takeovers",
        "bystander_ack_latency_ms", "rows_rejected", "fleet_faults", "impostors_welcomed", "containers_recreated",
        "stored_fraction",
    }
)  # fmt: skip


def has_phases(name: str) -> bool:
    """Whether a metric can be told for a phase of a run alone."""
    return name in TIMED or METRICS[name].kind == "series"


def known_meanwhile(name: str) -> bool:
    """Whether a metric is known while a run goes on, so that it can end it."""
    return name not in _AT_THE_END


def measurable(name: str, scenario: Scenario) -> bool:
    """Whether a scenario makes what a metric measures."""
    return not lack(METRICS[name], scenario)


def lack(metric: Metric, scenario: Scenario) -> str:
    """What the scenario lacks to measure it; empty: nothing."""

    def number(key: str) -> float:
        section, _, leaf = key.partition(".")
        value: float = getattr(getattr(scenario, section), leaf)
        return value

    for key in metric.needs:
        if not number(key):
            return f"cannot be measured with {key} = 0"
    for key in metric.needs_several:
        if number(key) < 2:
            return f"cannot be measured with {key} = {number(key)}"
    for key in metric.excludes:
        if number(key):
            return f"cannot be measured with {key.removesuffix('_seconds')}"
    if metric.needs_one_of and not any(map(number, metric.needs_one_of)):
        return f"cannot be measured without {' or '.join(metric.needs_one_of)}"
    if metric.needs_fault and not any(fault.kind in metric.needs_fault for fault in scenario.faults):
        return f"cannot be measured without a fault {' or '.join(metric.needs_fault)}"
    return ""
