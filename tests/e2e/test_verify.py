"""A real fleet, a real server, and a verifier that finds whatever was done to the rows in between."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from loadtests.findings import Findings
from loadtests.verify import verify_all
from server.db.storage.plain import PlainStorage
from simulator.fault_option import parse_faults
from simulator.fleet import Fleet
from simulator.plan import Plan
from tests.support.server import SECRET, RunningServer, running_server

AGENTS, CONTAINERS, LOG_LINES = 10, 3, 2


def plan(server: RunningServer, **changes: object) -> Plan:
    """A small fleet that sends ten times a second for two seconds."""
    options: dict[str, object] = {
        "url": f"{server.ws}/ws/agent", "secret": SECRET, "org": "org-a", "agents": AGENTS, "containers": CONTAINERS,
        "log_lines": LOG_LINES, "interval_us": 100_000, "duration_us": 2_000_000, "ramp_us": 200_000,
    }  # fmt: skip
    return Plan(**(options | changes))  # type: ignore[arg-type]


async def fleet_run(server: RunningServer, ledger: Path, **changes: object) -> Fleet:
    """Run a fleet to its end."""
    fleet = Fleet(plan(server, **changes), ledger)
    await asyncio.wait_for(fleet.run(asyncio.Event()), 60)
    return fleet


async def verified(dsn: str, ledger: Path) -> Findings:
    """Compare everything."""
    connection = await asyncpg.connect(dsn)
    try:
        return await verify_all([ledger], PlainStorage(), connection)
    finally:
        await connection.close()


async def execute(dsn: str, *statements: str) -> None:
    """Do something to the rows behind everybody's back."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            assert await connection.execute(statement) not in {"DELETE 0", "UPDATE 0", "INSERT 0 0"}
    finally:
        await connection.close()


ANY_ROW = (
    "(container_id, timestamp) = (SELECT container_id, timestamp FROM {} ORDER BY timestamp, container_id LIMIT 1)"
)
METRIC = ANY_ROW.format("container_metric")
# With the line: several may have the same time.
LOG = (
    "(container_id, timestamp, line) = (SELECT container_id, timestamp, line FROM container_log"
    " ORDER BY timestamp, container_id, line LIMIT 1)"
)
INVENT = (
    "INSERT INTO container_log SELECT container_id, timestamp, 99, stream, partial, truncated, text FROM container_log"
    f" WHERE {LOG}"
)


async def test_an_honest_run_is_clean(database: str, tmp_path: Path) -> None:
    """Every acknowledged sample and line is stored with the values that were sent, and nothing else is."""
    ledger = tmp_path / "ledger.jsonl"
    async with running_server(database) as server:
        fleet = await fleet_run(server, ledger)
    findings = await verified(database, ledger)

    assert findings.clean
    assert findings.examples == []
    assert findings.verified == findings.acked == findings.stored
    assert findings.acked == fleet.counts.metrics_produced + fleet.counts.logs_produced > 500
    assert findings.verified_fraction == 1.0


FRAMES = (
    "malformed_frames:at=500ms,frames=2", "duplicate_identity:at=1s", "cloned_epoch:at=1s",
    "oversized_frames:at=1.5s,fraction=0.3", "frame_flood:at=2s,frames=300,fraction=0.3",
    "window_flood:at=2.4s,frames=300,fraction=0.3",
)  # fmt: skip
CONNECTIONS = (
    "disconnect:at=500ms", "half_open:at=1.5s,for=500ms", "slow_link:at=2.5s,for=500ms,latency=100ms",
    "unread_acks:at=3.5s,for=500ms", "reconnect_storm:at=4.5s,for=1.2s,fraction=0.5", "token_expiry:at=7.5s,for=1s",
)  # fmt: skip
CLOCKS = (
    "clock_skew:at=500ms,for=700ms,skew=1s,fraction=0.5", "clock_skew:at=1.5s,for=500ms,skew=-1s,fraction=0.5",
    "clock_skew:at=2.5s,for=500ms,skew=90s,fraction=0.3", "disconnect:at=2.8s,fraction=0.5",
)  # fmt: skip


@pytest.mark.parametrize(
    ("faults", "seconds"), [(FRAMES, 4), (CONNECTIONS, 14), (CLOCKS, 4)], ids=["frames", "connections", "clocks"]
)
async def test_a_fleet_that_misbehaves_leaves_a_true_ledger(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: tuple[str, ...], seconds: int
) -> None:
    """Under each fault of the fleet, and all of them happen, what is stored is what the ledger says, row by row."""
    monkeypatch.setattr("simulator.agent.TAKEOVER_SECONDS", 0.0)
    ledger = tmp_path / "ledger.jsonl"
    planned = parse_faults(faults, seconds, AGENTS)
    async with running_server(database) as server:
        fleet = await fleet_run(server, ledger, duration_us=seconds * 1_000_000, faults=planned)
        counted = {fault.fault.kind: dict(fault.counts) for fault in fleet.faults.faults}
    findings = await verified(database, ledger)

    assert fleet.faults.missed() == []
    assert findings.examples == []
    assert findings.clean
    assert findings.verified == findings.acked > 300
    assert findings.stored >= findings.acked
    if faults is FRAMES:
        assert counted["duplicate_identity"] == {"dialled": 5, "refused": 5}
        assert counted["cloned_epoch"] == {"dialled": 5, "refused": 5}
        # A close frame may be overtaken by the reset of a connection on which a megabyte lay unread.
        assert counted["oversized_frames"]["frames"] == 3
        assert counted["window_flood"]["closed"] > 0
        assert fleet.counts.errors["bad_request"] >= 10
    if faults is CLOCKS:
        assert fleet.counts.rejected["in_future"] > 0
        assert fleet.counts.rejected["not_rising"] > 0


