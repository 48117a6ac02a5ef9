"""`bench storage`: the same samples into each strategy, empty and with a full window that is pruned, beside raw COPY.

No server and no fleet: one connection, COPY and COMMIT of 10,000 rows each, sorted by key, as a lane does it. Time is made up:
a second of samples follows the other as fast as they are stored, so windows pass in a fraction of what they would take.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import asyncpg

from loadtests.bench.figures import Figure, Report, median, options_told
from loadtests.bench.prune_by_containers import prune_by_containers
from loadtests.bench.samples import SECOND_US, T0, Samples, container_ids
from loadtests.fingerprint import Postgres, environment
from loadtests.stage import database, fingerprint
from server.db.copying import copy_in
from server.db.storage.base import CopyTarget, Storage, Window
from server.db.storage.pace import Pace
from server.db.storage.strategies import storage as strategy

INTERVALS = 10
"""Prunings in a window."""
RAW_INTERVALS = 3
"""How much raw COPY stores, in parts of a window."""
AHEAD_US = 60_000_000
UNPACED = Pace(1.0)


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured."""

    strategies: tuple[str, ...] = ("plain", "partitioned")
    containers: int = 20_000
    """A sample of each a second."""
    window_seconds: int = 60
    """How long a row is kept; a multiple of `INTERVALS`."""
    seed: int = 1
    database_url: str | None = None
    postgres: Mapping[str, str] = field(default_factory=dict)
    """Settings of the private Postgres."""


@dataclass(slots=True)
class Work:
    """Rows, and the time that they took."""

    rows: int = 0
    seconds: float = 0.0

    async def add(self, rows: int, work: Awaitable[object]) -> None:
        """Do it, and count."""
        started = time.perf_counter()
        await work
        self.seconds += time.perf_counter() - started
        self.rows += rows

    @property
    def rows_per_second(self) -> float | None:
        """None: there was nothing to do."""
        return self.rows / self.seconds if self.rows and self.seconds else None


async def run(options: Options, directory: Path) -> Report:
    """Measure raw COPY, then each strategy on a database of its own.

    Raises:
        StageError: there is no Postgres to be had.
        StartupError: a strategy cannot work there.
    """
    raw, indexed = Work(), Work()
    async with _connection(options, directory) as (connection, postgres):
        await strategy("plain").create(connection)
        like = strategy("plain").metrics
        samples, seconds = _samples(options), RAW_INTERVALS * options.window_seconds // INTERVALS
        key = f", PRIMARY KEY ({', '.join(like.key)})"
        for table, also, work in (
            ("raw_first", key, Work()),  # the first pages of a fresh Postgres are slower
            ("raw_copy", key, raw),
            ("raw_time_index", " INCLUDING INDEXES", indexed),
        ):
            await connection.execute(f"CREATE TABLE {table} (LIKE {like.table}{also})")
            await _insert(connection, replace(like, table=table), samples, work, 0, seconds)
    figures = [
        Figure(name="raw_copy", value=raw.rows_per_second, unit="rows/s", note=f"{raw.rows:,} rows, empty table"),
        Figure(name="raw_copy_time_index", value=indexed.rows_per_second, unit="rows/s",
               note="the same with the index over the time that plain has"),
    ]  # fmt: skip
    for name in options.strategies:
        async with _connection(options, directory) as (connection, postgres):
            figures += await _strategy(options, name, connection, raw)
    return Report(
        benchmark="storage", options=options_told(options),
        environment=await asyncio.to_thread(environment, postgres), figures=tuple(figures),
        failures=tuple(postgres.weaknesses()),
    )  # fmt: skip


