"""The one-minute rollup of table `container_metric`: computing minutes anew from samples, and charts that read them.

A minute's row in `metric_minute` follows from the samples of that minute alone. What a counter rose by between the last sample
of a minute and the first of the next is left to the chart, which knows how long a pause it bears: so a late sample changes
one minute, and a chart from the rollup says what one from the samples says.
"""

from collections.abc import Sequence
from datetime import timedelta

import asyncpg

from server.db.storage.base import Rolled, longest_gap_us
from server.db.storage.times import to_datetime, to_micros
from server.reads import ChartBucket

_ROLL_UP = """
    WITH seen AS (
        SELECT container_id, timestamp AS at, date_bin('1 minute', timestamp, 'epoch') AS minute, cpu_percent AS cpu,
               memory_bytes AS memory, network_rx_bytes AS rx, network_tx_bytes AS tx
        FROM container_metric
        WHERE container_id = ANY($1) AND timestamp >= $2 AND timestamp < $3
              AND timestamp >= (SELECT pruned_until FROM rollup_progress)
    ), paired AS (
        SELECT *, at - lag(at) OVER earlier AS pause, lag(rx) OVER earlier AS rx_before, lag(tx) OVER earlier AS tx_before,
               lead(at) OVER earlier IS NULL AS is_last
        FROM seen WINDOW earlier AS (PARTITION BY container_id, minute ORDER BY at)
    ), risen AS (
        SELECT *, CASE WHEN rx < rx_before THEN rx ELSE rx - rx_before END AS rx_rise,
               CASE WHEN tx < tx_before THEN tx ELSE tx - tx_before END AS tx_rise
        FROM paired
    ), stored AS (
        INSERT INTO metric_minute AS m (
            container_id, minute, samples, cpu_count, cpu_sum, cpu_max, memory_count, memory_sum, memory_max, rx_rise, rx_us,
            tx_rise, tx_us, first_at, first_rx, first_tx, last_at, last_rx, last_tx
        )
        SELECT container_id, minute, count(*), count(cpu), sum(cpu::float8), max(cpu), count(memory), sum(memory),
               max(memory), sum(rx_rise), extract(epoch FROM sum(pause) FILTER (WHERE rx_rise IS NOT NULL)) * 1000000,
               sum(tx_rise), extract(epoch FROM sum(pause) FILTER (WHERE tx_rise IS NOT NULL)) * 1000000,
               min(at), max(rx) FILTER (WHERE pause IS NULL), max(tx) FILTER (WHERE pause IS NULL),
               max(at), max(rx) FILTER (WHERE is_last), max(tx) FILTER (WHERE is_last)
        FROM risen GROUP BY container_id, minute
        ON CONFLICT (container_id, minute) DO UPDATE SET (
            samples, cpu_count, cpu_sum, cpu_max, memory_count, memory_sum, memory_max, rx_rise, rx_us, tx_rise, tx_us,
            first_at, first_rx, first_tx, last_at, last_rx, last_tx
        ) = ROW (
            excluded.samples, excluded.cpu_count, excluded.cpu_sum, excluded.cpu_max, excluded.memory_count,
            excluded.memory_sum, excluded.memory_max, excluded.rx_rise, excluded.rx_us, excluded.tx_rise, excluded.tx_us,
            excluded.first_at, excluded.first_rx, excluded.first_tx, excluded.last_at, excluded.last_rx, excluded.last_tx
        )
        RETURNING 1
    )
    SELECT count(*) FROM stored
"""
"""How far samples are pruned is read in the snapshot in which they are: no minute is computed from a part of them."""

