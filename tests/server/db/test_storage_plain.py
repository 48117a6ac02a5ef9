"""The plain strategy on a real Postgres: what it removes, what it reads."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from server.db.storage.plain import PlainStorage, to_datetime
from server.db.storage.strategies import storage
from server.rows import LINE_OVERHEAD_BYTES

T0 = 1_800_000_000_000_000
SECOND = 1_000_000


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with the strategy's tables."""
    opened = await asyncpg.connect(database)
    await PlainStorage().create(opened)
    yield opened
    await opened.close()


async def fill(connection: asyncpg.Connection, containers: int, seconds: int) -> None:
    """One sample and one line of each container in each second from T0."""
    keys = [(c, to_datetime(T0 + s * SECOND)) for c in range(1, containers + 1) for s in range(seconds)]
    await connection.copy_records_to_table("container_metric", records=[(*key, 1.5, 2, 3, 4) for key in keys])
    lines = [(*key, 0, key[0] % 2, False, True, f"line {key[0]}") for key in keys]
    await connection.copy_records_to_table("container_log", records=lines)


async def test_pruning_removes_exactly_what_is_older(connection: asyncpg.Connection) -> None:
    """Over more containers than one statement takes, rows before the moment go and those at it stay."""
    await fill(connection, containers=450, seconds=4)
    pruned = await PlainStorage().prune(connection, T0 + 2 * SECOND)

    assert (pruned.metrics, pruned.logs) == (900, 900)
    for table in ("container_metric", "container_log"):
        row = await connection.fetchrow(f"SELECT count(*) AS n, min(timestamp) AS oldest FROM {table}")
        assert row is not None
        assert (row["n"], row["oldest"]) == (900, to_datetime(T0 + 2 * SECOND))


async def test_a_time_range_is_read_whole_and_in_order(connection: asyncpg.Connection) -> None:
    """Rows come in blocks, ordered by key; the first moment is included, the last is not."""
    await fill(connection, containers=2000, seconds=5)
    plain = PlainStorage()
    metrics = [row async for block in plain.read_metrics(connection, T0 + SECOND, T0 + 4 * SECOND) for row in block]
    logs = [row async for block in plain.read_logs(connection, T0 + SECOND, T0 + 4 * SECOND) for row in block]

    assert [row[:2] for row in metrics] == [(c, T0 + s * SECOND) for c in range(1, 2001) for s in (1, 2, 3)]
    assert metrics[0][2:] == (1.5, 2, 3, 4)
    assert [row[:3] for row in logs] == [(*row[:2], 0) for row in metrics]
    assert logs[0][3:] == ("stderr", "line 1", False, True)


async def test_a_tail_ends_with_the_newest_line(connection: asyncpg.Connection) -> None:
    """The last lines of one container, oldest first, and only those after a position if one is given."""
    await fill(connection, containers=3, seconds=5)
    plain = PlainStorage()

    assert [row.at for row in await plain.tail_logs(connection, 2, 2, 10_000)] == [T0 + 3 * SECOND, T0 + 4 * SECOND]
    after = (T0 + 3 * SECOND, 0)
    assert [row.at for row in await plain.tail_logs(connection, 2, 9, 10_000, after)] == [T0 + 4 * SECOND]
    assert await plain.count_logs(connection, 2, (T0, 0)) == 4
    two = 2 * (len("line 0") + LINE_OVERHEAD_BYTES)
    assert [row.at for row in await plain.tail_logs(connection, 2, 9, two)] == [T0 + 3 * SECOND, T0 + 4 * SECOND]
    assert [row.at for row in await plain.tail_logs(connection, 2, 9, two - 1)] == [T0 + 4 * SECOND]


async def test_sizes_tell_the_oldest_row(connection: asyncpg.Connection) -> None:
    """Of an empty table there is none; else it is exact, over all containers."""
    plain = PlainStorage()
    assert [size.oldest_at for size in await plain.sizes(connection)] == [None, None]
    await fill(connection, containers=3, seconds=2)
    await connection.execute("DELETE FROM container_metric WHERE container_id < 3 AND timestamp = $1", to_datetime(T0))
    sizes = await plain.sizes(connection)

    assert [size.oldest_at for size in sizes] == [T0, T0]
    assert all(size.table_bytes > 0 and size.index_bytes > 0 for size in sizes)


def test_an_unknown_strategy_is_refused() -> None:
    """The error lists those there are."""
    with pytest.raises(ValueError, match="storage = 'timescale': expected one of plain"):
        storage("timescale")
