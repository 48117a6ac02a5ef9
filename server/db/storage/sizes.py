"""How much tables hold, and whether the index that is written to fits into memory."""

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

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
_PROBE_SECONDS, _BYTE_SECONDS = 5e-6, 7e-10
"""What a look along the index takes for each container, and a scan for each byte (50 ns for a row of 75 bytes)."""
_ALL = "SELECT min(timestamp) FROM {table}"
_STATE = """
    SELECT pg_relation_size(oid) AS bytes, pg_stat_get_tuples_inserted(oid) AS inserted, pg_stat_get_tuples_deleted(oid),
           (SELECT reltuples FROM pg_class WHERE oid = to_regclass('container')) AS containers
    FROM pg_class WHERE oid = to_regclass($1)
"""
_COSTLY_SECONDS: Final = 0.05
"""An answer that takes less is not kept."""
_KEPT_TIMES, _KEPT_SECONDS = 20, 5.0
"""An answer may be as old as so many times what it takes, and so old at most: to look each second must not take a core."""


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


async def oldest_at(connection: asyncpg.Connection, table: str, *, by_index: bool = True) -> int | None:
    """Time of the oldest row of a table that is not partitioned, in Unix microseconds; None: it is empty.

    Args:
        connection: to the database.
        table: its name.
        by_index: look at one row of each container along the primary key; else at every row.
    """
    oldest = await connection.fetchval((_OLDEST if by_index else _ALL).format(table=table))
    return None if oldest is None else to_micros(oldest)


class _Oldest(NamedTuple):
    """What was found of a table, and when it was as `state` tells."""

    oldest: int | None
    state: tuple[int, ...]
    found_at: float


class OldestRows:
    """The time of the oldest row among some tables, kept where it takes long to find.

    Of a table in which nothing was stored or deleted since, what was found holds. Another one of many containers (10,000)
    is looked at again after 20 times as long as that takes, 5 s at most: so old may the answer be.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Oldest] = {}

    async def at(self, connection: asyncpg.Connection, tables: Sequence[str]) -> int | None:
        """In Unix microseconds; None: they are empty. One that is gone counts for nothing.

        Args:
            connection: outside a transaction.
            tables: not partitioned, each with older rows than those that follow it.
        """
        looked: dict[str, _Oldest] = {}
        try:
            for table in tables:
                row = await connection.fetchrow(_STATE, table)
                if row is None or row["bytes"] is None:
                    continue
                state, known = tuple(row)[:3], self._known.get(table)
                # A short range has a few rows of each container.
                probes, scan = _PROBE_SECONDS * max(0, row["containers"] or 0), _BYTE_SECONDS * row["bytes"]
                takes = min(probes, scan)
                kept = min(_KEPT_TIMES * takes, _KEPT_SECONDS)
                begun = time.monotonic()
                if known is None or not (known.state == state or begun < known.found_at + kept):
                    try:
                        oldest = await oldest_at(connection, table, by_index=probes <= scan)
                    except asyncpg.UndefinedTableError:
                        continue
                    known = _Oldest(oldest, state, begun)
                if takes > _COSTLY_SECONDS:
                    looked[table] = known
                if known.oldest is not None:
                    return known.oldest
        finally:
            self._known = looked
        return None


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
