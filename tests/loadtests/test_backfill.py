"""Which histories are refused, and what is left of one that was cut short."""

import shutil
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest
from typer.testing import CliRunner

from loadtests.backfill import Backfill, Wanted, backfilling
from loadtests.backfill_checks import BackfillError, check_database
from loadtests.backfill_cli import _ratio
from loadtests.findings import Findings
from loadtests.verify import Verifier, verify_all
from seatrial import app
from server.db import migrate
from server.db.storage.plain import PlainStorage
from server.db.storage.strategies import STRATEGIES
from server.db.storage.strategies import storage as strategy
from simulator.continuing import read_history
from simulator.errors import PlanError
from simulator.ledger import LedgerError


def wanted(**changes: Any) -> Wanted:
    """Two minutes of two agents."""
    values: dict[str, Any] = {"hours": 1 / 30, "agents": 2, "containers": 2}
    return Wanted(**(values | changes))


@pytest.fixture
def database(empty_database: str) -> str:
    """Here each strategy makes its tables itself."""
    return empty_database


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """To the test's own database."""
    opened = await asyncpg.connect(database)
    yield opened
    await opened.close()


async def write(dsn: str, ledger: Path, **changes: Any) -> Backfill:
    """A whole history."""
    async with backfilling(wanted(**changes), PlainStorage(), dsn, ledger, lambda _: None) as history:
        await history.write_up_to_now()
        await history.finish()
    return history


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hours": 0}, "hours = 0: expected more than 0"),
        ({"hours": -2}, "hours = -2: expected more than 0"),
        ({"hours": float("nan")}, "hours = nan: expected more than 0"),
        ({"hours": 9000}, "hours = 9000: expected more than 0, at most 8760"),
        ({"hours": 0.001, "interval_us": 60_000_000}, "expected one interval"),
        ({"agents": 0}, "agents = 0: expected at least 1"),
        ({"containers": -1}, "containers = -1: expected at least 1"),
        ({"interval_us": 99_999}, "interval = 99.999ms: expected at least 100ms"),
        ({"connections": 0}, "connections = 0: expected at least 1"),
        ({"org": ""}, "org = '': expected 1 to 128 characters"),
    ],
)
def test_what_no_history_can_be_is_refused(changes: dict[str, Any], words: str) -> None:
    """The sentence names the field, the value and what was expected."""
    with pytest.raises(PlanError, match=words):
        wanted(**changes)


async def test_a_second_history_is_refused(database: str, tmp_path: Path) -> None:
    """A database with rows keeps them as they are."""
    await write(database, tmp_path / "first")
    with pytest.raises(BackfillError, match=r"holds rows of host already: expected none"):
        await write(database, tmp_path / "second")

    assert not (tmp_path / "second").exists()


