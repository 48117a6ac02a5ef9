"""What the database holds, for /metrics: looked at from time to time, because it costs the database something."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import asyncpg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.agents import now_us
from server.db.pool import BROKEN, Database
from server.db.storage.base import Storage, TableSize
from server.db.storage.sizes import table_size
from server.db.storage.times import to_micros
from server.errors import DatabaseDownError

LOOK_SECONDS = 15.0
MOST_SHARE = 0.02
"""Of the time: a look that takes long is followed by a longer pause."""
_ROLLUP = "metric_minute"
_TOTALS = """
    SELECT pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END,
                           '0/0')::float8 AS wal_bytes,
           (SELECT count(*) FROM pg_stat_activity WHERE usesysid IS NOT NULL) AS connections,
           current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS most
"""
_PER_TABLE = {
    "table_bytes": "Heap of a table, all its ranges together",
    "index_bytes": "Its indexes",
    "live_rows": "Its rows, as the statistics collector counts them",
    "dead_rows": "Rows removed from it and not yet vacuumed, as the statistics collector counts them",
}

_log = logging.getLogger("seatrial.storage")


@dataclass(slots=True)
class _Seen:
    """One look."""

    at_us: int
    wal_bytes: float
    connections: int
    most_connections: int
    tables: Sequence[TableSize] = field(default_factory=tuple)


class StorageWatch(Collector):
    """Sizes and ages of the tables of samples, lines and minutes, the write-ahead log, and connections.

    Until the first look there is nothing, never a zero.
    """

    def __init__(self, database: Database, storage: Storage) -> None:
        self._database = database
        self._storage = storage
        self._seen: _Seen | None = None

    async def run(self) -> None:
        """Look each `LOOK_SECONDS` until cancelled; a look that fails is logged, and what was seen before stays."""
        while True:
            started = time.monotonic()
            try:
                await self.look()
            except (DatabaseDownError, LookupError, asyncpg.PostgresError, *BROKEN) as error:
                _log.warning("the storage could not be looked at", extra={"error": str(error)})
            took = time.monotonic() - started
            await asyncio.sleep(max(LOOK_SECONDS - took, took / MOST_SHARE))

    async def look(self) -> None:
        """Look once.

        Raises:
            DatabaseDownError, LookupError, asyncpg.PostgresError: the database does not tell.
        """
        async with self._database.acquire() as connection:
            totals = await connection.fetchrow(_TOTALS)
            assert totals is not None  # noqa: S101 - a SELECT without FROM has one row
            oldest = await connection.fetchval(f"SELECT min(minute) FROM {_ROLLUP}")  # noqa: S608 - our own name
            rollup = await table_size(
                connection, _ROLLUP, [_ROLLUP], None if oldest is None else to_micros(oldest)
            )  # fmt: skip
            tables = [*await self._storage.sizes(connection), rollup]
        self._seen = _Seen(now_us(), totals["wal_bytes"], totals["connections"], totals["most"], tables)

    def collect(self) -> Iterator[Metric]:
        """What was seen last. Ages are of now, so they grow where looking fails."""
        seen = self._seen
        if seen is None:
            return
        for name, text in _PER_TABLE.items():
            sizes = GaugeMetricFamily(f"seatrial_{name}", text, labels=("table",))
            for size in seen.tables:
                sizes.add_metric((size.table,), getattr(size, name))
            yield sizes
        ages = GaugeMetricFamily("seatrial_oldest_row_age_seconds", "Age of a table's oldest row", labels=("table",))
        for size in seen.tables:
            if size.oldest_at is not None:
                ages.add_metric((size.table,), (now_us() - size.oldest_at) / 1e6)
        yield ages
        yield CounterMetricFamily(
            "seatrial_wal_bytes", "Write-ahead log written since the cluster began", seen.wal_bytes
        )
        yield GaugeMetricFamily("seatrial_database_connections", "Connections of clients to Postgres", seen.connections)
        yield GaugeMetricFamily(
            "seatrial_database_connections_limit", "Most that it takes of ordinary roles", seen.most_connections
        )
        yield GaugeMetricFamily(
            "seatrial_storage_seen_timestamp_seconds", "When the database was looked at last", seen.at_us / 1e6
        )
