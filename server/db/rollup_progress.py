"""How far the rollup got, and how far samples are pruned: the one row of table `rollup_progress`.

Minutes from `rolled_from` to `rolled_until` were computed; marks say which of them must be again. Unix microseconds.
"""

import asyncpg

from server.db.storage.base import Rolled
from server.db.storage.times import to_datetime, to_micros
from server.reads import MINUTE_US


def minute_after(at: int) -> int:
    """The first beginning of a minute at or after `at`."""
    return -(-at // MINUTE_US) * MINUTE_US


async def begin(connection: asyncpg.Connection, latest: int) -> Rolled:
    """Take up where the process before ended; on a database without marks yet, behind every sample there can be.

    Args:
        connection: to the database.
        latest: the newest time that a sample stored before may have. A rollup that got further was made by a clock that went
            wrong: what it says is computed again.
    """
    first = to_datetime(minute_after(latest))
    # The row may be missing: a dump can be restored without the data of our tables.
    await connection.execute("INSERT INTO rollup_progress DEFAULT VALUES ON CONFLICT DO NOTHING")
    await connection.execute(
        "UPDATE rollup_progress SET rolled_from = $1, rolled_until = $1 WHERE rolled_until IS NULL OR rolled_until > $1",
        first,
    )
    row = await connection.fetchrow("SELECT rolled_from, rolled_until FROM rollup_progress")
    assert row is not None  # noqa: S101 - see above
    return Rolled(to_micros(row["rolled_from"]), to_micros(row["rolled_until"]))


async def forget(connection: asyncpg.Connection) -> None:
    """Samples are about to be stored without marks, into a database without any: the next server fills all of it.

    No server may run on it: one that does goes by what it knew.
    """
    await connection.execute(
        "UPDATE rollup_progress SET rolled_from = NULL, rolled_until = NULL, pruned_until = 'epoch'"
    )


async def rolled_until(connection: asyncpg.Connection, until: int) -> None:
    """Every minute before `until` is computed."""
    await connection.execute("UPDATE rollup_progress SET rolled_until = $1 WHERE rolled_until < $1", to_datetime(until))


async def rolled_from(connection: asyncpg.Connection, since: int) -> None:
    """Every minute from `since` on is computed."""
    await connection.execute("UPDATE rollup_progress SET rolled_from = $1 WHERE rolled_from > $1", to_datetime(since))


async def pruned_until(connection: asyncpg.Connection, before: int, now: int) -> None:
    """Samples older than `before` are about to go: say so before the first does.

    It does not go back, or minutes would be computed from what is left of them; but what lies ahead of our clock was said by
    one that went wrong.
    """
    await connection.execute(
        "UPDATE rollup_progress SET pruned_until ="
        " CASE WHEN pruned_until > $2 THEN $1 ELSE greatest(pruned_until, $1) END",
        to_datetime(minute_after(before)),
        to_datetime(now),
    )


async def first_whole_minute(connection: asyncpg.Connection) -> int:
    """The first minute whose samples are all there, as far as pruning goes."""
    return to_micros(await connection.fetchval("SELECT pruned_until FROM rollup_progress"))
