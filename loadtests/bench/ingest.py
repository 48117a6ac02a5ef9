"""`bench ingest`: the whole pipeline beside the raw limit of COPY, both taken in one run on one machine."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from loadtests.bench import connections, raw_copy
from loadtests.bench.figures import Figure, Report, options_told
from loadtests.bench.plan import plan
from loadtests.bench.usage import Component, Moment, postgres_component
from loadtests.fingerprint import Postgres, environment
from loadtests.fleet_process import LEDGER, make_fleet, read_report
from loadtests.measure import Latency
from loadtests.scrape import Sample, scrape
from loadtests.stage import ServerUnderTest, database, fingerprint
from loadtests.verify import Findings, verify_all
from server.db.storage.base import Storage
from server.db.storage.strategies import storage as strategy
from simulator.scenario import Scenario
from simulator.tokens import agent_token

RAW_ROWS = 2_000_000
ACK_LIMIT_MS = 1_000.0
"""`--find-limit`: an ack p99 beyond it is no longer a pipeline that keeps up."""
STEP = 1.25
"""`--find-limit`: each step has so many times the containers of the one before."""


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
    failures: list[str] = field(default_factory=list)

    @property
    def rows_per_second(self) -> float:
        """Rows committed in the steady part."""
        return self.rows / self.seconds if self.seconds else 0.0


async def run(options: Options, directory: Path, *, find_limit: bool) -> Report:
    """Load, verify, compare with raw COPY; with `find_limit` again with more containers until acks are late.

    Raises:
        StageError, ChildError: the environment could not be set up.
    """
    load = await _load(options, directory, whole=True)
    figures = _figures(options, load)
    failures = list(load.failures)
    if find_limit:
        found = await _find_limit(options, directory, load)
        figures += found
    return Report(
        benchmark="ingest", options={**options_told(options), "find_limit": find_limit},
        environment=await asyncio.to_thread(environment, load.postgres), figures=tuple(figures), failures=tuple(failures),
    )  # fmt: skip


async def _find_limit(options: Options, directory: Path, first: Load) -> list[Figure]:
    """Raise the containers until the ack p99 passes the limit; tells the last load that held."""
    best, containers, load = None, options.containers, first
    while _holds(load):
        best = (containers, load)
        containers = max(containers + 1, round(containers * STEP))
        part = directory / f"limit-{containers}"
        part.mkdir()
        changed = {name: getattr(options, name) for name in Options.__slots__} | {"containers": containers}
        load = await _load(Options(**changed), part, whole=False)
    if best is None:
        return [Figure(name="limit_rows_per_second", value=None, unit="rows/s", note="the first load is beyond it")]
    held, at_best = best
    raw = first.raw.rows_per_second if first.raw else 0.0
    return [
        Figure(name="limit_containers", value=held, unit="containers/agent", note=f"{containers} were too many"),
        Figure(name="limit_rows_per_second", value=at_best.rows_per_second, unit="rows/s"),
        Figure(name="limit_ack_p99", value=_p99(at_best), unit="ms"),
        Figure(name="limit_to_raw", value=at_best.rows_per_second / raw if raw else None, unit="ratio"),
        Figure(name="beyond_ack_p99", value=_p99(load), unit="ms", note=f"at {containers} containers"),
    ]  # fmt: skip


def _holds(load: Load) -> bool:
    return not load.failures and load.ack.count > 0 and _p99(load) <= ACK_LIMIT_MS


def _p99(load: Load) -> float:
    return load.ack.statistics().get("p99", float("inf"))


async def _load(options: Options, directory: Path, *, whole: bool) -> Load:
    """One load on a fresh database. `whole`: with memory per connection, raw COPY and the verified ledger."""
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
        if whole:
            base = components[0].rss_bytes()
            load.bare_rss_bytes = await _memory(options, server, components[0], base, 0)
            load.labelled_rss_bytes = await _memory(options, server, components[0], base, options.containers)
        fleet = make_fleet(scenario, server, directory)
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
        if whole:
            load.raw = await raw_copy.measure(looking, second, storage, most_rows=RAW_ROWS)
            load.findings = await _verified(directory, storage, looking)
            if not load.findings.clean or load.findings.unverified:
                load.failures.append(f"the ledger is not clean: {dict(load.findings.counts)}")
    return load


async def _steady(
    options: Options, load: Load, server: ServerUnderTest, components: list[Component], connection: asyncpg.Connection
) -> None:
    """Measure from the end of the ramp to a second before the fleet leaves."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await asyncio.sleep(options.ramp_seconds + 5)
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
    load.failures += [f"fleet: {reason}" for reason in report["invalid"]]


async def _verified(directory: Path, storage: Storage, connection: asyncpg.Connection) -> Findings:
    return await verify_all([directory / LEDGER], storage, connection)


def _figures(options: Options, load: Load) -> list[Figure]:
    ack = load.ack.statistics()
    raw = load.raw.rows_per_second if load.raw else 0.0
    millions, batches = load.rows / 1e6, load.batches / 1e6
    figures = [
        Figure(name="raw_copy", value=raw, unit="rows/s", note=f"{load.raw.rows if load.raw else 0:,} rows, one connection"),
        Figure(name="pipeline", value=load.rows_per_second, unit="rows/s", note=f"over {load.seconds:.0f} s"),
        Figure(name="offered", value=float(options.agents * (options.containers + options.log_lines)), unit="rows/s"),
        Figure(name="pipeline_to_raw", value=load.rows_per_second / raw if raw else None, unit="ratio"),
        *(Figure(name=f"ack_{key}", value=ack.get(key), unit="ms") for key in ("p50", "p99", "max")),
        Figure(name="server_cpu_per_batch", value=_per(load.cpu.get("server"), load.batches, 1e6), unit="us"),
    ]  # fmt: skip
    for name in ("server", "postgres", "fleet"):
        used = load.cpu.get(name)
        note = "" if used is not None else "not visible from here"
        figures += [
            Figure(name=f"{name}_cpu_per_million_rows", value=_per(used, millions), unit="CPU s", note=note),
            Figure(name=f"{name}_cpu_per_million_messages", value=_per(used, batches), unit="CPU s", note=note),
            Figure(name=f"{name}_cores", value=_per(used, load.seconds), unit="cores", note=note),
        ]
    return [
        *figures,
        Figure(name="rss_per_bare_connection", value=_kib(load.bare_rss_bytes), unit="KiB"),
        Figure(name="rss_per_labelled_connection", value=_kib(load.labelled_rss_bytes), unit="KiB"),
        Figure(name="server_rss_per_agent", value=_kib(load.server_rss_bytes / options.agents), unit="KiB", note="all of it"),
        Figure(name="wire_bytes_per_batch", value=load.frames_bytes, unit="B"),
        Figure(name="wal_bytes_per_row", value=_per(load.wal_bytes, load.rows), unit="B"),
        Figure(name="disk_bytes_per_row", value=_per(load.disk_bytes, load.stored_rows), unit="B"),
        *(
            Figure(name=f"ledger_{kind}", value=float(load.findings.counts[kind]), unit="rows")
            for kind in ("missing", "foreign", "altered")
        ),
        Figure(name="ledger_verified_fraction", value=load.findings.verified_fraction, unit="ratio"),
    ]  # fmt: skip


def _per(value: float | None, count: float, factor: float = 1.0) -> float | None:
    return None if value is None or not count else value * factor / count


def _kib(value: float | None) -> float | None:
    return None if value is None else value / 1024
