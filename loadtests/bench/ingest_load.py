"""One load of `bench ingest`: a fleet streams into a fresh database; then raw COPY of what is stored, and the ledger."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from loadtests.bench import connections, raw_copy
from loadtests.bench.plan import plan
from loadtests.bench.usage import Component, Moment, postgres_component
from loadtests.findings import Findings
from loadtests.fingerprint import Postgres
from loadtests.fleet_process import LEDGER, make_fleet, read_report
from loadtests.measure import Latency
from loadtests.scrape import Sample, scrape
from loadtests.stage import ServerUnderTest, database, fingerprint
from loadtests.verify import verify_all
from server.db.storage.strategies import storage as strategy
from simulator.scenario import Scenario
from simulator.tokens import agent_token

RAW_ROWS = 2_000_000

SETTLE_SECONDS = 5
"""After the ramp: what gathered while agents connected is stored; then everything is measured."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured. Times in seconds."""

    agents: int = 10_000
    containers: int = 10
    log_lines: int = 1
    seconds: int = 60
    ramp_seconds: float = 20.0
    resting: int = 1_000
    """Connections that rest while their memory is measured."""
    seed: int = 1
    storage: str = "plain"
    database_url: str | None = None
    postgres: Mapping[str, str] = field(default_factory=dict)
    """Settings of the private Postgres."""
    server: Mapping[str, str] = field(default_factory=dict)
    """Variables of the server beside those that the benchmark needs; they win over them."""
    pins: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class Load:
    """What one load on a fresh database showed."""

    seconds: float = 0.0
    rows: float = 0.0
    batches: float = 0.0
    frames_bytes: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    ack: Latency = field(default_factory=Latency)
    wal_bytes: float = 0.0
    disk_bytes: float = 0.0
    stored_rows: float = 0.0
    server_rss_bytes: int = 0
    bare_rss_bytes: float | None = None
    labelled_rss_bytes: float | None = None
    findings: Findings = field(default_factory=Findings)
    raw: raw_copy.RawCopy | None = None
    postgres: Postgres | None = None
    generator: list[str] = field(default_factory=list)
    """Why the fleet, not the server, may have been the bottleneck."""
    failures: list[str] = field(default_factory=list)
    """Why an ack was no promise, or which rows were lost."""

    @property
    def rows_per_second(self) -> float:
        """Rows committed in the steady part."""
        return self.rows / self.seconds if self.seconds else 0.0


async def load_once(options: Options, directory: Path, *, memory: bool) -> Load:
    """One load on a fresh database, raw COPY of its rows, and its ledger verified.

    Args:
        options: what is measured.
        directory: gets ledger, report and logs.
        memory: with the memory of connections, before the load.

    Raises:
        StageError, ChildError: the environment could not be set up.
    """
    load = Load()
    storage = strategy(options.storage)
    scenario = _scenario(options)
    async with AsyncExitStack() as stack:
        dsn, _ = await stack.enter_async_context(
            database(options.database_url, directory / "postgres.log", settings=options.postgres)
        )
        server = ServerUnderTest(scenario, dsn, directory)
        stack.push_async_callback(server.child.stop)
        await server.start()
        looking, second = [await asyncpg.connect(dsn, timeout=10, command_timeout=600) for _ in range(2)]
        stack.callback(looking.terminate)
        stack.callback(second.terminate)
        load.postgres = await fingerprint(looking)
        load.failures += load.postgres.weaknesses()
        components = [Component("server", server.child.pid)]
        if (postgres := await postgres_component(looking)) is not None:
            components.append(postgres)
        if memory:
            base = components[0].rss_bytes()
            load.bare_rss_bytes = await _memory(options, server, components[0], base, 0)
            load.labelled_rss_bytes = await _memory(options, server, components[0], base, options.containers)
        fleet = make_fleet(scenario, server, directory, warm_up_seconds=options.ramp_seconds + SETTLE_SECONDS)
        stack.push_async_callback(fleet.stop)
        await fleet.start()
        components.append(Component("fleet", fleet.pid))
        for component in components:
            if component.name in options.pins:
                component.pin(options.pins[component.name])
        await _steady(options, load, server, components, looking)
        if await fleet.wait() not in {0, 12}:
            raise fleet.failure(f"ended with exit code {fleet.exit_code}")
        _read_report(load, directory)
        await server.child.stop()
        sizes = await storage.sizes(looking)
        load.disk_bytes = sum(size.table_bytes + size.index_bytes for size in sizes)
        load.stored_rows = float(sum(size.inserted_rows for size in sizes))
        load.raw = await raw_copy.measure(looking, second, storage, most_rows=RAW_ROWS)
        load.findings = await verify_all([directory / LEDGER], storage, looking)
        load.failures += _ledger_failures(load.findings)
    return load


