"""Samples in table `container_metric`: what a strategy inherits that keeps them there, as one table or as ranges of it."""

from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any

import asyncpg

from server.db.storage import rollup
from server.db.storage.base import NOT_ROLLED, CopyTarget, Rolled, longest_gap_us
from server.db.storage.slices import narrowed
from server.db.storage.times import to_datetime, to_micros
from server.reads import MINUTE_US, ChartBucket
from server.rows import METRIC_COLUMNS

METRIC_DDL = """
    CREATE TABLE container_metric (
        container_id bigint NOT NULL,
        timestamp timestamptz NOT NULL,
        cpu_percent real,
        memory_bytes bigint,
        network_rx_bytes bigint,
        network_tx_bytes bigint,
        PRIMARY KEY (container_id, timestamp)
    )
"""
METRIC_TYPES = ("bigint", "timestamp with time zone", "real", "bigint", "bigint", "bigint")
"""Of the columns in their order, as Postgres names them."""

_CHART = """
    WITH paired AS (
        SELECT timestamp, cpu_percent, memory_bytes, network_rx_bytes AS rx, network_tx_bytes AS tx,
               timestamp - lag(timestamp) OVER earlier AS pause,
               lag(network_rx_bytes) OVER earlier AS rx_before,
               lag(network_tx_bytes) OVER earlier AS tx_before
        FROM container_metric
        WHERE container_id = ANY($1) AND timestamp >= $6 AND timestamp < $3
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

_OUT = """
    SELECT container_id, timestamp, coalesce(cpu_percent, 0::real), coalesce(memory_bytes, 0::bigint),
           coalesce(network_rx_bytes, 0::bigint), coalesce(network_tx_bytes, 0::bigint),
           ((cpu_percent IS NULL)::int + (memory_bytes IS NULL)::int * 2
            + (network_rx_bytes IS NULL)::int * 4 + (network_tx_bytes IS NULL)::int * 8)::smallint
    FROM container_metric WHERE timestamp >= $1 AND timestamp < $2
"""


class MetricTable:
    """Reads along the primary key (container_id, timestamp)."""

    metrics = CopyTarget("container_metric", METRIC_COLUMNS, METRIC_COLUMNS[:2])

    async def copy_metrics(
        self,
        connection: asyncpg.Connection,
        since: int,
        until: int,
        take: Callable[[bytes], Coroutine[Any, Any, None]],
        container_ids: Sequence[int] | None = None,
    ) -> None:
        """All samples of a time range, or those of some containers, as they lie there."""
        query, values = narrowed(_OUT, since, until, container_ids)
        await connection.copy_from_query(query, *values, output=take, format="binary")

    async def roll_up(
        self, connection: asyncpg.Connection, container_ids: Sequence[int], since: int, until: int
    ) -> int:
        """Compute minutes of some containers anew; returns how many have samples."""
        return await rollup.roll_up(connection, container_ids, since, until)

    async def chart(
        self,
        connection: asyncpg.Connection,
        container_ids: Sequence[int],
        since: int,
        until: int,
        step_us: int,
        rolled: Rolled = NOT_ROLLED,
    ) -> Sequence[ChartBucket]:
        """Samples of some containers together, by steps of time: one walk along the primary key."""
        if step_us % MINUTE_US == 0 and since < rolled.until and rolled.since < min(rolled.until, until):
            return await rollup.chart(connection, container_ids, since, until, step_us, rolled)
        rows = await connection.fetch(
            _CHART,
            container_ids,
            to_datetime(since),
            to_datetime(until),
            timedelta(microseconds=step_us),
            timedelta(microseconds=longest_gap_us(step_us)),
            to_datetime(
                since - longest_gap_us(step_us)
            ),  # computed here: Postgres plans only the ranges it knows to need
        )
        return [ChartBucket(to_micros(row[0]), *row[1:]) for row in map(tuple, rows)]
