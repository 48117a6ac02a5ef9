"""`bench charts`: a day of samples, the rollup made of them, and charts of one container over one connection.

No server and no fleet: the statements alone. A sample of each container a second is stored by Postgres itself, in the order in
which a fleet would have sent them; then whole minutes are computed as the server does it, and charts read as it reads them:
with nothing else running, beside a writer at half of what it can, and by a Postgres that was just started.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from loadtests.bench.chart_load import at_half_load
from loadtests.bench.chart_reads import END, SHAPES, Reader, quantiles
from loadtests.bench.chart_writer_plan import WriterPlan
from loadtests.bench.figures import Figure, Report, options_told
from loadtests.bench.samples import SECOND_US, container_ids
from loadtests.fingerprint import environment
from loadtests.stage import StageError, database, fingerprint
from server.db import migrate
from server.db.embedded import EmbeddedPostgres, EmbeddedPostgresError
from server.db.storage.base import Rolled, Storage, Window
from server.db.storage.strategies import storage as strategy
from server.db.storage.times import to_datetime
from server.reads import MINUTE_US

HOUR_US = 3600 * SECOND_US
CONTAINERS_PER_STATEMENT = 2_000
UNROLLED_US = 2 * MINUTE_US
"""The newest minutes are not in the rollup yet: the grace of one, and the one that is not over."""
WRITTEN_CONTAINERS = 20_000
"""Of which samples are written beside the charts, those that are looked at among them; more if more are looked at."""
FILL_SECONDS, CHART_SECONDS = 3_600.0, 60.0
"""Deadlines of a statement."""
STOP_SECONDS = 300.0
"""For Postgres to write what it has in memory."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured."""

    strategy: str = "plain"
    containers: int = 100
    """That are looked at. There is one more for each shape, which only its cold chart looks at."""
    hours: int = 24
    charts: int = 300
    """Of each shape but the slowest, with nothing else running, a container by chance each."""
    load_seconds: float = 60.0
    """How long is written as fast as it goes, and then at half of that while charts are read."""
    seed: int = 1
    database_url: str | None = None
    postgres: Mapping[str, str] = field(default_factory=dict)
    """Settings of the private Postgres."""


async def run(options: Options, directory: Path) -> Report:
    """Fill, roll up, read; read again at half load; and cold.

    Raises:
        StageError, ChildError: there is no Postgres to be had, or a writer failed.
        StartupError: the strategy cannot work there.
    """
    storage, since = strategy(options.strategy), END - options.hours * HOUR_US
    ids, chance = container_ids(options.seed, options.containers + len(SHAPES)), random.Random(options.seed)
    looked_at, unseen = ids[: options.containers], ids[options.containers :]
    rolled = Rolled(since, END - UNROLLED_US)
    plan = WriterPlan(
        strategy=options.strategy, seed=options.seed, containers=max(WRITTEN_CONTAINERS, len(ids)),
        retention_us=END - since, seconds=options.load_seconds,
    )  # fmt: skip
    log_file = directory / "postgres.log"
    async with database(options.database_url, log_file, settings=options.postgres) as (dsn, postgres):
        async with _connected(dsn, FILL_SECONDS) as connection:
            await migrate.apply(connection, storage)
            await _fill(connection, storage, sorted(ids), since)
            figures = await _roll_up(connection, storage, sorted(ids), since)
            known = await fingerprint(connection)
        async with _connected(dsn, CHART_SECONDS) as connection:
            reader = Reader(storage, connection, rolled)
            figures += quantiles(await reader.rounds(looked_at, chance, lambda number: number < options.charts))
            loaded, weak = await at_half_load(reader, looked_at, chance, plan, dsn, directory)
        figures += [*loaded, *await _cold(postgres, storage, unseen, rolled)]
    return Report(
        benchmark="charts", options=options_told(options), environment=await asyncio.to_thread(environment, known),
        figures=tuple(figures), failures=(*known.weaknesses(), *weak),
    )  # fmt: skip


async def _fill(connection: asyncpg.Connection, storage: Storage, ids: Sequence[int], since: int) -> None:
    """A sample of each container a second, an hour a statement."""
    columns = ", ".join(storage.metrics.columns)
    statement = (
        f"INSERT INTO {storage.metrics.table} ({columns})"  # noqa: S608 - our own names
        " SELECT id, $2::timestamptz + make_interval(secs => s), s % 100, 100000000 + s * 4096, s * 1000, s * 500"
        " FROM generate_series(0, 3599) s, unnest($1::bigint[]) id"
    )
    await storage.prepare(connection, Window(now=END, retention_us=END - since, ahead_us=0))
    await storage.make_room(connection, since, END)
    for start in range(since, END, HOUR_US):
        await connection.execute(statement, ids, to_datetime(start))
    await connection.execute(f"VACUUM ANALYZE {storage.metrics.table}")


async def _roll_up(connection: asyncpg.Connection, storage: Storage, ids: Sequence[int], since: int) -> list[Figure]:
    """Every minute of every container, without a rest."""
    started = time.perf_counter()
    minutes = 0
    for minute in range(since, END, MINUTE_US):
        for first in range(0, len(ids), CONTAINERS_PER_STATEMENT):
            part = ids[first : first + CONTAINERS_PER_STATEMENT]
            minutes += await storage.roll_up(connection, part, minute, minute + MINUTE_US)
    seconds = time.perf_counter() - started
    await connection.execute("VACUUM ANALYZE metric_minute")
    size = await connection.fetchval("SELECT pg_total_relation_size('metric_minute')")
    return [
        Figure(name="rolled_up", value=60 * minutes / seconds, unit="samples/s", note=f"{minutes:,} minutes of containers"),
        Figure(name="bytes_per_minute", value=size / minutes, unit="B", note="indexes included"),
    ]  # fmt: skip


async def _cold(
    postgres: EmbeddedPostgres | None, storage: Storage, ids: Sequence[int], rolled: Rolled
) -> list[Figure]:
    """The first chart of each shape after a restart, of a container of its own that nobody looked at.

    Raises:
        StageError: Postgres did not come back.
    """
    figures = []
    for shape, container_id in zip(SHAPES, ids, strict=True):
        took, note = None, "not measured: a Postgres that is not ours is not restarted"
        if postgres is not None:
            try:
                await asyncio.to_thread(postgres.stop, STOP_SECONDS)
                await asyncio.to_thread(postgres.start)
            except EmbeddedPostgresError as error:
                raise StageError(f"postgres, restarted for a cold chart: {error}") from None
            async with _connected(postgres.dsn, CHART_SECONDS) as connection:
                took = await Reader(storage, connection, rolled).chart_ms(shape, container_id)
            note = "one chart after a restart: shared buffers empty, the kernel's cache not"
        figures.append(Figure(name=f"chart_{shape.name}_cold", value=took, unit="ms", note=note))
    return figures


@asynccontextmanager
async def _connected(dsn: str, statement_seconds: float) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=statement_seconds)
    try:
        yield connection
    finally:
        connection.terminate()
