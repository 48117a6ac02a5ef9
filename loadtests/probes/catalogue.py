"""The time series that probes keep, by the names of the catalogue of metrics: what each is, and where it is read.

Plain data: thresholds, the probes themselves, the report and the documentation all read it here.
"""

from typing import NamedTuple


class Probed(NamedTuple):
    """A time series."""

    unit: str
    meaning: str
    source: str
    """Where it is read, for who wants to look there too."""


def _metrics(family: str) -> str:
    return f"/metrics: {family}"


SERVER_GAUGES: dict[str, tuple[Probed, str, float]] = {
    "agents_connected": (Probed("", "Agents with an open socket.", _metrics("seatrial_agents_connected")),
                         "seatrial_agents_connected", 1),
    "subscribers_connected": (Probed("", "Open live sockets.", _metrics("seatrial_subscribers")),
                              "seatrial_subscribers", 1),
    "ingest_bytes": (Probed("B", "Rows that the server received and did not commit yet.",
                            _metrics("seatrial_ingest_bytes")), "seatrial_ingest_bytes", 1),
    "outbox_bytes": (Probed("B", "Frames that wait for slow subscribers.", _metrics("seatrial_outbox_bytes")),
                     "seatrial_outbox_bytes", 1),
    "lane_batches_pending": (Probed("batches", "Batches that wait for a flush.",
                                    _metrics("seatrial_lane_batches_pending")), "seatrial_lane_batches_pending", 1),
    "lanes_failing": (Probed("", "Writer lanes whose last flush failed.", _metrics("seatrial_lanes_failing")),
                      "seatrial_lanes_failing", 1),
    "acks_waiting": (Probed("", "Agents whose ack waits for their organisation's rate.",
                            _metrics("seatrial_acks_waiting")), "seatrial_acks_waiting", 1),
    "actions_pending": (Probed("", "Actions that wait for their agent.", _metrics("seatrial_actions_pending")),
                        "seatrial_actions_pending", 1),
    "progress_age_s": (Probed("s", "How far the agents' acked_seq in the database may be behind.",
                              _metrics("seatrial_progress_age_seconds")), "seatrial_progress_age_seconds", 1),
    "rollup_minutes_to_fill": (Probed("minutes", "Minutes of samples without marks that the rollup has not got yet.",
                                      _metrics("seatrial_rollup_minutes_to_fill")), "seatrial_rollup_minutes_to_fill", 1),
    "server_loop_lag_ms": (Probed("ms", "How late the server's last one-second tick was.",
                                  _metrics("seatrial_loop_lag_seconds")), "seatrial_loop_lag_seconds", 1000),
}  # fmt: skip
"""By name: the series, the server's gauge, and what a value is multiplied by."""

SERVER_COUNTERS: dict[str, tuple[Probed, str]] = {
    "batches_accepted_per_second": (
        Probed("batches/s", "Batches that the server took for storage.", _metrics("seatrial_batches_accepted_total")),
        "seatrial_batches_accepted_total",
    ),
    "flushes_per_second": (
        Probed("flushes/s", "Transactions that stored rows.", _metrics("seatrial_flushes_total")),
        "seatrial_flushes_total",
    ),
    "live_frames_per_second": (
        Probed("frames/s", "Frames written to subscribers.", _metrics("seatrial_live_frames_sent_total")),
        "seatrial_live_frames_sent_total",
    ),
    "live_frames_conflated_per_second": (
        Probed("frames/s", "Metric frames replaced by newer ones before a slow subscriber read them.",
               _metrics("seatrial_live_metrics_conflated_total")),
        "seatrial_live_metrics_conflated_total",
    ),
    "live_lines_dropped_per_second": (
        Probed("lines/s", "Log lines that slow subscribers got as a gap.",
               _metrics("seatrial_live_lines_dropped_total")),
        "seatrial_live_lines_dropped_total",
    ),
}  # fmt: skip
"""By name: the series, and the server's counter that it is the rate of."""

