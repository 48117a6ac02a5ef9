"""Strategy `partitioned`: native range partitions by time, retention by DROP.

Rows go into the newest ranges, whose index is small enough to stay in memory; a range that is too old goes as a whole, without
a dead row. The width follows from the rate at which the indexes grow and from shared_buffers (`server.db.storage.ranges`). It
is judged anew at each interval: ranges that exist stay as they are, new ones continue where the last ends.
"""

from collections.abc import Sequence
from functools import partial

import asyncpg

from server.db.storage.base import Outlook, Pruned, TableSize, Window
from server.db.storage.log_table import LOG_DDL, LOG_TYPES, LogTable
from server.db.storage.metric_table import METRIC_DDL, METRIC_TYPES, MetricTable
from server.db.storage.pace import Pace
from server.db.storage.partitions import attach_missing, drop_left_over, left_over, parts, remove, with_lock_timeout
from server.db.storage.ranges import FIRST_SECONDS, MOST_RANGES, choose_width, missing_ranges
from server.db.storage.sizes import MEMORY_SHARE, OldestRows, index_bytes, outlook, shared_buffers_bytes, table_size
from server.db.storage.tables import check_rights, create_table
from server.errors import StartupError

_PARTITIONING = "RANGE (timestamp)"
_OBSERVED_RANGES = 3
"""The rate is that of the busiest among so many full ranges and the one that fills."""
_OBSERVED_US = 10_000_000
"""A range that fills tells a rate once it has filled for so long."""
_LEAST_INDEX_BYTES = 4 * 8192
"""An index of a few pages tells nothing."""
_COUNTED_BYTES = 8 * 1024 * 1024
"""Rows of a range up to this size are counted before it is dropped; of a larger one the statistics are believed."""

AUTOVACUUM = {
    # Rows are dropped, not deleted: to vacuum for inserts is to write a range twice.
    "autovacuum_vacuum_insert_threshold": "-1",
    # A range that fills would be analyzed at every tenth; the planner does well with a rough idea of it.
    "autovacuum_analyze_scale_factor": "0.5",
}
"""Storage parameters of a range."""


