"""How much tables hold, and whether the index that is written to fits into memory."""

from collections.abc import Sequence

import asyncpg

from server.db.storage.base import Outlook, TableSize
from server.db.storage.times import to_micros

MEMORY_SHARE = 4
"""The index that is written to may take one part in so many of shared_buffers; the rest is for the heap and for readers."""

_SIZE = """
    SELECT coalesce(sum(pg_table_size(oid)), 0)::bigint AS table_bytes,
           coalesce(sum(pg_indexes_size(oid)), 0)::bigint AS index_bytes,
           coalesce(sum(pg_stat_get_live_tuples(oid)), 0)::bigint AS live_rows,
           coalesce(sum(pg_stat_get_dead_tuples(oid)), 0)::bigint AS dead_rows,
           coalesce(sum(pg_stat_get_tuples_inserted(oid)), 0)::bigint AS inserted_rows
    FROM (SELECT to_regclass(name)::oid AS oid FROM unnest($1::text[]) name) parts
"""
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
"""A loose index scan: the first row of each container, one probe of the primary key each."""


async def table_size(connection: asyncpg.Connection, table: str, parts: Sequence[str], oldest: int | None) -> TableSize:
    """How much a table holds that consists of these parts.

    Raises:
        LookupError: there is no such table.
    """
    if await connection.fetchval("SELECT to_regclass($1)", table) is None:
        raise LookupError(f"table {table} does not exist")
    row = await connection.fetchrow(_SIZE, parts)
    assert row is not None  # noqa: S101 - an aggregate has one row
    return TableSize(table=table, oldest_at=oldest, **row)


async def oldest_at(connection: asyncpg.Connection, table: str) -> int | None:
    """Time of the oldest row of a table that is not partitioned, in Unix microseconds; None: it is empty."""
    oldest = await connection.fetchval(_OLDEST.format(table=table))
    return None if oldest is None else to_micros(oldest)


async def index_bytes(connection: asyncpg.Connection, tables: Sequence[str]) -> dict[str, int]:
    """Bytes of the indexes of each table that exists."""
    rows = await connection.fetch(
        "SELECT name, pg_indexes_size(to_regclass(name)) AS bytes FROM unnest($1::text[]) name", tables
    )
    return {row["name"]: row["bytes"] for row in rows if row["bytes"] is not None}


async def shared_buffers_bytes(connection: asyncpg.Connection) -> int:
    """The memory that Postgres keeps pages in."""
    return int(await connection.fetchval("SELECT pg_size_bytes(current_setting('shared_buffers'))"))


def outlook(hot_index_bytes: int, memory_bytes: int, *, ranges: int = 0, range_seconds: float = 0.0) -> Outlook:
    """An outlook, with the advice where the index does not fit.

    Args:
        hot_index_bytes: indexes that new rows go into, as large as they get.
        memory_bytes: shared_buffers.
        ranges: of each table.
        range_seconds: width of the next.
    """
    needed = MEMORY_SHARE * hot_index_bytes
    return Outlook(
        ranges=ranges, range_seconds=range_seconds, hot_index_bytes=hot_index_bytes,
        hot_index_limit_bytes=memory_bytes // MEMORY_SHARE,
        advised_shared_buffers_bytes=needed if needed > memory_bytes else 0,
    )  # fmt: skip
