"""Faults, each proven to have happened, and after each a clean ledger: nothing lost, nothing twice, every loss declared."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from loadtests.children import Child, python
from loadtests.proxy import Proxy
from loadtests.scrape import get
from loadtests.stage import ARM, outer_environment
from loadtests.verify import verify_all
from server.db.embedded import free_port, temporary
from server.db.storage.plain import PlainStorage
from simulator.fleet import Fleet
from simulator.plan import Plan
from tests.support.command import ROOT, outcome, start
from tests.support.server import SECRET, eventually, now_us, running_server

AGENTS, CONTAINERS, LOG_LINES = 20, 3, 2
ROWS = CONTAINERS + LOG_LINES
"""Of a batch."""
ROWS_STORED = "(SELECT count(*) FROM container_metric) + (SELECT count(*) FROM container_log)"


class RunningFleet:
    """Agents that send ten times a second until `finish`."""

    def __init__(self, ws: str, ledger: Path, **changes: Any) -> None:
        options: dict[str, Any] = {
            "url": f"{ws}/ws/agent", "secret": SECRET, "org": "org-a", "agents": AGENTS, "containers": CONTAINERS,
            "log_lines": LOG_LINES, "interval_us": 100_000, "ramp_us": 200_000,
        }  # fmt: skip
        self._stop = asyncio.Event()
        # Short pauses before a redial, the same for all: they come back as one.
        self.fleet = Fleet(Plan(**(options | changes)), ledger, chance=lambda: 0.1)
        self.counts = self.fleet.counts
        self._running = asyncio.create_task(self.fleet.run(self._stop))

    @property
    def connected(self) -> int:
        """Agents that the server has welcomed."""
        return sum(agent.connected for agent in self.fleet.agents)

    async def all_connected(self) -> None:
        """Wait until every agent is."""
        await eventually(lambda: self.connected == AGENTS, "every agent's welcome")

    async def acked(self, batches: int) -> None:
        """Wait until so many more batches are acknowledged."""
        before = self.counts.batches_acked
        await eventually(lambda: self.counts.batches_acked >= before + batches, f"{batches} more acks")

    async def finish(self) -> None:
        """Stop it: it waits for what is still to be acknowledged, and leaves. Idempotent."""
        self._stop.set()
        async with asyncio.timeout(60):
            await self._running


@asynccontextmanager
async def running_fleet(ws: str, ledger: Path, **changes: Any) -> AsyncIterator[RunningFleet]:
    """A fleet, stopped at the end."""
    running = RunningFleet(ws, ledger, **changes)
    try:
        yield running
    finally:
        await running.finish()


async def ask(dsn: str, query: str) -> Any:
    """The first value of a query."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def assert_whole(dsn: str, ledger: Path, running: RunningFleet) -> None:
    """Every batch was acked or declared lost, and what is stored is what was sent, once."""
    connection = await asyncpg.connect(dsn)
    try:
        findings = await verify_all([ledger], PlainStorage(), connection)
    finally:
        await connection.close()
    counts = running.counts
    assert dict(findings.counts) == {}, findings.examples
    assert counts.batches_produced == counts.batches_acked + counts.batches_dropped
    assert findings.verified == findings.acked
    # A stack trace has more lines than one, and now and then a container writes a burst.
    assert findings.acked >= counts.batches_acked * ROWS
    if not counts.batches_dropped:
        assert findings.acked == counts.metrics_produced + counts.logs_produced
    assert findings.unverified == 0


# ---------------------------------------------------------------- the server


