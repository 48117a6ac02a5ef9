"""Retention, tickets and the directory of a running server."""

import asyncio
from typing import Any

import asyncpg
import pytest

from server.app import create_app
from server.auth.principal import User
from server.db import retention
from server.db.storage.strategies import STRATEGIES
from server.errors import DatabaseDownError, StartupError
from server.protocol.identity import container_id
from server.token_life import MAX_LIFE_SECONDS
from tests.support.server import RunningServer, container, eventually, line, now_us, running_server

DAY = 86_400
ACTION = (
    "INSERT INTO action (action_id, org, host, container_id, kind, state, reason, requested_by, role, token_id,"
    " token_issued_at, requested_at, expires_at, finished_at, request_digest)"
    " SELECT $1, 'o', 'h', 1, 'stop', $2, 'r', 'u', 'admin', 't', m, m, m, CASE WHEN $3 THEN m END, ''"
    " FROM (SELECT now() - make_interval(secs => $4)) AS a (m)"
)
AUDIT = (
    "INSERT INTO audit (org, actor, role, action, target, reason, result, at)"
    " VALUES ('o', $1, 'admin', 'a', 't', 'r', $2, now() - make_interval(secs => $3))"
)
HOST = (
    "INSERT INTO host (org, host, machine_id, hostname, agent_version, cores, epoch, acked_seq, last_seen)"
    " VALUES ('o', $1, 'm', 'n', '1', 1, gen_random_uuid(), 1, now() - make_interval(secs => $2))"
)
CONTAINER = (
    "INSERT INTO container (container_id, org, host, docker_id, name, series, image, state, labels, protected, removed_at)"
    " VALUES ($1, 'o', $2, repeat('a', 64), 'n', 's', 'i', 'running', '{}', false, now() - make_interval(secs => $3))"
)
PROTECTION = "INSERT INTO protection (org, host, series, protected_by, reason) VALUES ('o', $1, 's', 'u', 'r')"
AGED = {
    "live_ticket": (
        """
        INSERT INTO live_ticket (digest, org, subject, role, session_expires_at, expires_at)
        VALUES ($1::text::bytea, 'o', 's', 'viewer', now(), now() - make_interval(secs => $2))
        """,
        0,
    ),
    "enrolment": (
        """
        INSERT INTO enrolment (digest, org, host, created_by, expires_at)
        VALUES ($1::text::bytea, 'o', 'h', 'u', now() - make_interval(secs => $2))
        """,
        0,
    ),
    "revocation": (
        """
        INSERT INTO revocation (org, kind, subject, revoked_by, reason, revoked_at)
        VALUES ('o', 'user', $1, 'u', 'r', now() - make_interval(secs => $2))
        """,
        MAX_LIFE_SECONDS + DAY,
    ),
    "metric_minute": (
        """
        INSERT INTO metric_minute (container_id, minute, first_at, last_at, cpu_count, memory_count, samples)
        SELECT length($1), m, m, m, 0, 0, 1 FROM (SELECT now() - make_interval(secs => $2)) AS a (m)
        """,
        DAY,
    ),
    "dirty_minute": (
        "INSERT INTO dirty_minute (minute, containers) SELECT now() - make_interval(secs => $2), ARRAY[length($1)::bigint]",
        DAY,
    ),
    "log_segment": (
        "INSERT INTO log_segment VALUES (length($1), now() - make_interval(secs => $2), 1)",
        DAY,
    ),
}
"""Per table: a row's INSERT, by name and age in seconds; and from which age on it goes."""


async def count(dsn: str, query: str) -> int:
    """One number from the database."""
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