POSTGRES_RATES: dict[str, tuple[Probed, str]] = {
    "db_rows_inserted_per_second": (
        Probed("rows/s", "Rows inserted into any table of the run's database.", "pg_stat_database.tup_inserted"),
        "inserted",
    ),
    "db_rows_updated_per_second": (Probed("rows/s", "Rows updated.", "pg_stat_database.tup_updated"), "updated"),
    "db_rows_deleted_per_second": (Probed("rows/s", "Rows deleted.", "pg_stat_database.tup_deleted"), "deleted"),
    "db_rows_read_per_second": (
        Probed("rows/s", "Rows and index entries that scans read.", "pg_stat_database.tup_returned"), "read",
    ),
    "db_commits_per_second": (
        Probed("transactions/s", "Transactions committed.", "pg_stat_database.xact_commit"), "commits",
    ),
    "wal_bytes_per_second": (
        Probed("B/s", "Write-ahead log that Postgres wrote, of all its databases.", "pg_current_wal_insert_lsn()"),
        "wal",
    ),
}  # fmt: skip
"""By name: the series, and the column of the probe's statement that it is the rate of."""

POSTGRES_LEVELS: dict[str, tuple[Probed, str]] = {
    "db_connections": (Probed("", "Connections to the run's database.", "pg_stat_activity"), "connections"),
    "db_connections_active": (Probed("", "Of these, with a statement under way.", "pg_stat_activity"), "active"),
    "db_locks": (Probed("", "Locks held or awaited in the run's database.", "pg_locks"), "locks"),
    "db_locks_waiting": (Probed("", "Of these, awaited.", "pg_locks.granted"), "waiting"),
}
"""By name: the series, and the column of the probe's statement."""

POSTGRES_DERIVED: dict[str, Probed] = {
    "db_buffer_hit_fraction": Probed(
        "", "Blocks found in shared buffers, of those asked for in this second: 0 to 1.",
        "pg_stat_database.blks_hit, blks_read",
    ),
    "db_checkpoints": Probed(
        "", "Checkpoints since the first look.", "pg_stat_checkpointer, or pg_stat_bgwriter before Postgres 17"
    ),
}  # fmt: skip

PROCESSES: dict[str, str] = {
    "server": "the server",
    "postgres": "Postgres with all its backends",
    "fleet": "the fleet",
    "users": "Locust",
    "proxy": "the proxy between fleet and server",
}
"""Whose processes are looked at, and how each is called."""


def _process(who: str, what: str) -> dict[str, Probed]:
    shared = ", memory that backends share counted once" if who == "postgres" else ""
    return {
        f"{who}_cpu_cores": Probed("cores", f"Processor time of {what}: 1 is a whole core.", "/proc/PID/stat"),
        f"{who}_rss_mb": Probed("MB", f"Memory of {what}, in 10^6 bytes{shared}.", "/proc/PID/statm"),
        f"{who}_fds": Probed("", f"Open file descriptors of {what}.", "/proc/PID/fd"),
    }


PROCESS_SERIES: dict[str, Probed] = {
    name: probed for who, what in PROCESSES.items() for name, probed in _process(who, what).items()
}

FLEET_SERIES: dict[str, Probed] = {
    "offered_rows_per_second": Probed(
        "rows/s", "Samples and log lines that the fleet made.",
        "fleet.log: rows",
    ),
    "offered_batches_per_second": Probed("batches/s", "Batches that the fleet made.", "fleet.log: batches_produced"),
    "acked_batches_per_second": Probed("batches/s", "Batches whose ack the fleet got.", "fleet.log: batches_acked"),
    "backlog_batches": Probed("batches", "Batches made and neither acked nor declared lost.", "fleet.log: backlog"),
    "fleet_connected": Probed("", "Agents that are connected, as the fleet counts them.", "fleet.log: connected"),
}  # fmt: skip
"""What the fleet tells of itself once a second."""

SERIES: dict[str, Probed] = (
    {name: entry[0] for name, entry in SERVER_GAUGES.items()}
    | {name: entry[0] for name, entry in SERVER_COUNTERS.items()}
    | {name: entry[0] for name, entry in (POSTGRES_RATES | POSTGRES_LEVELS).items()}
    | POSTGRES_DERIVED
    | PROCESS_SERIES
    | FLEET_SERIES
)
"""Every series here."""
