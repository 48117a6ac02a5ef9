"""The bound on a container's log, from an agent's lines to the table, across restarts and outages."""

from typing import Any

import asyncpg
import pytest

from server.db.log_bounds import LogBoundKeeper
from server.log_bounds import LogBounds
from server.protocol.identity import container_id
from server.rows import LINE_OVERHEAD_BYTES
from tests.support.server import (
    AgentClient,
    RunningServer,
    container,
    docker_id,
    eventually,
    line,
    now_us,
    running_server,
)

LIMIT = 64 * 1024
LINES = 50
"""Lines of a batch."""
SIZE = 100 + LINE_OVERHEAD_BYTES
LOUD, QUIET = (container_id("org-a", "host-1", docker_id(number)) for number in (0, 1))
HELLO: dict[str, Any] = {"containers": [container(0), container(1)]}


async def write(agent: AgentClient, first: int, batches: int, start: int, ref: int = 0) -> None:
    """Batches of lines of one container, a millisecond apart, counted from `start`."""
    for seq in range(first, first + batches):
        lines = [
            line(f"{seq:05d}-{i:02d}".ljust(100, "x"), start + (seq * LINES + i) * 1000, ref=ref) for i in range(LINES)
        ]
        await agent.batch(seq, oldest=seq, at=start, logs=lines)
    await agent.acked(first + batches - 1)


async def lines_of(dsn: str, number: int) -> list[str]:
    """The stored lines of a container, oldest first, without their filling."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT text FROM container_log WHERE container_id = $1 ORDER BY timestamp, line", number
        )
    finally:
        await connection.close()
    return [row["text"].rstrip("x") for row in rows]


def names(first: int, batches: int) -> list[str]:
    """What `write` wrote."""
    return [f"{seq:05d}-{i:02d}" for seq in range(first, first + batches) for i in range(LINES)]


async def settled(server: RunningServer) -> None:
    """Everything that is asked for is done."""
    bounds = server.service.log_bounds
    await eventually(lambda: not bounds.due and not bounds.uncertain and not bounds.dirty, "log bounds kept")


def is_newest(found: list[str], written: list[str]) -> None:
    """Only the newest part is kept: the bound or somewhat less of it, and no hole."""
    assert found == written[-len(found) :]
    assert LIMIT * 13 / 16 <= len(found) * SIZE <= LIMIT + SIZE


async def test_a_loud_container_keeps_its_newest_lines(database: str) -> None:
    """Past its bound the oldest lines go, counted; others keep theirs, and a restart changes nothing of it."""
    start = now_us() - 3600 * 1_000_000
    async with running_server(database, log_bytes_per_container=LIMIT) as server, server.agent(**HELLO) as agent:
        await write(agent, 1, 2, start, ref=1)
        await write(agent, 3, 12, start)
        await settled(server)
        kept = await lines_of(database, LOUD)
        is_newest(kept, names(3, 12))
        counters = server.service.counters
        assert counters.log_rows_pruned == 12 * LINES - len(kept)
        assert counters.log_bytes_pruned == counters.log_rows_pruned * SIZE
        assert await lines_of(database, QUIET) == names(1, 2)

    async with running_server(database, log_bytes_per_container=LIMIT) as server, server.agent(**HELLO) as agent:
        await write(agent, 15, 1, start)
        await settled(server)
        once_more = await lines_of(database, LOUD)
        is_newest(once_more, [*names(3, 12), *names(15, 1)])
        assert server.service.counters.log_rows_pruned < 2 * LINES  # what was there before was counted, not begun anew
        metrics = (await server.get("/metrics")).text
        assert "seatrial_log_bytes_pruned_total" in metrics

    connection = await asyncpg.connect(database)
    assert await connection.fetchval("SELECT count(*) FROM log_segment WHERE container_id = $1", LOUD) <= 17
    await connection.close()


async def test_a_killed_server_forgets_little(database: str) -> None:
    """Without an orderly end what was written behind is enough: the next process prunes where it must."""
    start = now_us() - 3600 * 1_000_000
    async with running_server(database, log_bytes_per_container=LIMIT) as server, server.agent(**HELLO) as agent:
        await write(agent, 1, 4, start)
        await settled(server)
        server.service.log_bounds.dirty.clear()
        server.service.log_bound_keeper.write = _nothing  # type: ignore[method-assign]
    async with running_server(database, log_bytes_per_container=LIMIT) as server, server.agent(**HELLO) as agent:
        await write(agent, 5, 2, start)
        await settled(server)
        is_newest(await lines_of(database, LOUD), names(1, 6))


async def _nothing() -> None:
    """A process that is killed writes no more."""


async def test_lines_sent_again_do_not_cost_those_that_are_there(database: str) -> None:
    """An agent that reads its log again, from the start and often, loses nothing: storage says what is really there."""
    start = now_us() - 3600 * 1_000_000
    async with running_server(database, log_bytes_per_container=LIMIT) as server:
        async with server.agent(**HELLO) as agent:
            await write(agent, 1, 4, start)
        for connection in range(2, 5):
            async with server.agent(**HELLO, connection=connection) as agent:
                await write(agent, 1, 4, start)
            await settled(server)

        assert server.service.counters.rows_replayed >= 3 * 4 * LINES
        assert await lines_of(database, LOUD) == names(1, 4)


async def test_lines_that_come_late_are_bounded_too(database: str) -> None:
    """One line far ahead does not let all that is earlier past the bound."""
    start = now_us() - 3600 * 1_000_000
    async with running_server(database, log_bytes_per_container=LIMIT) as server, server.agent(**HELLO) as agent:
        await agent.batch(1, logs=[line("ahead", now_us())])
        for round_ in range(4):
            await write(agent, 2 + 5 * round_, 5, start)
            await settled(server)
            assert len(await lines_of(database, LOUD)) * SIZE <= LIMIT * 18 / 16


async def test_nothing_is_pruned_before_it_is_stored(database: str) -> None:
    """Lines still on their way when their segment is due are waited for, and removed with it."""
    start = now_us() - 3600 * 1_000_000
    settings: dict[str, Any] = {"log_bytes_per_container": LIMIT, "flush_seconds": 3.0}
    async with running_server(database, **settings) as server, server.agent(**HELLO) as agent:
        await write(agent, 1, 12, start)
        await settled(server)

        is_newest(await lines_of(database, LOUD), names(1, 12))
        record = server.service.registry.records["org-a", "host-1"]
        counted = sum(s.bytes for s in server.service.log_bounds.segments(LOUD)) + record.by_id[LOUD].log_bytes
        assert counted == len(await lines_of(database, LOUD)) * SIZE


async def test_what_fails_is_done_the_next_time(server: RunningServer) -> None:
    """A round that the database refuses keeps everything for the next one."""
    service = server.service
    bounds = LogBounds(LIMIT)
    keeper = LogBoundKeeper(
        service.database, service.storage, bounds, service.registry, service.counters, service.committed
    )
    async with server.agent(**HELLO), service.database.acquire() as connection:
        bounds.due[LOUD] = 1
        bounds.dirty[QUIET] = service.registry.records["org-a", "host-1"].by_id[QUIET]
        await connection.execute("ALTER TABLE log_segment RENAME TO away")
        with pytest.raises(asyncpg.UndefinedTableError):
            await keeper.work()
        with pytest.raises(asyncpg.UndefinedTableError):
            await keeper.write()
        assert (list(bounds.due), list(bounds.dirty)) == ([LOUD], [QUIET])
        await connection.execute("ALTER TABLE away RENAME TO log_segment")

        await keeper.work()

    assert not bounds.due
    assert not bounds.dirty
