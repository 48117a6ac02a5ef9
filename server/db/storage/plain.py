"""Strategy `plain`: one table for samples, one for log lines, retention by scheduled DELETE.

The decided default and the baseline of every comparison. The primary key `(container_id, timestamp)` serves charts and
identity; it does not serve `timestamp < x`, and a container's rows lie all over the heap. The heap itself lies in time order,
so a BRIN index over the time finds the pages of a slice of time, and each page is touched once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from server.db.storage.base import CopyTarget, Outlook, Pruned, TableSize, Window
from server.db.storage.log_table import LOG_DDL, LOG_TYPES, LogTable
from server.db.storage.metric_table import METRIC_DDL, METRIC_TYPES, MetricTable
from server.db.storage.pace import Pace
from server.db.storage.sizes import OldestRows, index_bytes, oldest_at, outlook, shared_buffers_bytes, table_size
from server.db.storage.tables import check_rights, create_table, set_options
from server.db.storage.times import to_datetime

_PRUNE_ROWS = 20_000
"""Rows per DELETE: bounds a statement's time, locks and burst of WAL, however much there is to remove."""
_FIRST_SLICE_US = 1_000_000
_SLICE_GROWTH = 4
"""A slice of time that held less than `_PRUNE_ROWS` is followed by one up to so many times as wide."""
_OVERLAP = 2
"""A pruning looks again at so many intervals before its own: a flush that was tried again stores its rows late."""
_WHOLE_EVERY = 60
"""Each such pruning begins at the oldest row there is, however late it was stored."""
_BLOCK_BYTES = 8192
_RANGE_BLOCKS = 64
_SUMMARY_LOCK_MS = 500
"""Shorter than deadlock_timeout: a vacuum that stands in the way is not cancelled, it summarizes itself."""

AUTOVACUUM = {
    # The space of removed rows must come back before the next window needs it: at the default of 20 % a table in steady
    # state is a fifth larger than its rows, and the index that inserts walk with it.
    "autovacuum_vacuum_scale_factor": "0.05",
    # At the default (200) a vacuum dirties 40 MB/s at most and falls behind a fleet; the index is read whole each time.
    "autovacuum_vacuum_cost_limit": "2000",
    # A row is gone within the window, long before it would have to be frozen: to vacuum for inserts is to write it twice.
    "autovacuum_vacuum_insert_threshold": "-1",
}
"""Storage parameters of both tables."""

# Several intervals a block range: pages are used again by the rows of a later window, and with a single interval, from the
# oldest time ever to the newest, each range would match every slice after the first window.
_TIME_INDEX = """
    CREATE INDEX IF NOT EXISTS {table}_timestamp ON {table} USING brin (timestamp timestamptz_minmax_multi_ops)
    WITH (pages_per_range = {blocks})
"""


@dataclass(slots=True)
class _Progress:
    """How far a table is pruned. Only a hint: a new process begins at the oldest row."""

    until: int = 0
    """Unix microseconds."""
    prunings: int = 0
    slice_us: int = _FIRST_SLICE_US
    summarized_blocks: int = 0


class PlainStorage(MetricTable, LogTable):
    """One heap table each, pruned by DELETE."""

    name = "plain"

    def __init__(self) -> None:
        self._progress = {target.table: _Progress() for target in (self.metrics, self.logs)}
        self._oldest = {target.table: OldestRows() for target in (self.metrics, self.logs)}

    async def create(self, connection: asyncpg.Connection) -> None:
        """Create what is missing.

        Raises:
            StartupError: the tables are there and not ours, or the role lacks a right.
        """
        await check_rights(connection)
        for target, ddl, types in ((self.metrics, METRIC_DDL, METRIC_TYPES), (self.logs, LOG_DDL, LOG_TYPES)):
            await create_table(connection, target, ddl, types)
            await set_options(connection, target.table, AUTOVACUUM)
            await connection.execute(_TIME_INDEX.format(table=target.table, blocks=_RANGE_BLOCKS))

    async def prepare(self, connection: asyncpg.Connection, window: Window) -> Outlook:
        """One table takes rows of any time; its whole index is written to, for containers come in no order."""
        del window
        tables = [self.metrics.table, self.logs.table]
        hot = sum((await index_bytes(connection, tables)).values())
        return outlook(hot, await shared_buffers_bytes(connection))

    async def make_room(self, connection: asyncpg.Connection, since: int, until: int) -> None:
        """One table takes rows of any time."""

    async def prune(self, connection: asyncpg.Connection, before: int, pace: Pace) -> Pruned:
        """Remove what is older than `before` (Unix microseconds), a slice of time after the other."""
        removed = [await self._prune_table(connection, target, before, pace) for target in (self.metrics, self.logs)]
        return Pruned(*removed)

    async def _prune_table(self, connection: asyncpg.Connection, target: CopyTarget, before: int, pace: Pace) -> int:
        progress = self._progress[target.table]
        await self._summarize(connection, target.table, progress)
        at = progress.until - _OVERLAP * max(0, before - progress.until)
        if progress.prunings % _WHOLE_EVERY == 0:
            oldest = await oldest_at(connection, target.table)
            at = before if oldest is None else oldest
        removed = 0
        while at < before:
            end = min(before, at + progress.slice_us)
            async with pace.step():
                count = await _delete(connection, target.table, at, end)
            removed += count
            if count < _PRUNE_ROWS:  # else there may be more of this slice
                at = end
            growth = min(_SLICE_GROWTH, _PRUNE_ROWS / 2 / max(1, count))
            progress.slice_us = max(1_000, int(progress.slice_us * growth))
        progress.until = before
        progress.prunings += 1
        return removed

    async def _summarize(self, connection: asyncpg.Connection, table: str, progress: _Progress) -> None:
        """Let the BRIN index know the pages that the table grew by: those it does not know are part of every slice."""
        blocks = await connection.fetchval("SELECT pg_relation_size(to_regclass($1))", table) // _BLOCK_BYTES
        if blocks < progress.summarized_blocks + _RANGE_BLOCKS:
            return
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {_SUMMARY_LOCK_MS}")
                await connection.execute(f"SELECT brin_summarize_new_values('{table}_timestamp')")
        except asyncpg.LockNotAvailableError:
            return
        progress.summarized_blocks = blocks

    async def sizes(self, connection: asyncpg.Connection) -> Sequence[TableSize]:
        """How much each table holds now."""
        found = []
        for table in (self.metrics.table, self.logs.table):
            oldest = await self._oldest[table].at(connection, [table])
            found.append(await table_size(connection, table, [table], oldest))
        return found


async def _delete(connection: asyncpg.Connection, table: str, since: int, until: int) -> int:
    """Remove rows with since <= at < until, `_PRUNE_ROWS` at most; returns how many."""
    async with connection.transaction():
        # The times to remove are the oldest there are, which statistics know least: leave the plan no choice.
        await connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = off")
        status = await connection.execute(
            f"DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table}"  # noqa: S608 - our own name
            f" WHERE timestamp >= $1 AND timestamp < $2 LIMIT {_PRUNE_ROWS}))",
            to_datetime(since),
            to_datetime(until),
        )
    return int(status.rsplit(" ", 1)[1])
