"""No tenant, and no slow part, keeps what must go on waiting."""

import asyncio
from typing import Any

import asyncpg
import pytest
import websockets

from server.db.pool import ReadPool
from server.db.storage.pace import Pace
from server.errors import DatabaseDownError
from server.protocol.identity import container_id
from tests.support.access import admin, audit
from tests.support.server import RunningServer, container, docker_id, eventually, running_server


async def agent_status(server: RunningServer, host: str, org: str = "org-a") -> int:
    """How the upgrade of an agent is answered."""
    try:
        async with server.agent(host, org, greet=False):
            return 101
    except websockets.InvalidStatus as error:
        return error.response.status_code


class TestReads:
    """Charts, lists and downloads beside commands."""

    async def test_slow_reads_keep_no_command_waiting(self, server: RunningServer, database: str) -> None:
        """While one organisation's readers wait on a locked table, another acts and reads, and the server is ready."""
        theirs = str(container_id("org-b", "host-1", docker_id(0)))
        ours = str(container_id("org-a", "host-1", docker_id(0)))
        async with server.agent() as mine, server.agent(org="org-b") as other:
            await mine.batch(1)
            await mine.acked(1)
            await server.service.directory.write()
            lock = await asyncpg.connect(database)
            async with lock.transaction():
                await lock.execute("LOCK TABLE container_metric")
                viewer = server.user_token()
                readers = [
                    asyncio.create_task(server.get(f"/api/containers/{ours}/metrics?range=15m", viewer))
                    for _ in range(20)
                ]
                reading = server.service.read_pool
                await eventually(lambda: reading._users["org-a"] == 20, "the readers wait")
                acted = await server.call(
                    "POST", f"/api/containers/{theirs}/actions", server.user_token("org-b", "operator"),
                    json={"kind": "start", "reason": "test"},
                )  # fmt: skip
                await other.until("action")
                found = await server.get(f"/api/containers/{theirs}", server.user_token("org-b"))
                ready = await server.get("/readyz")
            await lock.close()
            answers = await asyncio.gather(*readers)
        assert (acted.status_code, found.status_code, ready.status_code) == (202, 200, 200)
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert any(answer.status_code == 200 for answer in answers)

    async def test_commands_have_connections_that_no_read_takes(self, database: str) -> None:
        """While the reads of two organisations hold every connection that reads have, a command goes its way."""
        containers = {org: str(container_id(org, "host-1", docker_id(0))) for org in ("org-a", "org-b")}
        async with (
            running_server(database, pool_size=2, read_pool_size=4) as server,
            server.agent() as agent, server.agent(org="org-b"),
        ):  # fmt: skip
            await server.service.directory.write()
            connection = await asyncpg.connect(database)
            async with connection.transaction():
                await connection.execute("LOCK TABLE container_metric")
                readers = [
                    asyncio.create_task(server.get(f"/api/containers/{key}/metrics?range=15m", server.user_token(org)))
                    for org, key in containers.items() for _ in range(2)
                ]  # fmt: skip

                async def all_wait() -> bool:
                    waiting = (
                        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'container_metric'::regclass"
                    )
                    return bool(await connection.fetchval(waiting) >= 2)

                await eventually(all_wait, "the readers wait")
                acted = await server.call(
                    "POST", f"/api/containers/{containers['org-a']}/actions", server.user_token(role="operator"),
                    json={"kind": "start", "reason": "test"},
                )  # fmt: skip
                assert acted.status_code == 202
                await agent.until("action")
            await connection.close()
            assert {answer.status_code for answer in await asyncio.gather(*readers)} == {200}

    async def test_the_turns_of_an_organisation(self, server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """At most so many at once, others wait or are told; what is free again leaves nothing behind."""
        monkeypatch.setattr("server.db.pool.ACQUIRE_TIMEOUT_SECONDS", 0.2)
        pool = ReadPool(server.service.reading, at_once=1)
        async with pool.acquire("a"), pool.acquire("b"):
            with pytest.raises(DatabaseDownError, match="1 reads at once"):
                async with pool.acquire("a"):
                    pass
        async with pool.acquire("a"):
            pass
        assert pool._turns == {}


class TestUpgrades:
    """Agents' sockets that have not said hello."""

    async def test_one_token_takes_no_place_of_others(self, database: str) -> None:
        """A host that is connected opens at most three silent sockets more, and they count against nobody else."""
        async with running_server(database, max_agents=3) as server, server.agent("host-1"):
            silent = [server.agent("host-1", greet=False) for _ in range(3)]
            for context in silent:
                await context.__aenter__()
            assert await agent_status(server, "host-1") == 429
            assert await agent_status(server, "other", "org-b") == 101
            for context in silent:
                await context.__aexit__(None, None, None)
            await eventually(lambda: not server.service.agents._greeting_of, "the sockets freed")
            assert await agent_status(server, "host-1") == 101


class TestWrites:
    """What users change."""

    async def test_an_organisations_writes_are_paced(self, database: str) -> None:
        """Past the rate 429, and no audit row; another organisation is not touched, nor are reads."""
        async with running_server(database, org_writes_per_second=3) as server:
            body = {"kind": "token", "subject": "x", "reason": "test"}
            answers = await asyncio.gather(
                *(server.call("POST", "/api/revocations", server.user_token(), json=body) for _ in range(20))
            )
            codes = [answer.status_code for answer in answers]
            assert 429 in codes
            assert set(codes) == {403, 429}
            assert next(a for a in answers if a.status_code == 429).headers["retry-after"] == "1"
            other = await server.call("POST", "/api/revocations", server.user_token("org-b"), json=body)
            assert other.status_code == 403
            assert (await server.get("/api/hosts", server.user_token())).status_code == 200
            assert len(await audit(server)) == codes.count(403)

    async def test_revocations_are_bounded(self, database: str) -> None:
        """Past the bound 429, audited as denied; nothing more is revoked."""
        async with running_server(database, org_max_revocations=2) as server:
            codes = [
                (await admin(server, "POST", "/api/revocations", {"kind": "user", "subject": f"u{i}", "reason": "x"}))
                .status_code for i in range(3)
            ]  # fmt: skip
            rows = await audit(server)
        assert codes == [201, 201, 429]
        assert sorted(row[3] for row in rows) == ["denied", "done", "done"]

    async def test_a_host_that_is_not_known_any_more_can_be_revoked(self, server: RunningServer) -> None:
        """Its token may live longer than its row: the revocation needs no row."""
        token = server.agent_token("long-gone")
        body = {"kind": "host", "subject": "long-gone", "reason": "stolen"}
        assert (await admin(server, "POST", "/api/revocations", body)).status_code == 201
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with server.agent(token=token, greet=False):
                pass
        assert caught.value.response.status_code == 401

    async def test_a_secret_under_a_wrong_name_is_not_repeated(self, server: RunningServer) -> None:
        """Whatever the mistake in the body, the answer does not hold the value."""
        for body in ({"enrolment_token": "s3cr3t-canary"}, {"token": ["s3cr3t-canary"]}, "s3cr3t-canary"):
            answer = await server.call("POST", "/api/agents/enroll", json=body)
            assert answer.status_code == 422
            assert "s3cr3t-canary" not in answer.text


class TestRetention:
    """Tables that wait for one another."""

    async def test_a_pruning_past_its_deadline_stops_no_other(
        self, server: RunningServer, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Samples that cannot be removed in time keep no ticket in its table."""

        async def late(connection: Any, before: int, pace: Pace) -> None:
            await connection.execute("SELECT pg_sleep(30)", timeout=0.1)

        monkeypatch.setattr(server.service.storage, "prune", late)
        connection = await asyncpg.connect(database)
        await connection.execute(
            "INSERT INTO live_ticket (digest, org, subject, role, session_expires_at, expires_at)"
            " VALUES ('x', 'o', 's', 'viewer', now(), now() - interval '1 minute')"
        )
        with pytest.raises(DatabaseDownError):
            await server.service.retention.prune()
        assert await connection.fetchval("SELECT count(*) FROM live_ticket") == 0
        await connection.close()

    async def test_a_backlog_is_removed_in_steps(self, server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """More rows than one statement removes are removed all the same."""
        monkeypatch.setattr("server.db.storage.plain._PRUNE_ROWS", 3)
        async with server.agent(containers=[container(0)]) as agent:
            for seq in range(1, 11):
                await agent.batch(seq)
            await agent.acked(10)
            async with server.service.database.acquire() as connection:
                pruned = await server.service.storage.prune(connection, 4_000_000_000_000_000, Pace(1.0))
        assert pruned.metrics == 10
