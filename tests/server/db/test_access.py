"""The tables of revocations, protection and quotas, and what the doors know of them."""

import asyncio
import logging
from contextlib import suppress

import asyncpg
import pytest

from server.auth.principal import Agent, User
from server.auth.revocations import Revocations
from server.db import access as access_module
from server.db.access import Access, is_agent_revoked, is_revoked
from server.db.pool import Database
from server.errors import DatabaseDownError
from tests.support.core import make_quotas, make_registry
from tests.support.sockets import eventually

USER = User(subject="ada", org="o", role="viewer", expires_at=4e9, issued_at=1000.25, token_id="t1")
AGENT = Agent(host="ada", org="o", expires_at=4e9, issued_at=1000.25, token_id="t1")


class Rig:
    """An `Access` and what it fills."""

    def __init__(self, pool: Database) -> None:
        self.revocations = Revocations()
        self.registry = make_registry()
        self.quotas = make_quotas(agents=7, containers=8, subscribers=9, batches_per_second=10)
        self.access = Access(pool, self.revocations, self.registry, self.quotas)
        self.changes = 0
        self.access.on_revoked = self._count

    def _count(self) -> None:
        self.changes += 1


@pytest.fixture
async def rig(pool: Database) -> Rig:
    """One on a migrated database, not polling."""
    return Rig(pool)


async def revoke(connection: asyncpg.Connection, kind: str, subject: str, at: float, org: str = "o") -> None:
    """A row of the table."""
    await connection.execute(
        "INSERT INTO revocation VALUES ($1, $2, $3, to_timestamp($4), 'x', 'x')", org, kind, subject, at
    )


class TestRefresh:
    """What is in memory after a reading."""

    async def test_every_kind_of_change_counts(self, rig: Rig, connection: asyncpg.Connection) -> None:
        """An insert, an update and a delete are seen; where nothing changed nothing is read again."""
        await rig.access.refresh()
        seen = [(len(rig.revocations), rig.changes)]
        for statement in (
            "INSERT INTO revocation VALUES ('o', 'user', 'ada', to_timestamp(2000), 'x', 'x')",
            "UPDATE revocation SET revoked_at = to_timestamp(500)",
            "SELECT 1",
            "DELETE FROM revocation",
        ):
            await connection.execute(statement)
            await rig.access.refresh()
            seen.append((int(rig.revocations.revoked(USER)), rig.changes))

        assert seen == [(0, 1), (1, 2), (0, 3), (0, 3), (0, 4)]

    async def test_protection_and_quotas(self, rig: Rig, connection: asyncpg.Connection) -> None:
        """Series are protected as the table says; a limit that is NULL is the server's."""
        await connection.execute("INSERT INTO protection VALUES ('o', 'h', 's', 'ada', now(), '')")
        await connection.execute("INSERT INTO quota VALUES ('o', 1, NULL, 0, NULL)")
        await rig.access.refresh()
        own, other = rig.quotas.of("o").limits, rig.quotas.of("p").limits
        await connection.execute("DELETE FROM quota")
        await rig.access.refresh()

        assert rig.registry.protected == {("o", "h", "s")}
        assert (own.agents, own.containers, own.subscribers, own.batches_per_second) == (1, 8, 0, 10)
        assert other.agents == 7
        assert rig.quotas.of("o").limits == other

    async def test_what_was_committed_before_the_call_counts(self, rig: Rig, connection: asyncpg.Connection) -> None:
        """Whatever poll is under way, at the end of a refresh the newest is in force, and it stays."""
        for number in range(20):
            poll = asyncio.create_task(rig.access.refresh())
            await revoke(connection, "user", f"u{number}", 1.0)
            await rig.access.refresh()
            assert len(rig.revocations) == number + 1
            await poll
            assert len(rig.revocations) == number + 1

    async def test_one_at_a_time(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two readings never overlap: the older could be taken over after the newer."""
        read, reading, most = rig.access._read, 0, 0

        async def counted(connection: asyncpg.Connection) -> None:
            nonlocal reading, most
            reading += 1
            most = max(most, reading)
            await read(connection)
            reading -= 1

        monkeypatch.setattr(rig.access, "_read", counted)
        await asyncio.gather(*(rig.access.refresh() for _ in range(3)))

        assert most == 1


class TestRun:
    """The poll."""

    async def test_it_outlives_the_database(
        self,
        rig: Rig,
        connection: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """While the tables cannot be read what was known stays in force, the log says so, and it goes on afterwards."""
        monkeypatch.setattr(access_module, "POLL_SECONDS", 0.02)
        await revoke(connection, "user", "ada", 4e9)
        polling = asyncio.create_task(rig.access.run())
        try:
            await eventually(lambda: len(rig.revocations) == 1)
            await connection.execute("ALTER TABLE revocation RENAME TO away")
            with caplog.at_level(logging.WARNING):
                await eventually(lambda: any("not read" in record.message for record in caplog.records))
            assert rig.revocations.revoked(USER)
            with pytest.raises(DatabaseDownError):
                await rig.access.refresh()
            await rig.access.refresh_soon()  # says so in the log and does not fail
            await connection.execute("ALTER TABLE away RENAME TO revocation")
            await revoke(connection, "user", "bob", 4e9)
            await eventually(lambda: len(rig.revocations) == 2)
        finally:
            polling.cancel()
            with suppress(asyncio.CancelledError):
                await polling


class TestInATransaction:
    """The question as it is asked where a poll would be too late."""

    @pytest.mark.parametrize(
        ("at", "revoked"), [(1000.0, False), (1000.249999, False), (1000.25, True), (1001.0, True)]
    )
    async def test_the_same_answer_as_from_memory(
        self, rig: Rig, connection: asyncpg.Connection, at: float, revoked: bool
    ) -> None:
        """Table and memory agree about users and agents, to the microsecond."""
        await revoke(connection, "user", "ada", at)
        await revoke(connection, "host", "ada", at)
        await rig.access.refresh()

        assert await is_revoked(connection, USER) is rig.revocations.revoked(USER) is revoked
        assert await is_agent_revoked(connection, AGENT) is rig.revocations.revoked(AGENT) is revoked

    async def test_tokens_tenants_and_kinds(self, connection: asyncpg.Connection) -> None:
        """A token by its id, whenever; another organisation's rows, and a host with the user's name, mean nothing."""
        await revoke(connection, "user", "ada", 2000, org="p")
        await revoke(connection, "host", "ada", 2000)
        await revoke(connection, "token", "t1", 1, org="p")
        before = await is_revoked(connection, USER)
        await revoke(connection, "token", "t1", 1)

        assert (before, await is_revoked(connection, USER)) == (False, True)
