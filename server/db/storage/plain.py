"""Strategy `plain`: one table for samples, one for log lines, retention by scheduled DELETE.

The decided default and the baseline of every comparison. The primary key `(container_id, timestamp)` serves charts and
identity; it does not serve `timestamp < x`, so pruning walks the containers, a chunk at a time, by that key.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from server.db.storage.base import (
    CopyTarget,
    LogRow,
    MetricRow,
    Pruned,
    TableSize,
    longest_gap_us,
)
from server.db.storage.log_table import LogTable, log_row
from server.db.storage.times import to_datetime, to_micros
from server.reads import ChartBucket
from server.rows import LOG_COLUMNS, METRIC_COLUMNS

_PRUNE_ROWS = 50_000
"""Rows per DELETE: well within a statement's deadline, however much there is to remove."""
_PRUNE_CONTAINERS = 200
"""Containers per DELETE: bounds a statement's time and locks."""
_READ_ROWS = 5_000

_DDL = (
    """
    CREATE TABLE IF NOT EXISTS container_metric (
        container_id bigint NOT NULL,
        timestamp timestamptz NOT NULL,
        cpu_percent real,
        memory_bytes bigint,
        network_rx_bytes bigint,
        network_tx_bytes bigint,
        PRIMARY KEY (container_id, timestamp)
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS container_log (
        container_id bigint NOT NULL,
        timestamp timestamptz NOT NULL,
        line integer NOT NULL,
        stream smallint NOT NULL,
        partial boolean NOT NULL,
        truncated boolean NOT NULL,
        text text NOT NULL,
        PRIMARY KEY (container_id, timestamp, line)
    )
    """,
)

_NEXT_CONTAINERS = """
    WITH RECURSIVE walk AS (
        (SELECT container_id, 1 AS n FROM {table} WHERE container_id > $1 ORDER BY container_id LIMIT 1)
        UNION ALL
        SELECT (SELECT t.container_id FROM {table} t WHERE t.container_id > walk.container_id
                ORDER BY t.container_id LIMIT 1), walk.n + 1
        FROM walk WHERE walk.container_id IS NOT NULL AND walk.n < $2
    )
    SELECT container_id FROM walk WHERE container_id IS NOT NULL
"""
"""A loose index scan: the distinct containers after $1, one probe of the primary key each."""

_CHART = """
    WITH paired AS (
        SELECT timestamp, cpu_percent, memory_bytes, network_rx_bytes AS rx, network_tx_bytes AS tx,
               timestamp - lag(timestamp) OVER earlier AS pause,
               lag(network_rx_bytes) OVER earlier AS rx_before,
               lag(network_tx_bytes) OVER earlier AS tx_before
        FROM container_metric
        WHERE container_id = ANY($1) AND timestamp >= $2::timestamptz - $5::interval AND timestamp < $3
        WINDOW earlier AS (PARTITION BY container_id ORDER BY timestamp)
    ), risen AS (
        SELECT timestamp, cpu_percent, memory_bytes, pause,
               CASE WHEN pause <= $5 THEN CASE WHEN rx < rx_before THEN rx ELSE rx - rx_before END END AS rx,
               CASE WHEN pause <= $5 THEN CASE WHEN tx < tx_before THEN tx ELSE tx - tx_before END END AS tx
        FROM paired WHERE timestamp >= $2
    )
    SELECT date_bin($4, timestamp, 'epoch') AS bucket, count(*),
           avg(cpu_percent), max(cpu_percent), avg(memory_bytes)::float8, max(memory_bytes),
           sum(rx)::float8 / extract(epoch FROM sum(pause) FILTER (WHERE rx IS NOT NULL))::float8,
           sum(tx)::float8 / extract(epoch FROM sum(pause) FILTER (WHERE tx IS NOT NULL))::float8
    FROM risen GROUP BY bucket ORDER BY bucket
"""
"""A null on either side of a pair makes its comparison and its difference null: no rate, no seconds."""

_OLDEST = """
    WITH RECURSIVE walk AS (
        (SELECT container_id, timestamp FROM {table} ORDER BY container_id, timestamp LIMIT 1)
        UNION ALL
        SELECT next.container_id, next.timestamp
        FROM walk, LATERAL (SELECT t.container_id, t.timestamp FROM {table} t
                            WHERE t.container_id > walk.container_id ORDER BY t.container_id, t.timestamp LIMIT 1) next
    )
    SELECT min(timestamp) FROM walk
"""