async def _strategy(options: Options, name: str, connection: asyncpg.Connection, raw: Work) -> list[Figure]:
    storage, samples = strategy(name), _samples(options)
    step = options.window_seconds // INTERVALS
    await storage.create(connection)
    empty, full, pruning = Work(), [Work() for _ in range(INTERVALS)], Work()
    for number in range(INTERVALS):
        await _prepare(storage, connection, options, number * step)
        await _insert(connection, storage.metrics, samples, empty if number == 0 else Work(), number * step, step)
    [size, _] = await storage.sizes(connection)
    stored = options.containers * options.window_seconds
    now = options.window_seconds
    for work in full:
        await _prepare(storage, connection, options, now)
        await _insert(connection, storage.metrics, samples, work, now, step)
        now += step
        await _prune(storage, connection, pruning, T0 + (now - options.window_seconds) * SECOND_US)
    rates = [work.rows_per_second or 0.0 for work in full]
    ratio = median(rates) / raw.rows_per_second if raw.rows_per_second else None
    figures = [
        Figure(name=f"{name}_insert_empty", value=empty.rows_per_second, unit="rows/s"),
        Figure(name=f"{name}_insert_full", value=median(rates), unit="rows/s",
               note=f"with a full window; median of {INTERVALS}, {min(rates):,.0f} to {max(rates):,.0f}"),
        Figure(name=f"{name}_full_to_raw", value=ratio, unit="ratio"),
        Figure(name=f"{name}_bytes_per_sample", value=(size.table_bytes + size.index_bytes) / stored, unit="B",
               note=f"heap {size.table_bytes / stored:.1f}, indexes {size.index_bytes / stored:.1f}"),
        Figure(name=f"{name}_prune", value=pruning.rows_per_second, unit="rows/s", note=f"{pruning.rows:,} rows, unpaced"),
        Figure(name=f"{name}_prune_per_row",
               value=pruning.seconds / pruning.rows * 1e6 if pruning.rows else None, unit="us"),
    ]  # fmt: skip
    if name == "plain":
        peer = Work()
        for _ in range(INTERVALS // 2):
            await _insert(connection, storage.metrics, samples, Work(), now, step)
            now += step
            before = T0 + (now - options.window_seconds) * SECOND_US
            rows = step * options.containers
            await peer.add(rows, prune_by_containers(connection, storage.metrics, before))
        figures.append(
            Figure(name="plain_prune_by_containers", value=peer.rows_per_second, unit="rows/s",
                   note="the same along the primary key, 200 containers a statement")
        )  # fmt: skip
    return figures


def _samples(options: Options) -> Samples:
    return Samples(container_ids(options.seed, options.containers))


async def _prepare(storage: Storage, connection: asyncpg.Connection, options: Options, now: int) -> None:
    step = options.window_seconds // INTERVALS
    await storage.prepare(
        connection,
        Window(
            now=T0 + now * SECOND_US,
            retention_us=options.window_seconds * SECOND_US,
            ahead_us=2 * step * SECOND_US + AHEAD_US,
        ),
    )


async def _insert(
    connection: asyncpg.Connection, target: CopyTarget, samples: Samples, work: Work, since: int, seconds: int
) -> None:
    """Store some seconds of samples; packing them is not counted."""
    for number in range(since, since + seconds):
        for rows in samples.second(number):
            await work.add(len(rows), copy_in(connection, target, rows, before="BEGIN", after="COMMIT"))


async def _prune(storage: Storage, connection: asyncpg.Connection, work: Work, before: int) -> None:
    started = time.perf_counter()
    pruned = await storage.prune(connection, before, UNPACED)
    work.seconds += time.perf_counter() - started
    work.rows += pruned.metrics


@asynccontextmanager
async def _connection(options: Options, directory: Path) -> AsyncIterator[tuple[asyncpg.Connection, Postgres]]:
    """To a fresh database. Windows are short here, so autovacuum looks as often as it would need to."""
    settings = {"autovacuum_naptime": "1s", **options.postgres}
    async with database(options.database_url, directory / "postgres.log", settings=settings) as (dsn, _):
        connection = await asyncpg.connect(dsn, timeout=10, command_timeout=600)
        try:
            yield connection, await fingerprint(connection)
        finally:
            connection.terminate()
