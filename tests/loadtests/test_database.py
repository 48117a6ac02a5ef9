"""The runner's connection: whatever becomes of it, the next user gets one that works."""

import asyncpg
import pytest

from loadtests.database import AWAY, Reconnecting


async def backend(database: Reconnecting) -> int:
    """The process that serves the connection."""
    async with database.use() as connection:
        return int(await connection.fetchval("SELECT pg_backend_pid()"))


async def test_a_connection_is_kept_while_it_is_good(database: str) -> None:
    """One after the other uses the same."""
    ours = Reconnecting(database, statement_seconds=10)
    first = await backend(ours)

    assert await backend(ours) == first
    ours.close()


async def test_a_connection_that_broke_is_made_again(database: str) -> None:
    """Who used it when it broke is told; the next one notices nothing."""
    ours = Reconnecting(database, statement_seconds=10)
    first = await backend(ours)
    with pytest.raises(AWAY):
        async with ours.use() as connection:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    assert await backend(ours) != first
    ours.close()


async def test_a_statement_past_its_deadline_ends_its_connection(database: str) -> None:
    """It may still run, and the next statement must not wait behind it."""
    ours = Reconnecting(database, statement_seconds=0.2)
    first = await backend(ours)
    with pytest.raises(TimeoutError):
        async with ours.use() as connection:
            await connection.execute("SELECT pg_sleep(60)")

    assert await backend(ours) != first
    ours.close()


async def test_a_database_that_is_away_is_told_as_such(database: str) -> None:
    """Every way of being away is one of `AWAY`, and a close of nothing is no error."""
    for dsn in ("postgresql://nobody:x@127.0.0.1:1/none", database + "_that_is_not_there"):
        ours = Reconnecting(dsn, statement_seconds=1)
        with pytest.raises(AWAY) as error:
            await backend(ours)
        assert isinstance(error.value, OSError | asyncpg.PostgresError)
        ours.close()
