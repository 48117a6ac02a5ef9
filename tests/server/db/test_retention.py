"""Retention, tickets and the directory of a running server."""

import asyncio
from typing import Any

import asyncpg

from server.auth.principal import User
from tests.support.server import RunningServer, container, eventually, line, now_us, running_server


async def count(dsn: str, query: str) -> int:
    """One number from the database."""
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


async def test_a_short_window_empties_itself(database: str) -> None:
    """Samples, lines and a container that is gone leave the tables once they are older than the retention."""
    gone = [container(0), container(1, state="removed")]
    settings: dict[str, Any] = {"retention_seconds": 1.5, "prune_interval_seconds": 0.2}
    async with running_server(database, **settings) as server, server.agent(containers=gone) as agent:
        await agent.batch(1, logs=[line("x", now_us())], metrics=[{"ref": 0, "cpu": 1.0}])
        await agent.acked(1)
        await server.service.directory.write()
        assert await count(database, "SELECT count(*) FROM container_metric") == 1
        counters = server.service.counters
        await eventually(lambda: counters.metric_rows_pruned == counters.log_rows_pruned == 1, "pruned")
        left = await count(
            database, "SELECT (SELECT count(*) FROM container_metric) + (SELECT count(*) FROM container_log)"
        )
        await eventually(lambda: counters.containers_forgotten == 1, "the removed container forgotten")
        await agent.batch(2)
        await agent.acked(2)

    assert left == 0


async def test_one_of_many_redeems_a_ticket(server: RunningServer) -> None:
    """Of a hundred parallel redemptions of one ticket exactly one gets in."""
    tickets = server.service.tickets
    user = User(subject="u", org="org-a", role="viewer", expires_at=2e9)
    ticket = await tickets.issue(user, server.http)
    redeemed = await asyncio.gather(*(tickets.redeem(ticket, server.http) for _ in range(100)))

    assert [found for found in redeemed if found is not None] == [user]


async def test_an_expired_ticket_is_worth_nothing(server: RunningServer, database: str) -> None:
    """After its time a ticket opens nothing, and the next pruning removes those that were never brought."""
    tickets = server.service.tickets
    user = User(subject="u", org="org-a", role="viewer", expires_at=2e9)
    first, _ = await tickets.issue(user, None), await tickets.issue(user, None)
    connection = await asyncpg.connect(database)
    await connection.execute("UPDATE live_ticket SET expires_at = now() - interval '1 second'")
    await connection.close()

    assert await tickets.redeem(first, None) is None
    await server.service.retention.prune()
    assert await count(database, "SELECT count(*) FROM live_ticket") == 0


async def test_the_directory_keeps_what_could_not_be_written(server: RunningServer, database: str) -> None:
    """A write that fails is made up for by the next one, new containers and progress included."""
    connection = await asyncpg.connect(database)
    await connection.execute("ALTER TABLE container RENAME TO elsewhere")
    async with server.agent() as agent:
        await agent.batch(1)
        await agent.acked(1)
        assert await server.service.directory.write() is False
        await connection.execute("ALTER TABLE elsewhere RENAME TO container")
        assert await server.service.directory.write() is True
    await connection.close()

    assert await count(database, "SELECT count(*) FROM container") == 1
    assert await count(database, "SELECT acked_seq FROM host") == 1