_RAW_PIECES = """
    SELECT container_id, timestamp AS first_at, timestamp AS last_at, 1 AS samples,
           (cpu_percent IS NOT NULL)::int AS cpu_count, cpu_percent::float8 AS cpu_sum, cpu_percent AS cpu_max,
           (memory_bytes IS NOT NULL)::int AS memory_count, memory_bytes::numeric AS memory_sum, memory_bytes AS memory_max,
           NULL::numeric AS rx_rise, NULL::integer AS rx_us, NULL::numeric AS tx_rise, NULL::integer AS tx_us,
           network_rx_bytes AS first_rx, network_tx_bytes AS first_tx, network_rx_bytes AS last_rx, network_tx_bytes AS last_tx
    FROM container_metric WHERE container_id = ANY($1) AND timestamp >= {since} AND timestamp < {until}
"""
_ROLLED_PIECES = """
    SELECT container_id, first_at, last_at, samples, cpu_count, cpu_sum, cpu_max, memory_count, memory_sum, memory_max,
           rx_rise, rx_us, tx_rise, tx_us, first_rx, first_tx, last_rx, last_tx
    FROM metric_minute WHERE container_id = ANY($1) AND minute >= {since} AND minute < {until}
"""
_CHART = """
    WITH pieces AS ({pieces}), paired AS (
        SELECT *, first_at - lag(last_at) OVER earlier AS pause, lag(last_rx) OVER earlier AS rx_before,
               lag(last_tx) OVER earlier AS tx_before
        FROM pieces WINDOW earlier AS (PARTITION BY container_id ORDER BY first_at)
    ), risen AS (
        SELECT *, CASE WHEN pause <= $4 THEN CASE WHEN first_rx < rx_before THEN first_rx ELSE first_rx - rx_before END END
                  AS rx_between,
               CASE WHEN pause <= $4 THEN CASE WHEN first_tx < tx_before THEN first_tx ELSE first_tx - tx_before END END
                  AS tx_between
        FROM paired WHERE first_at >= $2
    ), summed AS (
        SELECT date_bin($3, first_at, 'epoch') AS bucket, sum(samples) AS samples,
               sum(cpu_sum) / nullif(sum(cpu_count), 0) AS cpu_mean, max(cpu_max) AS cpu_max,
               (sum(memory_sum) / nullif(sum(memory_count), 0))::float8 AS memory_mean, max(memory_max) AS memory_max,
               coalesce(sum(rx_rise), 0) + coalesce(sum(rx_between), 0) AS rx,
               coalesce(sum(rx_us), 0) / 1e6
                   + coalesce(extract(epoch FROM sum(pause) FILTER (WHERE rx_between IS NOT NULL)), 0) AS rx_seconds,
               coalesce(sum(tx_rise), 0) + coalesce(sum(tx_between), 0) AS tx,
               coalesce(sum(tx_us), 0) / 1e6
                   + coalesce(extract(epoch FROM sum(pause) FILTER (WHERE tx_between IS NOT NULL)), 0) AS tx_seconds
        FROM risen GROUP BY bucket
    )
    SELECT bucket, samples, cpu_mean, cpu_max, memory_mean, memory_max, rx::float8 / nullif(rx_seconds, 0)::float8,
           tx::float8 / nullif(tx_seconds, 0)::float8
    FROM summed ORDER BY bucket
"""
"""A piece is a sample, or the samples of one minute: both lie in one bucket, and have a first and a last moment."""


async def roll_up(connection: asyncpg.Connection, container_ids: Sequence[int], since: int, until: int) -> int:
    """Compute the minutes of some containers anew; see `Storage.roll_up`."""
    return int(await connection.fetchval(_ROLL_UP, container_ids, to_datetime(since), to_datetime(until)))


async def chart(
    connection: asyncpg.Connection, container_ids: Sequence[int], since: int, until: int, step_us: int, rolled: Rolled
) -> Sequence[ChartBucket]:
    """A chart of whole minutes, from the rollup where it is computed and from samples before and after."""
    gap_us = longest_gap_us(step_us)
    start = since - gap_us  # whole minutes, as the step is
    first, last = max(start, rolled.since), min(until, rolled.until)
    arguments: list[object] = [
        container_ids, to_datetime(since), timedelta(microseconds=step_us), timedelta(microseconds=gap_us),
    ]  # fmt: skip
    parts = []
    for pieces, begin, end in ((_RAW_PIECES, start, first), (_ROLLED_PIECES, first, last), (_RAW_PIECES, last, until)):
        if begin < end:  # what is left out need not be planned
            parts.append(pieces.format(since=f"${len(arguments) + 1}", until=f"${len(arguments) + 2}"))
            arguments += to_datetime(begin), to_datetime(end)
    rows = await connection.fetch(_CHART.format(pieces=" UNION ALL ".join(parts)), *arguments)
    return [ChartBucket(to_micros(row[0]), *row[1:]) for row in map(tuple, rows)]
