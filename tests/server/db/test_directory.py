"""The directory: what a restart must know, and that no record keeps another from being written."""

import uuid

import asyncpg
import pytest

from tests.support.server import RunningServer, container, docker_id, running_server


async def fetch(dsn: str, query: str) -> list[tuple[object, ...]]:
    """Rows of the database."""
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def test_what_went_while_the_server_was_down_is_removed(database: str) -> None:
    """A container that the first full list after a restart lacks is gone, in memory and in the database."""
    async with running_server(database) as server, server.agent(containers=[container(0), container(1)]):
        pass
    async with running_server(database) as server:
        record = server.service.registry.records["org-a", "host-1"]
        assert record.status().containers == 2
        async with server.agent(containers=[container(5, id=docker_id(1))]):
            assert record.status().containers == 1
            await server.service.directory.write()

    rows = await fetch(database, "SELECT docker_id, removed_at IS NULL FROM container ORDER BY docker_id")
    assert rows == [(docker_id(0), False), (docker_id(1), True)]


async def test_a_refused_record_keeps_no_other_from_being_written(
    server: RunningServer, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A container that Postgres refuses is counted and named in the log; those beside it are written."""
    connection = await asyncpg.connect(database)
    await connection.execute("ALTER TABLE container ADD CHECK (name <> 'web-3'), ADD CHECK (name <> 'web-5')")
    await connection.close()
    async with server.agent(containers=[container(ref) for ref in range(8)]):
        assert await server.service.directory.write()

    rows = await fetch(database, "SELECT name FROM container ORDER BY name")
    assert [name for (name,) in rows] == [f"web-{ref}" for ref in (0, 1, 2, 4, 6, 7)]
    assert server.service.counters.directory_rows_refused == 2
    assert server.service.counters.container_collisions == 0
    assert sum(record.getMessage() == "not written" for record in caplog.records) == 2
    assert await fetch(database, "SELECT host FROM host") == [("host-1",)]


async def test_an_epoch_with_a_line_end_is_no_uuid(server: RunningServer) -> None:
    """`$` in a pattern lets a line end pass, Postgres does not: it is refused at the door."""
    async with server.agent(greet=False) as agent:
        await agent.send({"type": "hello", "epoch": f"{uuid.uuid4()}\n", "protocol": 1})
        code, _ = await agent.closed()

    assert code == 4501
