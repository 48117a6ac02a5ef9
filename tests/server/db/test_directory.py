"""The directory: what a restart must know, and that no record keeps another from being written."""

import re
import time
import uuid

import asyncpg
import pytest

from server.protocol.identity import container_id
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


async def test_a_restart_knows_what_was_acknowledged(database: str) -> None:
    """The welcome of the next process names the progress of the agent's epoch, without a look-up; of another epoch, none."""
    epoch = str(uuid.uuid4())
    async with running_server(database) as server, server.agent(epoch=epoch) as agent:
        await agent.batch(1)
        await agent.batch(2)
        await agent.acked(2)
    async with running_server(database) as server:
        async with server.agent(epoch=epoch, connection=2, next_seq=3) as agent:
            assert agent.welcome["acked_seq"] == 2
        async with server.agent() as agent:
            assert agent.welcome["acked_seq"] == 0


async def test_the_age_of_the_progress_is_told(database: str) -> None:
    """In the database it is a few seconds behind, and while the database does not take it, older and older."""
    async with running_server(database) as server, server.agent() as agent:
        await agent.batch(1)
        await agent.acked(1)
        directory = server.service.directory
        await directory.write()
        assert (await fetch(database, "SELECT acked_seq FROM host")) == [(1,)]
        text = (await server.get("/metrics")).text
        (told,) = re.findall(r"^seatrial_progress_age_seconds (\S+)$", text, re.MULTILINE)
        assert float(told) >= 0

        begun = time.monotonic()
        await directory.write(0)
        assert directory.progress_age_seconds >= time.monotonic() - begun, "two turns of three are older"
        admin = await asyncpg.connect(database)
        await admin.execute("ALTER TABLE host RENAME TO gone")
        await agent.batch(2)
        await agent.acked(2)
        assert not await directory.write()
        age = directory.progress_age_seconds
        assert not await directory.write()
        assert directory.progress_age_seconds > age
        await admin.execute("ALTER TABLE gone RENAME TO host")
        await admin.close()
        begun = time.monotonic()
        assert await directory.write()
        assert directory.progress_age_seconds <= time.monotonic() - begun


async def test_a_key_that_another_container_has_is_left_to_it(server: RunningServer, database: str) -> None:
    """Two containers of one key: the row stays the first one's, the collision is counted, those beside it are written."""
    key = container_id("org-a", "host-1", docker_id(0))
    connection = await asyncpg.connect(database)
    await connection.execute(
        "INSERT INTO container (container_id, org, host, docker_id, name, series, image, state, labels, protected)"
        " VALUES ($1, 'org-b', 'theirs', $2, 'theirs', 'theirs', 'i', 'running', '{}', false)",
        key, docker_id(9),
    )  # fmt: skip
    await connection.close()
    async with server.agent(containers=[container(0), container(1)]):
        assert await server.service.directory.write()

    rows = await fetch(database, "SELECT org, name FROM container ORDER BY org")
    assert rows == [("org-a", "web-1"), ("org-b", "theirs")]
    assert server.service.counters.container_collisions == 1


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
