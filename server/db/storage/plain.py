"""Strategy `plain`: one table for samples, one for log lines, retention by scheduled DELETE.

The decided default and the baseline of every comparison. The primary key `(container_id, timestamp)` serves charts and
identity; it does not serve `timestamp < x`, so pruning walks the containers, a chunk at a time, by that key.
"""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from server.db.storage.base import Outlook, Pruned, TableSize, Window
from server.db.storage.log_table import LOG_DDL, LOG_TYPES, LogTable
from server.db.storage.metric_table import METRIC_DDL, METRIC_TYPES, MetricTable
from server.db.storage.pace import Pace
from server.db.storage.sizes import index_bytes, oldest_at, outlook, shared_buffers_bytes, table_size
from server.db.storage.tables import check_rights, create_table, set_options
from server.db.storage.times import to_datetime

_PRUNE_ROWS = 20_000
"""Rows per DELETE: bounds a statement's time, locks and burst of WAL, however much there is to remove."""
_PRUNE_CONTAINERS = 200
"""Containers per DELETE: those of a chunk share pages of the index."""

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


class PlainStorage(MetricTable, LogTable):
    """One heap table each, pruned by DELETE."""

    name = "plain"

    async def create(self, connection: asyncpg.Connection) -> None:
        """Create what is missing.

        Raises:
            StartupError: the tables are there and not ours, or the role lacks a right.
        """
        await check_rights(connection)
        for target, ddl, types in ((self.metrics, METRIC_DDL, METRIC_TYPES), (self.logs, LOG_DDL, LOG_TYPES)):
            await create_table(connection, target, ddl, types)
            await set_options(connection, target.table, AUTOVACUUM)

    async def prepare(self, connection: asyncpg.Connection, window: Window) -> Outlook:
        """One table takes rows of any time; its whole index is written to, for containers come in no order."""
        del window
        tables = [self.metrics.table, self.logs.table]
        hot = sum((await index_bytes(connection, tables)).values())
        return outlook(hot, await shared_buffers_bytes(connection))

    async def make_room(self, connection: asyncpg.Connection, since: int, until: int) -> None:
        """One table takes rows of any time."""

    async def prune(self, connection: asyncpg.Connection, before: int, pace: Pace) -> Pruned:
        """Remove what is older than `before` (Unix microseconds), 200 containers a statement."""
        moment = to_datetime(before)
        removed = [await self._prune_table(connection, t.table, moment, pace) for t in (self.metrics, self.logs)]
        return Pruned(*removed)

    async def _prune_table(self, connection: asyncpg.Connection, table: str, before: datetime, pace: Pace) -> int:
        removed, last = 0, -1
        while True:
            async with pace.step():
                rows = await connection.fetch(_NEXT_CONTAINERS.format(table=table), last, _PRUNE_CONTAINERS)
            if not rows:
                return removed
            containers = [row["container_id"] for row in rows]
            while True:
                # In bounded steps: after an outage a backlog of hours must not become one statement that never ends in time.
                async with pace.step():
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

    async def sizes(self, connection: asyncpg.Connection) -> Sequence[TableSize]:
        """How much each table holds now."""
        found = []
        for table in (self.metrics.table, self.logs.table):
            oldest = await oldest_at(connection, table)
            found.append(await table_size(connection, table, [table], oldest))
        return found