@pytest.mark.parametrize(
    ("kind", "table", "words", "statements"),
    [
        ("missing", "container_metric", "acknowledged, not stored", [f"DELETE FROM container_metric WHERE {METRIC}"]),
        ("missing", "container_log", "acknowledged, not stored", [f"DELETE FROM container_log WHERE {LOG}"]),
        (
            "foreign", "container_metric", "stored twice",
            [
                "ALTER TABLE container_metric DROP CONSTRAINT container_metric_pkey",
                f"INSERT INTO container_metric SELECT * FROM container_metric WHERE {METRIC}",
            ],
        ),
        (
            "foreign", "container_log", "nobody sent it",
            [INVENT],
        ),
        (
            "altered", "container_metric", "memory_bytes",
            [f"UPDATE container_metric SET memory_bytes = memory_bytes + 1 WHERE {METRIC}"],
        ),
        (
            "altered", "container_metric", "cpu",
            [f"UPDATE container_metric SET cpu_percent = coalesce(cpu_percent, 0) + 0.01 WHERE {METRIC}"],
        ),
        ("altered", "container_log", "text", [f"UPDATE container_log SET text = text || ' ' WHERE {LOG}"]),
    ],
    ids=["deleted sample", "deleted line", "doubled", "invented", "altered memory", "altered cpu", "altered text"],
)  # fmt: skip
async def test_a_cheated_row_is_caught_and_named(
    database: str, tmp_path: Path, kind: str, table: str, words: str, statements: list[str]
) -> None:
    """One row deleted, doubled, invented or altered is one finding, of its kind, in its table."""
    ledger = tmp_path / "ledger.jsonl"
    async with running_server(database) as server:
        await fleet_run(server, ledger, agents=3, duration_us=800_000)
    await execute(database, *statements)
    findings = await verified(database, ledger)

    assert dict(findings.counts) == {kind: 1}
    assert [(found.kind, found.table) for found in findings.examples] == [(kind, table)]
    assert words.replace("memory_bytes", "mem") in findings.examples[0].row


async def test_a_row_moved_to_another_tenant_is_caught_twice(database: str, tmp_path: Path) -> None:
    """A row under another organisation's container is missing in its place and foreign in the other, which is named."""
    ledger = tmp_path / "ledger.jsonl"
    async with running_server(database) as server:
        async with server.agent(host="victim", org="org-b"):
            await server.service.directory.write()
        await fleet_run(server, ledger, agents=3, duration_us=800_000)
    await execute(
        database,
        "UPDATE container_metric SET container_id = (SELECT container_id FROM container WHERE org = 'org-b')"
        f" WHERE {METRIC}",
    )
    findings = await verified(database, ledger)

    assert dict(findings.counts) == {"missing": 1, "foreign": 1}
    foreign = next(found for found in findings.examples if found.kind == "foreign")
    assert "'victim' of organisation 'org-b'" in foreign.row


async def test_a_killed_connection_between_commit_and_ack_leaves_a_clean_ledger(database: str, tmp_path: Path) -> None:
    """Every agent's socket is cut right after a COMMIT, before its ack: they resend, and the ledger is clean."""
    ledger = tmp_path / "ledger.jsonl"
    commits = 0
    running: list[RunningServer] = []

    async def sever(name: str) -> None:
        nonlocal commits
        if name == "after_commit":
            commits += 1
            if commits == 5:
                for record in running[0].service.registry.records.values():
                    if record.session is not None:
                        record.session.socket.abort()  # type: ignore[attr-defined]

    async with running_server(database, sever, lanes=1) as server:
        running.append(server)
        fleet = await fleet_run(server, ledger, duration_us=5_000_000)
        replayed = server.service.counters.batches_replayed
    findings = await verified(database, ledger)

    assert fleet.counts.closes[1006] >= AGENTS
    assert fleet.counts.batches_resent + replayed > 0 or fleet.counts.welcomes >= 2 * AGENTS
    assert findings.clean
    assert findings.acked == fleet.counts.metrics_produced + fleet.counts.logs_produced


async def test_unstored_rows_that_were_acked_are_missing(database: str, tmp_path: Path) -> None:
    """A server that acknowledges before it commits is found out: the verifier proves the promise, not itself."""
    ledger = tmp_path / "ledger.jsonl"
    async with running_server(database, lanes=1) as server:
        lane = server.service.lanes[0]
        honest = lane._flush

        async def lie(batches: list[object], *, merge_all: bool) -> None:
            await honest(batches[:-1], merge_all=merge_all)  # type: ignore[arg-type]

        lane._flush = lie  # type: ignore[method-assign,assignment]
        await fleet_run(server, ledger, agents=3, duration_us=800_000)
    findings = await verified(database, ledger)

    assert findings.counts["missing"] > 0
    assert not findings.clean