class PlainStorage(LogTable):
    """One heap table each, pruned by DELETE."""

    name = "plain"
    metrics = CopyTarget("container_metric", METRIC_COLUMNS, METRIC_COLUMNS[:2])
    logs = CopyTarget("container_log", LOG_COLUMNS, LOG_COLUMNS[:3])

    async def create(self, connection: asyncpg.Connection) -> None:
        """Create what is missing."""
        for statement in _DDL:
            await connection.execute(statement)

    async def make_room(self, connection: asyncpg.Connection, since: int, until: int) -> None:
        """One table takes rows of any time."""

    async def prune(self, connection: asyncpg.Connection, before: int) -> Pruned:
        """Remove what is older than `before` (Unix microseconds), 200 containers a statement."""
        moment = to_datetime(before)
        removed = [await self._prune_table(connection, t.table, moment) for t in (self.metrics, self.logs)]
        return Pruned(*removed)

    async def _prune_table(self, connection: asyncpg.Connection, table: str, before: datetime) -> int:
        removed, last = 0, -1
        while True:
            rows = await connection.fetch(_NEXT_CONTAINERS.format(table=table), last, _PRUNE_CONTAINERS)
            if not rows:
                return removed
            containers = [row["container_id"] for row in rows]
            while True:
                # In bounded steps: after an outage a backlog of hours must not become one statement that never ends in time.
                status = await connection.execute(
                    f"DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table}"  # noqa: S608 - our own name
                    f" WHERE container_id = ANY($1) AND timestamp < $2 LIMIT {_PRUNE_ROWS}))",
                    containers,
                    before,
                )
                count = int(status.rsplit(" ", 1)[1])
                removed += count
                if count < _PRUNE_ROWS:
                    break
            last = containers[-1]

    async def read_metrics(
        self, connection: asyncpg.Connection, since: int, until: int
    ) -> AsyncIterator[Sequence[MetricRow]]:
        """All samples of a time range in blocks, ordered by key."""
        query = """
            SELECT container_id, timestamp, cpu_percent, memory_bytes, network_rx_bytes, network_tx_bytes
            FROM container_metric WHERE timestamp >= $1 AND timestamp < $2 ORDER BY container_id, timestamp
        """
        async for block in _blocks(connection, query, to_datetime(since), to_datetime(until)):
            yield [MetricRow(row[0], to_micros(row[1]), row[2], row[3], row[4], row[5]) for row in block]

    async def read_logs(
        self, connection: asyncpg.Connection, since: int, until: int
    ) -> AsyncIterator[Sequence[LogRow]]:
        """All lines of a time range in blocks, ordered by key."""
        query = """
            SELECT container_id, timestamp, line, stream, text, partial, truncated
            FROM container_log WHERE timestamp >= $1 AND timestamp < $2 ORDER BY container_id, timestamp, line
        """
        async for block in _blocks(connection, query, to_datetime(since), to_datetime(until)):
            yield [log_row(row) for row in block]

    async def chart(
        self, connection: asyncpg.Connection, container_ids: Sequence[int], since: int, until: int, step_us: int
    ) -> Sequence[ChartBucket]:
        """Samples of some containers together, by steps of time: one walk along the primary key."""
        rows = await connection.fetch(
            _CHART,
            container_ids,
            to_datetime(since),
            to_datetime(until),
            timedelta(microseconds=step_us),
            timedelta(microseconds=longest_gap_us(step_us)),
        )
        return [ChartBucket(to_micros(row[0]), *row[1:]) for row in map(tuple, rows)]

    async def sizes(self, connection: asyncpg.Connection) -> Sequence[TableSize]:
        """How much each table holds now."""
        found = []
        for target in (self.metrics, self.logs):
            row = await connection.fetchrow(
                """
                SELECT pg_table_size(c.oid) AS table_bytes, pg_indexes_size(c.oid) AS index_bytes,
                       pg_stat_get_live_tuples(c.oid) AS live_rows, pg_stat_get_dead_tuples(c.oid) AS dead_rows,
                       pg_stat_get_tuples_inserted(c.oid) AS inserted_rows
                FROM pg_class c WHERE c.oid = $1::regclass
                """,
                target.table,
            )
            if row is None:
                raise LookupError(f"table {target.table} does not exist")
            oldest = await connection.fetchval(_OLDEST.format(table=target.table))
            found.append(TableSize(table=target.table, oldest_at=oldest and to_micros(oldest), **row))
        return found


async def _blocks(connection: asyncpg.Connection, query: str, *args: Any) -> AsyncIterator[list[asyncpg.Record]]:
    """Rows by a server-side cursor, so that a day of samples does not have to fit into memory."""
    async with connection.transaction(readonly=True):
        cursor = await connection.cursor(query, *args)
        while block := await cursor.fetch(_READ_ROWS):
            yield block