async def test_somebody_elses_database_is_refused(
    database: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """It is left without a table of ours."""
    await connection.execute("CREATE TABLE invoices (id int)")
    with pytest.raises(BackfillError, match=r"holds invoices of somebody else: expected an empty one"):
        await write(database, tmp_path / "ledger")

    assert await connection.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 1


async def test_a_user_without_rights_is_refused(connection: asyncpg.Connection) -> None:
    """Before tables are there, and when they are somebody else's to write."""
    await connection.execute("SET ROLE pg_monitor")
    with pytest.raises(BackfillError, match=r"'pg_monitor' lacks a right: expected CREATE in schema public"):
        await check_database(connection, PlainStorage())
    await connection.execute("RESET ROLE")
    await migrate.apply(connection, PlainStorage())
    await check_database(connection, PlainStorage())
    await connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO pg_monitor")
    await connection.execute("SET ROLE pg_monitor")
    with pytest.raises(BackfillError, match=r"lacks a right: expected SELECT, INSERT and UPDATE on host"):
        await check_database(connection, PlainStorage())


async def test_a_database_with_a_server_is_refused(database: str, tmp_path: Path) -> None:
    """The server would not know of the hosts."""
    server = await asyncpg.connect(database, server_settings={"application_name": "seatrial-lane-0"})
    with pytest.raises(BackfillError, match=r"a server is running on this database: stop it first"):
        await write(database, tmp_path / "ledger")
    await server.close()


async def test_a_small_disk_is_refused_with_the_sum(
    database: str, connection: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows times bytes, and what is free where; nothing is written."""

    class Usage(NamedTuple):
        total: int = 1 << 40
        used: int = 1 << 39
        free: int = 1 << 20

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage())

    async def here(_: object) -> Path:
        return tmp_path

    monkeypatch.setattr("loadtests.backfill_checks._data_directory", here)
    with pytest.raises(
        BackfillError, match=r"disk too small: 480 samples x 130 bytes \+ 240 lines x .* 0\.00 GiB are free"
    ):
        await write(database, tmp_path / "ledger")

    assert await connection.fetchval("SELECT to_regclass('host')") is None


async def test_a_history_that_was_cut_short_tells_what_is_there(
    database: str, connection: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written is verified, what was being written may be there, and the server knows of no host."""
    monkeypatch.setattr("loadtests.history_rows._MOST_TICKS", 40)
    path = tmp_path / "ledger"
    failing = 0

    async def fail(*_: Any) -> None:
        nonlocal failing
        failing += 1
        if failing == 3:
            raise ConnectionResetError

    storage = PlainStorage()
    monkeypatch.setattr(storage, "make_room", fail)
    with pytest.raises(ConnectionResetError):
        async with backfilling(wanted(), storage, database, path, lambda _: None) as history:
            await history.write_up_to_now()
    with Verifier([path], storage, lambda: nullcontext(connection)) as verifier:
        since, _ = await verifier.begin()
        await verifier.verify_through(since, verifier.last_at_us())
        findings: Findings = verifier.findings

    assert findings.clean
    assert findings.acked == findings.verified == history.rows
    assert 0 < history.rows < 2 * 120 * 3
    assert await connection.fetchval("SELECT count(*) FROM host") == 0


@pytest.mark.parametrize("name", STRATEGIES)
async def test_a_history_of_any_strategy_lists_all_its_containers(
    database: str, connection: asyncpg.Connection, tmp_path: Path, name: str
) -> None:
    """Re-created ones included: those that are gone are marked so, and every row is as a fleet would have sent it."""
    storage, path = strategy(name), tmp_path / "ledger"
    shape = wanted(
        hours=0.5, containers=3, interval_us=10_000_000, churn_per_hour=20, profiles={"web": 1, "leaking": 1}
    )
    async with backfilling(shape, storage, database, path, lambda _: None) as history:
        await history.write_up_to_now()
        await history.finish()
    findings = await verify_all([path], storage, connection)
    known = await connection.fetch("SELECT container_id, removed_at FROM container")
    seen = await connection.fetch("SELECT DISTINCT container_id FROM container_metric")

    assert findings.clean, findings.examples
    assert findings.verified == history.rows
    assert {row["container_id"] for row in seen} <= {row["container_id"] for row in known}
    assert sum(row["removed_at"] is None for row in known) == 2 * 3
    assert len(known) > 2 * 3 + 5


async def test_a_fleet_is_not_verified_without_its_history(database: str, tmp_path: Path) -> None:
    """Half of the rows would be foreign: the other ledger is asked for."""
    history = await write(database, tmp_path / "history")
    known = read_history(tmp_path / "history", now_us=history.until_us, spool_us=1)
    (tmp_path / "fleet").write_bytes(
        (tmp_path / "history").read_bytes().splitlines(keepends=True)[0]
        .replace(b'"backfilled":true', b'"backfilled":false')
        .replace(b'"continues_us":null', b'"continues_us":%d' % known.until_us)
    )  # fmt: skip
    with (
        Verifier([tmp_path / "fleet"], PlainStorage(), lambda: nullcontext(None)) as verifier,  # type: ignore[arg-type]
        pytest.raises(LedgerError, match=r"continues a history: expected the ledger of its backfill too"),
    ):
        await verifier.begin()


async def test_only_a_history_is_continued(database: str, tmp_path: Path) -> None:
    """Another fleet's ledger, one of long ago, none at all, and a fleet of another shape are refused."""
    history = await write(database, tmp_path / "history")
    with pytest.raises(PlanError, match=r"continue = .*: expected a history that ended at most 1 s ago"):
        read_history(tmp_path / "history", now_us=history.until_us + 2_000_000, spool_us=1_000_000)
    with pytest.raises(PlanError, match=r"expected the ledger of a backfill"):
        read_history(tmp_path / "nothing", now_us=0, spool_us=1)
    known = read_history(tmp_path / "history", now_us=history.until_us, spool_us=1)
    with pytest.raises(PlanError, match=r"agents = 3: expected 2, as in the history that is continued"):
        known.plan_fields({"agents": 3})
    fleets = tmp_path / "fleets"
    fleets.write_bytes((tmp_path / "history").read_bytes().replace(b'"backfilled":true', b'"backfilled":false'))
    with pytest.raises(PlanError, match=r"expected the ledger of a backfill, not that of a fleet"):
        read_history(fleets, now_us=0, spool_us=1)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--hours", "0"], 2, "hours = 0: expected more than 0"),
        (["--hours", "1", "--interval", "fast"], 2, "interval = fast: expected a number with a unit"),
        (["--hours", "1", "--storage", "paper"], 2, "storage = 'paper': expected one of"),
        (["--hours", "1", "--ledger", "/nowhere/ledger"], 2, "ledger = /nowhere/ledger: expected a file"),
        (["--hours", "1", "--database-url", "postgresql://127.0.0.1:1/x"], 3, "database: "),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    """Wrong usage is 2, a database that cannot be had 3."""
    given = ["--database-url", "postgresql://127.0.0.1:1/x", "--ledger", str(tmp_path / "ledger"), *arguments]
    done = CliRunner().invoke(app, ["backfill", *given])

    assert done.exit_code == code
    assert words in done.output


@pytest.mark.parametrize(("connections", "words"), [(2, "2 connections"), (1, "one connection")])
def test_the_ratio_to_raw_copy_names_the_connections_of_both(connections: int, words: str) -> None:
    """Two connections beside one are no share of a limit, and nobody shall read it so."""
    assert _ratio(510.0, 500.0, connections) == f"backfill : raw COPY = 1.02 (backfill with {words}, raw COPY with one)"