def _ledger_failures(findings: Findings) -> list[str]:
    """Why rows/s are not those of a pipeline that keeps everything; empty: every acked row is stored, and no other."""
    if findings.clean and findings.verified_fraction == 1.0:
        return []
    return [f"the ledger is not clean: {dict(findings.counts)}, {findings.verified_fraction:.4g} of it verified"]


async def _steady(
    options: Options, load: Load, server: ServerUnderTest, components: list[Component], connection: asyncpg.Connection
) -> None:
    """Measure from the end of the ramp to a second before the fleet leaves."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await asyncio.sleep(options.ramp_seconds + SETTLE_SECONDS)
    before, first, wal = await _counters(server), Moment.now(components), await _wal(connection)
    await asyncio.sleep(max(1.0, begun + options.ramp_seconds + options.seconds - loop.time()))
    after, last = await _counters(server), Moment.now(components)
    load.server_rss_bytes = components[0].rss_bytes()
    load.wal_bytes = await _wal(connection) - wal
    load.seconds = last.at - first.at
    load.cpu = last.since(first)
    names = ("seatrial_metric_rows_stored_total", "seatrial_log_rows_stored_total")
    load.rows = sum(_value(after, name) - _value(before, name) for name in names)
    load.batches = _value(after, "seatrial_batches_accepted_total") - _value(before, "seatrial_batches_accepted_total")


async def _counters(server: ServerUnderTest) -> Sample:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = await scrape(f"{server.http}/metrics")
        if found is not None:
            return found
    raise server.child.failure("did not answer /metrics for 30 s")


def _value(sample: Sample, name: str) -> float:
    return sample.get((name, ""), 0.0)


async def _wal(connection: asyncpg.Connection) -> float:
    return float(await connection.fetchval("SELECT pg_current_wal_lsn() - '0/0'"))


async def _memory(options: Options, server: ServerUnderTest, component: Component, base: int, containers: int) -> float:
    """Resident bytes beyond `base` that a connection takes, from many of them that rest.

    The base is the same for all: what one round gave back to the allocator the next one uses again.
    """
    tokens = [agent_token(server.secret, "bench", f"memory-{containers}-{i}") for i in range(options.resting)]
    sockets = await connections.connect_many(server.ws, tokens, containers)
    await asyncio.sleep(1)
    after = component.rss_bytes()
    await connections.close_all(sockets)
    return (after - base) / options.resting


def _scenario(options: Options) -> Scenario:
    return plan(
        "bench-ingest", storage=options.storage, agents=options.agents, containers=options.containers,
        log_lines=options.log_lines, seconds=options.seconds + options.ramp_seconds, ramp_seconds=options.ramp_seconds,
        seed=options.seed,
        env={
            "SEATRIAL_MAX_AGENTS": str(options.agents + 2 * options.resting),
            "SEATRIAL_ORG_MAX_AGENTS": str(options.agents + 2 * options.resting),
            "SEATRIAL_ORG_MAX_CONTAINERS": str(10 * options.agents * options.containers),
            "SEATRIAL_ORG_BATCHES_PER_SECOND": str(10 * options.agents),
            "SEATRIAL_ORG_BUDGET_SHARE": "1.0",
            "SEATRIAL_RECONNECTS_PER_SECOND": "100000",  # the ramp paces them
            **options.server,
        },
    )  # fmt: skip


def _read_report(load: Load, directory: Path) -> None:
    report = read_report(directory)
    load.ack = Latency.decode([report["ack_latency_ms"]["hdr"]])
    load.frames_bytes = report["bytes_sent"] / max(1, report["batches"]["sent"])
    load.generator += [f"fleet: {reason}" for reason in report["invalid"]]
