"""The ranges of a partitioned table in Postgres: which there are, attaching new ones, removing old ones.

No statement here keeps a writer waiting. CREATE TABLE ... PARTITION OF and a plain DETACH or DROP lock the parent against
everybody; a table made by itself is attached under SHARE UPDATE EXCLUSIVE, and DETACH ... CONCURRENTLY takes the same: both
let rows in and out. Every wait for a lock has a deadline; what could not be had is tried again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import asyncpg

from server.db.storage.base import RANGE_MARK
from server.db.storage.ranges import Range
from server.db.storage.tables import option_list
from server.db.storage.times import to_datetime, to_micros

LOCK_TIMEOUT_SECONDS = 3.0
"""Longer than deadlock_timeout (1 s), after which an autovacuum that stands in the way is cancelled."""
ATTEMPTS = 3
RETRY_SECONDS = 0.2
_ATTACH_AT_ONCE = 20
"""Ranges per transaction: each new table and index is a lock, and Postgres has room for so many."""
_LOCK = 0x5EA7_11A2
"""Advisory lock key: one lane makes room at a time, the others wait and find the work done."""
_EARLIEST, _LATEST = 0, 2**62

_Result = TypeVar("_Result")

_PARTS = """
    SELECT c.relname::text AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds, i.inhdetachpending AS pending,
           obj_description(c.oid, 'pg_class') IS NOT DISTINCT FROM $2 AS ours
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = to_regclass($1)
"""
_BOUNDS = r"^FOR VALUES FROM \('([^']+)'\) TO \('([^']+)'\)$"
_WITH_TIMES = f"""
    SELECT name, pending, ours, found.times[1]::timestamptz AS first, found.times[2]::timestamptz AS last, bounds
    FROM ({_PARTS}) parts, LATERAL (SELECT regexp_match(bounds, $3) AS times) found
"""  # noqa: S608 - our own text
_LEFT_OVER = """
    SELECT c.relname::text FROM pg_class c JOIN pg_class parent ON parent.oid = to_regclass($1)
    WHERE c.relnamespace = parent.relnamespace AND c.relkind = 'r' AND obj_description(c.oid, 'pg_class') = $2
          AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
"""


class Part(NamedTuple):
    """A partition."""

    name: str
    range: Range
    ours: bool
    """Whether we made it: only then is it ever dropped."""
    pending: bool
    """Whether a DETACH was begun and not finished: no query sees it any more."""


def mark(table: str) -> str:
    """The comment by which we know a range that we made."""
    return f"{RANGE_MARK}{table}"


async def parts(connection: asyncpg.Connection, table: str) -> list[Part]:
    """The partitions of a table, oldest first."""
    rows = await connection.fetch(_WITH_TIMES, table, mark(table), _BOUNDS)
    return sorted((_part(row) for row in rows), key=lambda part: part.range)


def _part(row: asyncpg.Record) -> Part:
    first, last = row["first"], row["last"]
    # Bounds of another form (MINVALUE, DEFAULT) are somebody else's: they cover all they can, and we stay off them.
    known = Range(
        _EARLIEST if first is None else to_micros(first),
        _LATEST if last is None else to_micros(last),
    )
    return Part(row["name"], known, row["ours"] and first is not None, row["pending"])


async def attach_missing(
    connection: asyncpg.Connection,
    table: str,
    missing: Callable[[Sequence[Range]], Sequence[Range]],
    options: Mapping[str, str],
) -> int:
    """Make ranges of a table; returns how many.

    Args:
        connection: outside a transaction.
        table: the partitioned one.
        missing: which to make, given those that exist.
        options: storage parameters of each.

    Raises:
        asyncpg.PostgresError: a lock was not to be had, a table of that name is there and not ours, ...
    """
    made = 0
    while True:

        async def some() -> int:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {int(LOCK_TIMEOUT_SECONDS * 1000)}")
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
                new = missing([part.range for part in await parts(connection, table)])[:_ATTACH_AT_ONCE]
                for wanted in new:
                    await _attach(connection, table, wanted, options)
            return len(new)

        count = await _patiently(some)
        made += count
        if count < _ATTACH_AT_ONCE:
            return made


async def _attach(connection: asyncpg.Connection, table: str, wanted: Range, options: Mapping[str, str]) -> None:
    name = range_name(table, wanted)
    first, last = to_datetime(wanted.start).isoformat(), to_datetime(wanted.end).isoformat()
    # Nobody sees the table before COMMIT and it is empty: attaching looks at no row, with or without a CHECK.
    await connection.execute(
        f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING INDEXES) WITH ({option_list(options)})"
    )
    await connection.execute(f"COMMENT ON TABLE {name} IS '{mark(table)}'")
    await connection.execute(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{first}') TO ('{last}')")


async def remove(connection: asyncpg.Connection, table: str, part: Part) -> None:
    """Detach one of our ranges and drop it.

    Raises:
        asyncpg.PostgresError: a lock was not to be had. What is half done is finished by the next call, or by
            `drop_left_over`.
    """

    async def detach() -> None:
        # Looked at anew each time: one that ran into the deadline may have done its first half.
        now = next((known for known in await parts(connection, table) if known.name == part.name), None)
        if now is not None:
            how = "FINALIZE" if now.pending else "CONCURRENTLY"
            await connection.execute(f"ALTER TABLE {table} DETACH PARTITION {part.name} {how}")

    await _patiently(detach)
    await _patiently(lambda: connection.execute(f"DROP TABLE IF EXISTS {part.name}"))


async def left_over(connection: asyncpg.Connection, table: str) -> list[str]:
    """Ranges of ours that were detached and not dropped: the disk still has them."""
    return [row[0] for row in await connection.fetch(_LEFT_OVER, table, mark(table))]


async def drop_left_over(connection: asyncpg.Connection, table: str) -> None:
    """Drop ranges of ours that were detached, and then we died or got no lock.

    Raises:
        asyncpg.PostgresError: a lock was not to be had.
    """
    for name in await left_over(connection, table):
        await _patiently(lambda name=name: connection.execute(f"DROP TABLE IF EXISTS {name}"))  # type: ignore[misc]


async def with_lock_timeout(connection: asyncpg.Connection, work: Callable[[], Awaitable[_Result]]) -> _Result:
    """Do some work outside a transaction in which no statement waits longer than `LOCK_TIMEOUT_SECONDS` for a lock."""
    await connection.execute(f"SET lock_timeout = {int(LOCK_TIMEOUT_SECONDS * 1000)}")
    try:
        return await work()
    finally:
        try:
            await connection.execute("RESET lock_timeout")
        except BaseException:
            connection.terminate()  # it must not go back to the pool with this
            raise


def range_name(table: str, of: Range) -> str:
    """A range's table: `container_metric_20261123_101500` begins on that day at 10:15:00 UTC."""
    start = to_datetime(of.start)
    fraction = f"_{start.microsecond:06}" if start.microsecond else ""
    return f"{table}_{start:%Y%m%d_%H%M%S}{fraction}"


async def _patiently(work: Callable[[], Awaitable[_Result]]) -> _Result:
    """Try again a few times when a lock was not to be had in time.

    Raises:
        asyncpg.PostgresError: the last attempt's.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return await work()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            await asyncio.sleep(RETRY_SECONDS)
    return await work()
