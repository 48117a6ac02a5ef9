"""Rows that travel with their COMMIT, cut while Postgres works at them: whatever is answered, they are stored once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from server.agents import now_us
from server.protocol.messages import Log, Metric
from tests.support.lanes import Rig, WatchedConnection, backends, logs, metrics, rig, terminate
from tests.support.sockets import DEADLINE_SECONDS

GATE = 7
"""Advisory lock that the rows of the gated table wait for."""
_GATED = f"""
    CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NULL; END $$;
    CREATE TRIGGER gate AFTER INSERT ON {{table}} FOR EACH STATEMENT EXECUTE FUNCTION wait_at_gate();
"""


@pytest.fixture
async def gate(database: str, connection: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """A connection that holds the gate shut: `pg_advisory_unlock` opens it."""
    holder = await asyncpg.connect(database)
    try:
        await holder.execute("SELECT pg_advisory_lock($1)", GATE)
        yield holder
    finally:
        await holder.close()


async def at_gate(connection: asyncpg.Connection) -> None:
    """Wait until a lane's COPY stands at the gate."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1) AND wait_event = 'advisory'",
            await backends(connection),
        ):
            await asyncio.sleep(0.005)


async def opened(gate: asyncpg.Connection) -> None:
    """Let rows through from now on."""
    await gate.execute("SELECT pg_advisory_unlock($1)", GATE)


async def killed(connection: asyncpg.Connection, gate: asyncpg.Connection) -> None:
    """The backend ends; what comes again finds the gate open."""
    await terminate(connection)
    await opened(gate)


async def cancelled(connection: asyncpg.Connection, gate: asyncpg.Connection) -> None:
    """The statement is cancelled, as by an administrator; what comes again finds the gate open."""
    for pid in await backends(connection):
        await connection.execute("SELECT pg_cancel_backend($1)", pid)
    await opened(gate)


def send(lane: Rig) -> Any:
    """An agent with two batches, of one flush or of two."""
    agent = lane.agent()
    for mem in (1, 2):
        at = now_us() + mem
        lines = (Log(ref=0, at=at, line=mem, stream="stdout", text="a"),)
        agent.batch(Metric(ref=0, mem=mem, at=at), logs=lines)
    return agent


@pytest.mark.parametrize("table", ["container_metric", "container_log"])
@pytest.mark.parametrize("cut", [killed, cancelled])
async def test_a_copy_that_is_cut_while_its_rows_are_stored(
    database: str,
    connection: asyncpg.Connection,
    gate: asyncpg.Connection,
    table: str,
    cut: Callable[[asyncpg.Connection, asyncpg.Connection], Awaitable[None]],
) -> None:
    """Killed or cancelled in the COPY that begins a transaction, or in the one that ends it: every row is stored once."""
    await connection.execute(_GATED.format(table=table))
    async with rig(database) as lane:
        agent = send(lane)
        await at_gate(connection)
        assert agent.socket.acks == []
        await cut(connection, gate)

        await agent.socket.acked(2)

        assert [row.mem for row in await metrics(connection)] == [1, 2]
        assert [row.line for row in await logs(connection)] == [1, 2]
        assert [row for ack in agent.socket.acks for row in ack.rejected] == []
        assert lane.counters.metric_rows_stored == 2
        assert lane.counters.rows_replayed == 0
        assert lane.counters.flush_retries.total() == 1


async def test_a_copy_and_commit_that_takes_too_long(
    database: str, connection: asyncpg.Connection, gate: asyncpg.Connection
) -> None:
    """Past its time nobody knows whether the COMMIT came through: the flush is halved and merged, every row stored once."""
    await connection.execute(_GATED.format(table="container_log"))
    given_up = asyncio.Event()

    class Hurried(WatchedConnection):
        async def _copy_in(self, copy_stmt: str, source: Any, timeout: float | None) -> str:  # noqa: ASYNC109 - asyncpg's
            try:
                return await super()._copy_in(copy_stmt, source, 0.2 if not given_up.is_set() else timeout)
            except TimeoutError:
                given_up.set()
                raise

    async with rig(database, connection_class=Hurried) as lane:
        agent = send(lane)
        await asyncio.wait_for(given_up.wait(), 20)
        await opened(gate)

        await agent.socket.acked(2)

        assert [row.mem for row in await metrics(connection)] == [1, 2]
        assert [row.line for row in await logs(connection)] == [1, 2]
        assert [row for ack in agent.socket.acks for row in ack.rejected] == []
        assert lane.counters.flush_retries["commit_unknown"] == 1
        assert lane.counters.flushes_merged >= 1