@pytest.mark.parametrize("seam", ["before_commit", "after_commit"])
async def test_a_server_killed_within_a_flush(database: str, tmp_path: Path, seam: str) -> None:
    """Kill -9 just before COMMIT, or between COMMIT and ack: agents resend, and only the second finds its rows stored."""
    port, ledger = free_port(), tmp_path / "ledger.jsonl"
    environment = outer_environment() | {
        "PYTHONPATH": str(ROOT), "SEATRIAL_DATABASE_URL": database, "SEATRIAL_JWT_SECRET": SECRET,
        "SEATRIAL_PORT": str(port), "SEATRIAL_LANES": "1",
    }  # fmt: skip
    dying = Child("server", python("loadtests.dying_server", seam), environment, tmp_path / "server.log")
    await dying.start()
    try:

        async def ready() -> bool:
            return not dying.running or await get(f"http://127.0.0.1:{port}/readyz") is not None

        await eventually(ready, "the server")
        async with running_fleet(f"ws://127.0.0.1:{port}", ledger) as fleet:
            await fleet.acked(AGENTS)
            dying.send(ARM)
            async with asyncio.timeout(30):
                assert await dying.wait() == -signal.SIGKILL, dying.tail()
            await eventually(lambda: not fleet.connected, "the cut")
            stored = await ask(database, f"SELECT {ROWS_STORED}")
            unacked = stored - fleet.counts.batches_acked * ROWS
            async with running_server(database, port=port) as server:
                await fleet.all_connected()
                await fleet.acked(5 * AGENTS)
                await fleet.finish()
                replayed = server.service.counters.rows_replayed
    finally:
        await dying.kill()

    assert fleet.counts.batches_resent > 0
    assert replayed == unacked
    assert (unacked > 0) == (seam == "after_commit")
    await assert_whole(database, ledger, fleet)


async def test_agents_cut_before_the_commit_send_again_what_still_waits(database: str, tmp_path: Path) -> None:
    """All connections are reset while a flush stands still: what comes again is known by its number, and stored once."""
    ledger = tmp_path / "ledger.jsonl"
    going = asyncio.Event()
    going.set()

    async def stand_still(name: str) -> None:
        if name == "before_commit":
            await going.wait()

    async with running_server(database, stand_still, lanes=1) as server, Proxy(server.server.port) as proxy:
        async with running_fleet(f"ws://127.0.0.1:{proxy.port}", ledger) as fleet:
            await fleet.all_connected()
            await fleet.acked(AGENTS)
            going.clear()
            sent = fleet.counts.batches_sent
            await eventually(lambda: fleet.counts.batches_sent > sent + 5 * AGENTS, "batches that wait")
            assert proxy.reset(1.0) == AGENTS
            await eventually(lambda: fleet.counts.welcomes == 2 * AGENTS, "the return")
            await eventually(lambda: fleet.counts.batches_resent > AGENTS, "batches sent again")
            going.set()
            await fleet.acked(5 * AGENTS)
        counters = server.service.counters

    assert fleet.counts.closes[1006] == proxy.resets == AGENTS
    # What had not reached the server when it was cut comes again as new.
    assert AGENTS < counters.batches_replayed <= fleet.counts.batches_resent
    assert counters.batches_accepted == fleet.counts.batches_produced
    assert counters.rows_replayed == 0
    await assert_whole(database, ledger, fleet)


# ---------------------------------------------------------------- the network


async def test_random_resets(database: str, tmp_path: Path) -> None:
    """A third of all connections is reset, four times: each comes back with what it has, and nothing is lost or doubled."""
    ledger = tmp_path / "ledger.jsonl"
    async with running_server(database) as server, Proxy(server.server.port, seed=7) as proxy:
        async with running_fleet(f"ws://127.0.0.1:{proxy.port}", ledger) as fleet:
            await fleet.all_connected()
            for _ in range(4):
                await fleet.acked(2 * AGENTS)
                proxy.reset(1 / 3)
                await eventually(lambda: fleet.counts.welcomes == AGENTS + proxy.resets, "the return")
            await fleet.acked(2 * AGENTS)
        counters = server.service.counters

    assert fleet.counts.closes[1006] == proxy.resets == 4 * 7
    assert fleet.counts.welcomes == AGENTS + proxy.resets
    assert counters.batches_accepted == fleet.counts.batches_produced
    await assert_whole(database, ledger, fleet)


async def test_withheld_acks_fill_the_window_and_pulses_go_on(database: str, tmp_path: Path) -> None:
    """Nothing of the server arrives: agents stop at their window, pulse, stay connected, and send on once it does."""
    ledger = tmp_path / "ledger.jsonl"
    async with running_server(database, window_batches=4) as server, Proxy(server.server.port) as proxy:
        async with running_fleet(f"ws://127.0.0.1:{proxy.port}", ledger) as fleet, server.live() as browser:
            await fleet.all_connected()
            await fleet.acked(AGENTS)
            await browser.send({"type": "subscribe", "topics": ["host:host-00001"]})
            await browser.until("snapshot")
            proxy.withhold()
            await eventually(lambda: fleet.counts.pulses >= AGENTS, "full windows")
            acked, since = fleet.counts.batches_acked, now_us()
            await eventually(lambda: fleet.counts.pulses >= 10 * AGENTS, "pulses")
            fresh = await browser.until("metrics", lambda message: message["samples"][0]["at"] > since)
            assert fleet.counts.batches_acked == acked
            assert server.service.counters.metric_rows_stored > acked * CONTAINERS
            assert fleet.connected == AGENTS
            proxy.release()
            await fleet.acked(10 * AGENTS)
        counters = server.service.counters

    assert proxy.withheld_bytes > 0
    assert len(fresh["samples"]) == CONTAINERS
    assert fleet.counts.batches_resent == fleet.counts.batches_dropped == 0
    assert set(fleet.counts.closes) == {1000}
    assert counters.batches_accepted == fleet.counts.batches_produced
    await assert_whole(database, ledger, fleet)


