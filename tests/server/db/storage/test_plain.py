"""The one table: how it is pruned, and what it is told about vacuum."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from server.db.storage import plain
from server.db.storage.base import Window
from server.db.storage.pace import Pace
from server.db.storage.plain import AUTOVACUUM, PlainStorage
from server.db.storage.times import to_datetime

SECOND = 1_000_000
T0 = 1_800_000_000 * SECOND
UNPACED = Pace(1.0)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with the strategy's tables."""
    opened = await asyncpg.connect(database)
    await PlainStorage().create(opened)
    yield opened
    await opened.close()


async def insert(connection: asyncpg.Connection, first: int, last: int, containers: int = 5) -> None:
    """A sample of each container in each second of [first, last) from T0."""
    await connection.copy_records_to_table(
        "container_metric",
        records=[
            (c, to_datetime(T0 + s * SECOND), 1.0, 2, 3, 4) for s in range(first, last) for c in range(containers)
        ],
    )


async def test_windows_one_after_the_other(connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pruning removes its part exactly, whatever the width of its slices, and the space is used again."""
    monkeypatch.setattr(plain, "_PRUNE_ROWS", 7)
    storage = PlainStorage()
    for end in range(10, 60, 10):
        await insert(connection, end - 10, end)
        pruned = await storage.prune(connection, T0 + (end - 20) * SECOND, UNPACED)
        await connection.execute("VACUUM container_metric")

        assert pruned.metrics == (50 if end > 20 else 0)
        low, high, rows = await connection.fetchrow(
            "SELECT min(timestamp), max(timestamp), count(*) FROM container_metric"
        ) or (None, None, 0)
        assert low == to_datetime(T0 + max(0, end - 20) * SECOND)
        assert (high, rows) == (to_datetime(T0 + (end - 1) * SECOND), min(end, 20) * 5)


async def test_rows_that_were_stored_late_go_too(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush that was tried again stores rows behind a pruning: the next ones look there once more, at last everywhere."""
    monkeypatch.setattr(plain, "_WHOLE_EVERY", 3)
    storage = PlainStorage()
    await insert(connection, 0, 30)
    for second in (10, 12):
        await storage.prune(connection, T0 + second * SECOND, UNPACED)
    await insert(connection, 9, 10)
    await insert(connection, 1, 2)

    assert (await storage.prune(connection, T0 + 14 * SECOND, UNPACED)).metrics == 5 * (2 + 1)
    assert (await storage.prune(connection, T0 + 14 * SECOND, UNPACED)).metrics == 5


async def test_a_pruning_reads_only_the_pages_of_its_time(connection: asyncpg.Connection) -> None:
    """Of a large table the slices of a pruning touch few pages, in a second window too, when its pages are used again."""
    storage = PlainStorage()
    await connection.execute("ALTER TABLE container_metric SET (autovacuum_enabled = off)")
    copy = (
        "INSERT INTO container_metric SELECT c, to_timestamp(1800000000 + s), 1, 2, 3, 4"
        " FROM generate_series($1::int, $2::int) s, generate_series(1, 1000) c ORDER BY s, c"
    )
    await connection.execute(copy, 0, 59)
    for second in range(60, 180, 20):
        await storage.prune(connection, T0 + (second - 40) * SECOND, UNPACED)
        await connection.execute("VACUUM container_metric")
        await connection.execute(copy, second, second + 19)
    pages = await connection.fetchval("SELECT pg_relation_size('container_metric') / 8192")
    async with connection.transaction():
        await connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = off")
        plan = await connection.fetch(
            "EXPLAIN (ANALYZE, TIMING off) SELECT FROM container_metric WHERE timestamp >= $1 AND timestamp < $2",
            to_datetime(T0 + 141 * SECOND), to_datetime(T0 + 142 * SECOND),
        )  # fmt: skip

    text = "\n".join(row[0] for row in plan)
    assert "Bitmap Index Scan on container_metric_timestamp" in text
    assert int(text.partition("lossy=")[2].split()[0]) < pages / 3, text


async def test_tables_are_vacuumed_early(connection: asyncpg.Connection) -> None:
    """Storage parameters are those of the strategy, on tables that were there before too; others keep theirs."""
    await connection.execute(
        "ALTER TABLE container_log RESET (autovacuum_vacuum_scale_factor);"
        "ALTER TABLE container_log SET (toast_tuple_target = 256)"
    )
    await PlainStorage().create(connection)

    for table in ("container_metric", "container_log"):
        options = await connection.fetchval("SELECT reloptions FROM pg_class WHERE relname = $1", table)
        assert {f"{name}={value}" for name, value in AUTOVACUUM.items()} <= set(options)
    assert "toast_tuple_target=256" in options


async def test_an_index_larger_than_memory_is_told(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole index is written to: past a quarter of shared_buffers the outlook says how much there should be."""

    async def memory(_: asyncpg.Connection) -> int:
        return 100_000

    window = Window(now=T0, retention_us=60 * SECOND, ahead_us=0)
    calm = await PlainStorage().prepare(connection, window)
    await insert(connection, 0, 400)
    monkeypatch.setattr(plain, "shared_buffers_bytes", memory)

    outlook = await PlainStorage().prepare(connection, window)

    assert (calm.ranges, calm.advised_shared_buffers_bytes) == (0, 0)
    assert outlook.advised_shared_buffers_bytes == 4 * outlook.hot_index_bytes > 100_000
