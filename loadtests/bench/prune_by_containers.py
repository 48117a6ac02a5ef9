"""The other way to prune one table: along its primary key, some containers at a time. What `plain` is measured against."""

import asyncpg

from server.db.storage.base import CopyTarget
from server.db.storage.times import to_datetime

_CONTAINERS = 200
_ROWS = 50_000

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


async def prune_by_containers(connection: asyncpg.Connection, target: CopyTarget, before: int) -> int:
    """Remove what is older than `before` (Unix microseconds) in statements of 200 containers; returns how many rows."""
    removed, last = 0, -1
    while True:
        found = await connection.fetch(_NEXT_CONTAINERS.format(table=target.table), last, _CONTAINERS)
        if not found:
            return removed
        containers = [row["container_id"] for row in found]
        count = _ROWS
        while count == _ROWS:
            status = await connection.execute(
                f"DELETE FROM {target.table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {target.table}"  # noqa: S608
                f" WHERE container_id = ANY($1) AND timestamp < $2 LIMIT {_ROWS}))",
                containers,
                to_datetime(before),
            )
            count = int(status.rsplit(" ", 1)[1])
            removed += count
        last = containers[-1]
