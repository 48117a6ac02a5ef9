"""`bench charts`: a day of samples, the rollup made of them, and charts of one container over one connection.

No server and no fleet: the statements alone. A sample of each container a second is stored by Postgres itself, in the order in
which a fleet would have sent them; then whole minutes are computed as the server does it, and charts read as it reads them.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from loadtests.bench.figures import Figure, Report, options_told
from loadtests.fingerprint import environment
from loadtests.stage import database, fingerprint
from server.db import migrate
from server.db.storage.base import NOT_ROLLED, Rolled, Storage, Window
from server.db.storage.strategies import storage as strategy
from server.db.storage.times import to_datetime
from server.reads import MINUTE_US

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
END = 1_800_000_000 * SECOND_US
"""When the samples end: whole for every step."""
CONTAINERS_PER_STATEMENT = 2_000
UNROLLED_US = 2 * MINUTE_US
"""The newest minutes are not in the rollup yet: the grace of one, and the one that is not over."""
SHAPES = (
    ("15m_raw", 900, 5, False),
    ("1h_raw", 3600, 10, False),
    ("6h_rollup", 21_600, 60, True),
    ("24h_rollup", 86_400, 240, True),
    ("24h_raw", 86_400, 240, False),
)
"""Name, seconds and step of a chart, and whether it reads the rollup. The last is what the rollup spares."""
RAW_DAY_SHARE = 10
"""One in so many of the charts that read a day of samples: each takes long."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured."""

    strategy: str = "plain"
    containers: int = 100
    hours: int = 24
    charts: int = 300
    """Of each shape, a container by chance each."""
    seed: int = 1
    database_url: str | None = None
    postgres: Mapping[str, str] = field(default_factory=dict)
    """Settings of the private Postgres."""


async def run(options: Options, directory: Path) -> Report:
    """Fill, roll up, read.

    Raises:
        StageError: there is no Postgres to be had.
        StartupError: the strategy cannot work there.
    """
    chance = random.Random(options.seed)
    storage, ids = strategy(options.strategy), sorted(chance.getrandbits(62) for _ in range(options.containers))
    log_file = directory / "postgres.log"
    async with database(options.database_url, log_file, settings=options.postgres) as (dsn, _):
        connection = await asyncpg.connect(dsn, timeout=10, command_timeout=3600)
        try:
            await migrate.apply(connection, storage)
            since = END - options.hours * HOUR_US
            await _fill(connection, storage, ids, since)
            figures = await _roll_up(connection, storage, ids, since)
            for name, seconds, step, rolled in SHAPES:
                span = Rolled(since, END - UNROLLED_US) if rolled else NOT_ROLLED
                count = max(1, options.charts // RAW_DAY_SHARE) if name == "24h_raw" else options.charts
                taken = [
                    await _chart_ms(connection, storage, chance.choice(ids), seconds, step, span) for _ in range(count)
                ]
                figures += _quantiles(name, taken)
            known = await fingerprint(connection)
        finally:
            connection.terminate()
    return Report(
        benchmark="charts", options=options_told(options), environment=await asyncio.to_thread(environment, known),
        figures=tuple(figures), failures=tuple(known.weaknesses()),
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


async def _chart_ms(
    connection: asyncpg.Connection, storage: Storage, container: int, seconds: int, step: int, rolled: Rolled
) -> float:
    """One chart, from the call to its buckets."""
    started = time.perf_counter()
    await storage.chart(connection, [container], END - seconds * SECOND_US, END, step * SECOND_US, rolled)
    return (time.perf_counter() - started) * 1e3


def _quantiles(name: str, taken: Sequence[float]) -> list[Figure]:
    in_order = sorted(taken)
    return [
        Figure(name=f"chart_{name}_p50", value=in_order[len(in_order) // 2], unit="ms"),
        Figure(name=f"chart_{name}_p99", value=in_order[min(len(in_order) - 1, len(in_order) * 99 // 100)], unit="ms",
               note=f"{len(in_order)} charts; the first took {taken[0]:,.1f} ms"),
    ]  # fmt: skip