class PartitionedStorage(MetricTable, LogTable):
    """Two partitioned tables with the same ranges."""

    name = "partitioned"

    def __init__(self) -> None:
        self._width_us = FIRST_SECONDS * 1_000_000
        """Of ranges that are created from now on."""
        self._oldest = {target.table: OldestRows() for target in (self.metrics, self.logs)}

    async def create(self, connection: asyncpg.Connection) -> None:
        """Create what is missing; no range yet.

        Raises:
            StartupError: the tables are there and not ours, or the role lacks a right.
        """
        await check_rights(connection)
        for target, ddl, types in ((self.metrics, METRIC_DDL, METRIC_TYPES), (self.logs, LOG_DDL, LOG_TYPES)):
            await create_table(connection, target, ddl, types, _PARTITIONING)
            default = await connection.fetchval(
                "SELECT partdefid::regclass::text FROM pg_partitioned_table"
                " WHERE partrelid = to_regclass($1) AND partdefid <> 0",
                target.table,
            )
            if default is not None:
                raise StartupError(
                    f"storage: {target.table} has the default partition {default}: expected none, for beside it no range"
                    " can be attached without reading it, nor detached without locking everybody out"
                )

    async def prepare(self, connection: asyncpg.Connection, window: Window) -> Outlook:
        """Choose the width of the ranges to come, and create those that are due."""
        memory = await shared_buffers_bytes(connection)
        width = choose_width(
            window.retention_us / 1e6,
            window.ahead_us / 1e6,
            await self._index_bytes_per_second(connection, window.now),
            memory // MEMORY_SHARE,
        )
        self._width_us = width.seconds * 1_000_000
        await self.make_room(connection, window.now, window.now + window.ahead_us)
        ranges = max([len(await parts(connection, target.table)) for target in (self.metrics, self.logs)])
        return outlook(width.index_bytes, memory, ranges=ranges, range_seconds=width.seconds)

    async def make_room(self, connection: asyncpg.Connection, since: int, until: int) -> None:
        """Create the ranges that are missing for since <= at <= until (Unix microseconds), of both tables.

        Raises:
            asyncpg.PostgresError: it could not be done now.
        """
        # Nobody asks for more than the window; should somebody all the same, it must not become thousands of tables.
        width_us = max(self._width_us, (until - since) // MOST_RANGES)
        for target in (self.metrics, self.logs):
            missing = partial(missing_ranges, since=since, until=until, width_us=width_us)
            await attach_missing(connection, target.table, missing, AUTOVACUUM)

    async def prune(self, connection: asyncpg.Connection, before: int, pace: Pace) -> Pruned:
        """Drop the ranges all of whose rows are older than `before` (Unix microseconds)."""

        async def work() -> Pruned:
            removed = [await self._prune_table(connection, t.table, before, pace) for t in (self.metrics, self.logs)]
            return Pruned(*removed)

        return await with_lock_timeout(connection, work)

    async def _prune_table(self, connection: asyncpg.Connection, table: str, before: int, pace: Pace) -> int:
        await drop_left_over(connection, table)
        removed = 0
        known = [part for part in await parts(connection, table) if part.ours]
        # One that was half detached comes first: Postgres detaches no other meanwhile.
        for part in sorted(known, key=lambda part: not part.pending):
            if part.range.end <= before or part.pending:
                async with pace.step():
                    rows = await _count(connection, part.name)
                    await remove(connection, table, part)
                removed += rows
        return removed

    async def _index_bytes_per_second(self, connection: asyncpg.Connection, now: int) -> float | None:
        """How fast the indexes of both tables grow, from the newest ranges that have rows; None: there are none."""
        rates = [
            max(rates) for target in (self.metrics, self.logs) if (rates := await _rates(connection, target.table, now))
        ]
        return sum(rates) if rates else None

    async def sizes(self, connection: asyncpg.Connection) -> Sequence[TableSize]:
        """How much each table holds now, all ranges together; what is detached counts until it is dropped."""
        found = []
        for target in (self.metrics, self.logs):
            known = await parts(connection, target.table)
            readable = [part.name for part in known if not part.pending]
            oldest = await self._oldest[target.table].at(connection, readable)
            # One may be detached just now: it is in both, and counts once.
            names = list(dict.fromkeys([*(part.name for part in known), *await left_over(connection, target.table)]))
            found.append(await table_size(connection, target.table, names, oldest))
        return found


async def _rates(connection: asyncpg.Connection, table: str, now: int) -> list[float]:
    """Bytes per second by which the indexes of the newest ranges grew."""
    begun = [part for part in await parts(connection, table) if part.range.start < now]
    newest = begun[-_OBSERVED_RANGES - 1 :]
    sizes = await index_bytes(connection, [part.name for part in newest])
    found = []
    for part in newest:
        filled_us = min(part.range.end, now) - part.range.start
        size = sizes.get(part.name, 0)
        if size >= _LEAST_INDEX_BYTES and (part.range.end <= now or filled_us >= _OBSERVED_US):
            found.append(size / (filled_us / 1e6))
    return found


async def _count(connection: asyncpg.Connection, name: str) -> int:
    """The rows of a range: counted while that is cheap, else as the statistics collector knows them."""
    row = await connection.fetchrow(
        "SELECT pg_relation_size(oid) AS bytes, pg_stat_get_tuples_inserted(oid) - pg_stat_get_tuples_deleted(oid) AS rows"
        " FROM pg_class WHERE oid = to_regclass($1)",
        name,
    )
    if row is None or row["bytes"] is None:
        return 0
    if row["bytes"] > _COUNTED_BYTES:
        return int(row["rows"])
    return int(await connection.fetchval(f"SELECT count(*) FROM {name}"))  # noqa: S608 - our own name