# ---------------------------------------------------------------- the database


async def test_a_database_that_stands_still(tmp_path: Path) -> None:
    """SIGSTOP of Postgres: not ready, nobody closed, live by pulses; what spools drop is declared, the rest is stored."""
    ledger = tmp_path / "ledger.jsonl"
    context = temporary(settings={"max_connections": "30"})
    postgres = await asyncio.to_thread(context.__enter__)
    try:
        async with running_server(postgres.dsn, window_batches=4) as server:
            async with running_fleet(server.ws, ledger, spool_us=1_000_000) as fleet, server.live() as browser:
                await fleet.all_connected()
                await fleet.acked(AGENTS)
                await browser.send({"type": "subscribe", "topics": ["host:host-00001"]})
                await browser.until("snapshot")
                await asyncio.to_thread(postgres.pause)
                async with asyncio.timeout(4):  # a probe does not wait longer
                    assert (await server.get("/readyz")).status_code == 503
                await eventually(lambda: fleet.counts.batches_dropped > 5 * AGENTS, "full spools")
                since = now_us()
                fresh = await browser.until("metrics", lambda message: message["samples"][0]["at"] > since)
                assert fleet.connected == AGENTS
                await asyncio.to_thread(postgres.resume)
                await fleet.acked(10 * AGENTS)
                assert (await server.get("/readyz")).status_code == 200
            counters = server.service.counters
        await assert_whole(postgres.dsn, ledger, fleet)
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)

    assert len(fresh["samples"]) == CONTAINERS
    assert fleet.counts.pulses > 0
    assert set(fleet.counts.closes) == {1000}
    assert counters.batches_declared_dropped > 0
    assert counters.batches_accepted + counters.batches_declared_dropped == fleet.counts.batches_produced


# ---------------------------------------------------------------- whole runs of the scenarios that we ship


async def run(
    tmp_path: Path, name: str, changes: Sequence[tuple[str, str]], *settings: str, database_url: str | None = None
) -> dict[str, Any]:
    """Run a shipped scenario with 30 agents and the changes that make it short; it must pass.

    Args:
        tmp_path: where it runs.
        name: of the scenario.
        changes: parts of its text, each there once, and what takes their place.
        settings: overrides.
        database_url: a Postgres that it may use; None: it starts its own.

    Returns:
        Its result.
    """
    text = (ROOT / "scenarios" / f"{name}.toml").read_text()
    for before, after in changes:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    path = tmp_path / f"{name}.toml"
    path.write_text(text)
    small = ("fleet.agents=30", "fleet.containers=2", "fleet.interval=1s", "fleet.ramp=1s", *settings)
    arguments = [argument for setting in small for argument in ("--set", setting)]
    if database_url is not None:
        arguments += ["--database-url", database_url]
    code, out, err = await outcome(await start("run", str(path), *arguments, cwd=tmp_path))
    assert code == 0, out + err
    found: dict[str, Any] = json.loads((tmp_path / "runs" / "latest" / "result.json").read_text())
    return found


NOBODY_WATCHES = ("subscribers = 20\nspawn_rate = 5", "subscribers = 0")