@pytest.mark.parametrize("storage", STRATEGIES)
async def test_a_short_window_empties_itself(empty_database: str, storage: str) -> None:
    """Samples, lines and a container that is gone leave the tables once they are older than the retention."""
    gone = [container(0), container(1, state="removed")]
    settings: dict[str, Any] = {"storage": storage, "retention_seconds": 1.5, "prune_interval_seconds": 0.2}
    async with running_server(empty_database, **settings) as server, server.agent(containers=gone) as agent:
        await agent.batch(1, logs=[line("x", now_us())], metrics=[{"ref": 0, "cpu": 1.0}])
        await agent.acked(1)
        await server.service.directory.write()
        assert await count(empty_database, "SELECT count(*) FROM container_metric") == 1
        counters = server.service.counters
        await eventually(lambda: counters.metric_rows_pruned == counters.log_rows_pruned == 1, "pruned")
        left = await count(
            empty_database, "SELECT (SELECT count(*) FROM container_metric) + (SELECT count(*) FROM container_log)"
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


async def rows(dsn: str, query: str) -> list[Any]:
    """The first column of what a query finds."""
    connection = await asyncpg.connect(dsn)
    try:
        return [row[0] for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def fill(dsn: str, statement: str, *arguments: tuple[Any, ...]) -> None:
    """Run a statement once for each of these."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.executemany(statement, arguments)
    finally:
        await connection.close()


class TestFixedTables:
    """Each has its own age, counts what goes, and is pruned in bounded steps."""

    @pytest.mark.parametrize("table", AGED)
    async def test_by_age(
        self, server: RunningServer, database: str, monkeypatch: pytest.MonkeyPatch, table: str
    ) -> None:
        """What is older goes, in as many steps as it takes; what is not stays."""
        monkeypatch.setattr(retention, "_ROWS", 3)
        statement, age = AGED[table]
        await fill(database, statement, *(("x" * i, age + 60 + i) for i in range(1, 9)), ("fresh", age - 60))

        await server.service.retention.prune()

        assert await count(database, f"SELECT count(*) FROM {table}") == 1
        assert server.service.counters.rows_pruned[table] == 8
        assert f'seatrial_rows_pruned_total{{table="{table}"}} 8.0' in (await server.get("/metrics")).text

    async def test_actions_that_ended(self, server: RunningServer, database: str) -> None:
        """By when they ended; one whose outcome is still to come is never removed, however old."""
        old, new = 31 * DAY, 29 * DAY
        await fill(
            database, ACTION, ("old", "succeeded", True, old), ("older", "unknown", True, 2 * old),
            ("new", "failed", True, new), ("pending", "pending", False, old), ("sent", "sent", True, old),
        )  # fmt: skip

        await server.service.retention.prune()

        assert sorted(await rows(database, "SELECT action_id FROM action")) == ["new", "pending", "sent"]
        assert server.service.counters.rows_pruned["action"] == 2

    async def test_the_audit_log(self, database: str) -> None:
        """By its own, long age; the row of an action whose outcome is to come stays."""
        old = 3 * 3600
        async with running_server(database, audit_retention_seconds=2 * 3600) as server:
            await fill(
                database, AUDIT, ("old", "denied", old), ("pending", "pending", old), ("sent", "sent", old),
                ("new", "done", 3600),
            )  # fmt: skip

            await server.service.retention.prune()

        assert sorted(await rows(database, "SELECT actor FROM audit")) == ["new", "pending", "sent"]

    async def test_containers_that_are_gone(self, server: RunningServer, database: str) -> None:
        """They go with the window of their samples; those present stay."""
        await fill(database, CONTAINER, (1, "h", 2 * DAY), (2, "h", DAY - 60))
        await fill(database, CONTAINER.replace("now() - make_interval(secs => $3)", "NULLIF($3, 0)::text::timestamptz"),
                   (3, "h", 0))  # fmt: skip

        await server.service.retention.prune()

        assert await rows(database, "SELECT container_id FROM container ORDER BY 1") == [2, 3]
        assert server.service.counters.rows_pruned["container"] == 1

    async def test_a_table_that_fails_keeps_no_other_from_being_pruned(
        self, server: RunningServer, database: str
    ) -> None:
        """The failure is raised once the rest is done."""
        await fill(database, AUDIT, ("old", "done", 500 * DAY))
        await fill(database, HOST, ("old", 100 * DAY))
        await fill(database, "ALTER TABLE action RENAME TO away", ())

        with pytest.raises(asyncpg.UndefinedTableError):
            await server.service.retention.prune()

        assert await count(database, "SELECT (SELECT count(*) FROM audit) + (SELECT count(*) FROM host)") == 0
        await fill(database, "ALTER TABLE away RENAME TO action", ())

    async def test_a_failed_pruning_is_followed_by_the_next(
        self, server: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whatever the database does to one pruning, the next comes in its time."""
        pruner = server.service.retention
        faults = [
            DatabaseDownError("away"),
            asyncpg.DeadlockDetectedError("deadlock"),
            OSError("reset"),
            TimeoutError("late"),
        ]
        reached = asyncio.Event()

        async def prune() -> None:
            if faults:
                raise faults.pop(0)
            reached.set()

        monkeypatch.setattr(pruner, "prune", prune)
        monkeypatch.setattr(pruner, "_interval_seconds", 0.01)
        task = asyncio.create_task(pruner.run())
        try:
            async with asyncio.timeout(5):
                await reached.wait()
        finally:
            task.cancel()

        assert sum(record.getMessage() == "pruning failed" for record in caplog.records) == 4


class TestHosts:
    """Hosts that were not seen for long."""

    async def test_they_go_with_what_is_theirs(self, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Their row, containers and protections, in the database and in memory; those seen since then stay."""
        monkeypatch.setattr(retention, "_HOSTS", 2)
        hosts = [*((f"old-{i}", 91 * DAY + i) for i in range(5)), ("new", 89 * DAY)]
        async with running_server(database):
            pass
        await fill(database, HOST, *hosts)
        await fill(database, PROTECTION, *((host,) for host, _ in hosts))
        present = CONTAINER.replace("now() - make_interval(secs => $3)", "NULL")
        ids = {host: container_id("o", host, "a" * 64) for host, _ in hosts}
        await fill(database, present, *((ids[host], host) for host, _ in hosts))

        async with running_server(database) as server:
            registry, counters = server.service.registry, server.service.counters
            assert registry.records["o", "old-1"].organisation.containers == 6
            await server.service.retention.prune()

            assert set(registry.records) == {("o", "new")}
            assert set(registry.by_container) == {ids["new"]}
            assert registry.records["o", "new"].organisation.containers == 1
            assert [counters.rows_pruned[table] for table in ("host", "container", "protection")] == [5, 5, 5]
        for table in ("host", "container", "protection"):
            assert await rows(database, f"SELECT host FROM {table}") == ["new"]

    async def test_one_that_is_connected_stays(self, server: RunningServer, database: str) -> None:
        """Whatever the database says of when it was seen: memory knows better, connected or just gone."""
        async with server.agent():
            await server.service.directory.write()
            await fill(database, "UPDATE host SET last_seen = now() - interval '100 days'", ())
            await server.service.retention.prune()
            assert await count(database, "SELECT count(*) FROM host") == 1
        await eventually(lambda: server.service.registry.connected == 0)
        await server.service.retention.prune()

        assert await count(database, "SELECT count(*) FROM host") == 1
        assert len(server.service.registry.records) == 1

    async def test_one_that_was_invited_again_may_still_come(self, server: RunningServer, database: str) -> None:
        """While its invitation is good a host stays, however long it was away; others go."""
        await fill(database, HOST, ("invited", 100 * DAY), ("away", 99 * DAY))
        await fill(
            database, "INSERT INTO enrolment (digest, org, host, created_by, expires_at)"
            " VALUES ('x', 'o', 'invited', 'u', now() + interval '1 hour')", (),
        )  # fmt: skip

        await server.service.retention.prune()

        assert await rows(database, "SELECT host FROM host") == ["invited"]

    async def test_one_that_comes_back_begins_anew(self, database: str) -> None:
        """After its removal a host is stored again like one never seen."""
        async with running_server(database):
            pass
        await fill(database, HOST.replace("'o'", "'org-a'"), ("host-1", 100 * DAY))
        async with running_server(database) as server:
            await server.service.retention.prune()
            assert await count(database, "SELECT count(*) FROM host") == 0
            async with server.agent() as agent:
                assert agent.welcome["acked_seq"] == 0
                await agent.batch(1)
                await agent.acked(1)
                assert await server.service.directory.write()
            assert await count(database, "SELECT count(*) FROM host") == 1


async def test_a_table_that_has_the_name_of_a_range_ends_the_start(empty_database: str) -> None:
    """The error names it, and it stays with what is in it."""
    async with running_server(empty_database, storage="partitioned") as server:
        app = create_app(server.settings)
    connection = await asyncpg.connect(empty_database)
    try:
        rows = await connection.fetch(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'container_metric'::regclass"
        )
        for (name,) in rows:
            await connection.execute(f"DROP TABLE {name}; CREATE TABLE {name} AS SELECT 'precious' AS text")
        with pytest.raises(StartupError, match=r"storage: relation .container_metric_.* already exists: .*rename it"):
            async with app.state.service.running():
                pass

        assert {await connection.fetchval(f"SELECT text FROM {name}") for (name,) in rows} == {"precious"}
    finally:
        await connection.close()