async def test_a_run_survives_an_outage_of_its_database(tmp_path: Path) -> None:
    """Postgres stands still, then is killed: the runner connects again, verifies all, and fills no gap of its series."""
    made = await run(
        tmp_path,
        "database-outage",
        [
            ('duration = "130s"', 'duration = "15s"'),
            ("subscribers = 20", "subscribers = 4"),
            ('at = "20s"', 'at = "3s"'),
            ('for = "20s"', 'for = "4s"'),
            ('at = "80s"', 'at = "9s"'),
            ('for = "5s"', 'for = "2s"'),
        ],
        "server.env.SEATRIAL_WINDOW_BATCHES=2",
        "thresholds.server_unready_s.value=> 3",
        "thresholds.ack_latency_ms.max=> 3000",
        "thresholds.ack_latency_ms.p50=none",
    )

    assert [fault["kind"] for fault in made["faults"]] == ["postgres_stop", "postgres_kill"]
    points = [at for at, _ in made["metrics"]["table_bytes"]["points"]]
    for fault, least_us in zip(made["faults"], (4_000_000, 2_000_000), strict=True):
        begun, ended = fault["at_us"], fault["ended_at_us"]
        assert ended - begun >= least_us
        # A look that began before it may end up to 2 s into it; Postgres may answer before its start has told us.
        assert [at for at in points if begun + 2_100_000 < at < begun + least_us] == []
        assert [at for at in points if at > ended] != []


async def test_a_rolling_restart(tmp_path: Path, postgres_dsn: str) -> None:
    """SIGTERM at full load: exit code 0, everybody closed and back, and nothing that was stored comes again."""
    made = await run(
        tmp_path,
        "rolling-restart",
        [
            ('duration = "75s"', 'duration = "12s"'),
            NOBODY_WATCHES,
            ('live_latency_ms.p99 = "< 20000"\n', ""),
            ('at = "25s"', 'at = "3s"'),
        ],
        "thresholds.connections_lost.count=>= 30",
        database_url=postgres_dsn,
    )

    assert [fault["kind"] for fault in made["faults"]] == ["server_term"]
    assert "exit code 0" in made["faults"][0]["detail"]


async def test_a_reconnect_storm(tmp_path: Path, postgres_dsn: str) -> None:
    """All connections are cut at once: the server refuses those that come too fast, and the return is as slow as its pace."""
    agents, per_second = 60, 10
    made = await run(
        tmp_path,
        "reconnect-storm",
        [('duration = "180s"', 'duration = "22s"'), ('at = "90s"', 'at = "8s"')],
        f"fleet.agents={agents}",
        "fleet.ramp=7s",
        f"server.env.SEATRIAL_RECONNECTS_PER_SECOND={per_second}",
        "thresholds.resends.count=>= 0",  # whether a batch was on its way just then is chance with so few
        # The pace, its burst of a fifth, and half a second more that a late look may count; their back-off alone made it 0.59.
        f"thresholds.reconnect_peak_share.max=<= {1.7 * per_second / agents}",
        database_url=postgres_dsn,
    )
    back = made["metrics"]["reconnect_99_s"]["statistics"]

    assert made["metrics"]["handshakes_refused"]["statistics"]["count"] > 0
    assert back["min"] == back["max"] >= (agents - 1) / (1.2 * per_second)


async def test_a_bad_network(tmp_path: Path, postgres_dsn: str) -> None:
    """Through the proxy: acks withheld, then resets."""
    made = await run(
        tmp_path,
        "bad-network",
        [
            ('duration = "85s"', 'duration = "14s"'),
            NOBODY_WATCHES,
            ('live_latency_ms.p50 = "< 2000"\nlive_latency_ms.p99 = "< 15000"\n', ""),
            ('at = "20s"', 'at = "2s"'),
            ('for = "10s"', 'for = "4s"'),
            ('at = "40s"', 'at = "7s"'),
            ('at = "52s"', 'at = "8s"'),
            ('at = "64s"', 'at = "9s"'),
        ],
        "server.env.SEATRIAL_WINDOW_BATCHES=2",
        "thresholds.connection_resets.count=>= 30",
        "thresholds.ack_latency_ms.max=> 3000",
        "thresholds.ack_latency_ms.p50=none",
        database_url=postgres_dsn,
    )

    assert [fault["kind"] for fault in made["faults"]] == ["acks_withheld", "resets", "resets", "resets"]


async def test_a_foreign_postgres_is_not_broken(tmp_path: Path) -> None:
    """A fault of Postgres on a server that is not the run's own is refused before anything starts."""
    path = ROOT / "scenarios" / "database-outage.toml"
    code, out, err = await outcome(
        await start("run", str(path), "--database-url", "postgresql://x:y@127.0.0.1:1/none", cwd=tmp_path)
    )

    assert code == 2
    assert 'fault.kind = "postgres_stop": breaks the whole Postgres' in err
    assert 'fault.kind = "postgres_kill"' in err
    assert out == ""
    assert not (tmp_path / "runs").exists()
