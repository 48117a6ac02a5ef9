"""Ranges of time in Postgres: made and dropped without keeping anybody waiting, and nothing dropped that is not ours."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from server.agents import now_us
from server.db import migrate
from server.db.storage import partitions
from server.db.storage.base import Window
from server.db.storage.pace import Pace
from server.db.storage.partitioned import PartitionedStorage
from server.db.storage.partitions import parts
from server.db.storage.ranges import Range
from server.db.storage.times import to_datetime
from server.errors import StartupError
from server.protocol.messages import Metric
from tests.support.core import container, hello
from tests.support.lanes import rig
from tests.support.sockets import DEADLINE_SECONDS

SECOND = 1_000_000
HOUR = 3600 * SECOND
T0 = 1_800_000_000 * SECOND
TABLES = ("container_metric", "container_log")
UNPACED = Pace(1.0)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with the strategy's tables, no range yet."""
    opened = await asyncpg.connect(database)
    await migrate.apply(opened, PartitionedStorage())
    yield opened
    await opened.close()


@pytest.fixture
async def other(database: str, connection: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """Somebody else's connection."""
    del connection
    opened = await asyncpg.connect(database)
    yield opened
    opened.terminate()


def window(now: int, retention: int = 24 * HOUR) -> Window:
    """A window with a minute ahead."""
    return Window(now=now, retention_us=retention, ahead_us=60 * SECOND)


async def ranges(connection: asyncpg.Connection, table: str = TABLES[0]) -> list[Range]:
    """The ranges of a table."""
    return [part.range for part in await parts(connection, table)]


async def insert(connection: asyncpg.Connection, *times: int, containers: int = 1) -> None:
    """A sample of each container at each time."""
    await connection.copy_records_to_table(
        TABLES[0], records=[(c, to_datetime(at), 1.0, 2, 3, 4) for c in range(containers) for at in times]
    )


async def tables(connection: asyncpg.Connection) -> set[str]:
    """Names of all tables."""
    return {row[0] for row in await connection.fetch("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p')")}


class TestMaking:
    """Ranges that come into being."""

    async def test_they_are_ready_ahead_and_only_once(self, connection: asyncpg.Connection) -> None:
        """Each table has the same ranges around now; a later start, and the next interval, find them."""
        outlook = await PartitionedStorage().prepare(connection, window(T0))
        first = await ranges(connection)
        await PartitionedStorage().prepare(connection, window(T0 + 100 * SECOND))

        assert (outlook.ranges, outlook.range_seconds) == (1, 600)
        assert (
            first == await ranges(connection) == await ranges(connection, TABLES[1]) == [Range(T0, T0 + 600 * SECOND)]
        )
        assert {"container_metric_20270115_080000", "container_log_20270115_080000"} <= await tables(connection)

    async def test_two_lanes_make_the_same_room(
        self, connection: asyncpg.Connection, other: asyncpg.Connection
    ) -> None:
        """Both ask at once for the same late and early rows, and both find room."""
        storage = PartitionedStorage()
        await asyncio.gather(*(storage.make_room(lane, T0 - HOUR, T0 + 60 * SECOND) for lane in (connection, other)))

        known = await ranges(connection)
        assert (known[0].start, known[-1].end) == (T0 - HOUR, T0 + 120 * SECOND)
        assert all(before.end == after.start for before, after in pairwise(known))

    async def test_after_a_day_away_only_what_is_needed_is_made(self, connection: asyncpg.Connection) -> None:
        """No range for the time in which nobody wrote; spooled rows of it get theirs when they come; the old ones go."""
        storage = PartitionedStorage()
        await storage.prepare(connection, window(T0))
        await insert(connection, T0)
        later = T0 + 25 * HOUR
        await storage.prepare(connection, window(later))
        assert len(await ranges(connection)) == 2
        with pytest.raises(asyncpg.CheckViolationError):
            await insert(connection, later - 3 * HOUR)
        await storage.make_room(connection, later - 3 * HOUR, later - 3 * HOUR)
        await insert(connection, later - 3 * HOUR)

        pruned = await storage.prune(connection, later - 24 * HOUR, UNPACED)

        assert pruned.metrics == 1
        assert [known.start // HOUR for known in await ranges(connection)] == [
            (later - 3 * HOUR) // HOUR,
            later // HOUR,
        ]

    async def test_the_clock_moves_back(self, connection: asyncpg.Connection) -> None:
        """Rows find room at the earlier time, nothing is dropped that is later, and the ranges meet."""
        storage = PartitionedStorage()
        await storage.prepare(connection, window(T0))
        await insert(connection, T0)
        back = T0 - 30 * HOUR
        await storage.prepare(connection, window(back))
        await insert(connection, back)

        pruned = await storage.prune(connection, back - 24 * HOUR, UNPACED)
        await storage.make_room(connection, back, T0)

        known = await ranges(connection)
        assert pruned.metrics == 0
        assert (known[0].start, known[-1].end) == (back, T0 + 600 * SECOND)
        assert all(before.end == after.start for before, after in pairwise(known))

    async def test_the_width_follows_the_rate(
        self, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ranges that come after one whose index grew are as wide as memory allows, and begin where it ends."""
        storage = PartitionedStorage()
        retention = HOUR
        memory = 2 * 2**20

        async def small(_: asyncpg.Connection) -> int:
            return memory

        monkeypatch.setattr("server.db.storage.partitioned.shared_buffers_bytes", small)
        slow = await storage.prepare(connection, window(T0, retention))
        await insert(connection, *range(T0, T0 + 59 * SECOND, SECOND), containers=300)
        now = T0 + 59 * SECOND
        rate = await connection.fetchval("SELECT pg_indexes_size('container_metric_20270115_080000')") / 59

        fast = await storage.prepare(connection, window(now, retention))

        assert slow.range_seconds == 60
        assert fast.range_seconds < 60
        assert fast.range_seconds * rate <= memory / 4 < 60 * rate
        assert fast.hot_index_bytes == pytest.approx(rate * fast.range_seconds, rel=0.01)
        end = (await ranges(connection))[-1].end
        await storage.make_room(connection, end, end)
        assert (await ranges(connection))[-1] == Range(end, end + int(fast.range_seconds * SECOND))

    async def test_too_little_memory_is_told(
        self, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the number of ranges forces an index past memory, the outlook says what shared_buffers should be."""

        async def memory(_: asyncpg.Connection) -> int:
            return 1_000_000

        monkeypatch.setattr("server.db.storage.partitioned.shared_buffers_bytes", memory)
        storage = PartitionedStorage()
        await storage.prepare(connection, window(T0))
        await insert(connection, *range(T0, T0 + 20 * SECOND, SECOND), containers=300)

        outlook = await storage.prepare(connection, window(T0 + 20 * SECOND))

        assert outlook.range_seconds == 600
        assert outlook.hot_index_limit_bytes == 250_000
        assert outlook.advised_shared_buffers_bytes == 4 * outlook.hot_index_bytes > 1_000_000

    async def test_a_foreign_range_is_left_alone(self, connection: asyncpg.Connection) -> None:
        """One that somebody attached is written to, not overlapped, and never dropped."""
        low, high = to_datetime(T0 + 100 * SECOND), to_datetime(T0 + 250 * SECOND)
        await connection.execute(
            f"CREATE TABLE theirs PARTITION OF container_metric FOR VALUES FROM ('{low}') TO ('{high}')"
        )
        storage = PartitionedStorage()
        await storage.prepare(connection, window(T0))
        await storage.make_room(connection, T0, T0 + 500 * SECOND)
        await insert(connection, T0, T0 + 150 * SECOND, T0 + 500 * SECOND)

        assert [(r.start - T0) // SECOND for r in await ranges(connection)] == [0, 100, 250]
        assert (await storage.prune(connection, T0 + HOUR, UNPACED)).metrics == 2
        assert [part.name for part in await parts(connection, TABLES[0])] == ["theirs"]
        assert await connection.fetchval("SELECT count(*) FROM container_metric") == 1

    async def test_a_table_of_that_name_is_not_taken(self, connection: asyncpg.Connection) -> None:
        """Whose it is nobody knows: the error names it, and it stays."""
        await connection.execute("CREATE TABLE container_metric_20270115_080000 (precious text)")

        with pytest.raises(asyncpg.DuplicateTableError, match="container_metric_20270115_080000"):
            await PartitionedStorage().prepare(connection, window(T0))
        await PartitionedStorage().prune(connection, T0 + 30 * HOUR, UNPACED)

        assert "container_metric_20270115_080000" in await tables(connection)

    async def test_a_default_partition_is_refused(self, connection: asyncpg.Connection) -> None:
        """It would swallow rows and make each new range a scan under lock; the start says so."""
        await connection.execute("CREATE TABLE rest PARTITION OF container_log DEFAULT")

        with pytest.raises(StartupError, match="container_log has the default partition rest: expected none"):
            await PartitionedStorage().create(connection)


class TestDropping:
    """Ranges that go, while others write and read."""

    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(partitions, "LOCK_TIMEOUT_SECONDS", 0.1)
        monkeypatch.setattr(partitions, "RETRY_SECONDS", 0.01)

    async def test_writers_do_not_wait(self, connection: asyncpg.Connection, other: asyncpg.Connection) -> None:
        """While a reader keeps a range from going, rows are copied and ranges attached; once it is done the range goes."""
        storage = PartitionedStorage()
        await storage.prepare(connection, window(T0))
        await insert(connection, T0)
        await storage.make_room(connection, T0 + HOUR, T0 + HOUR)
        reader = other.transaction()
        await reader.start()
        assert await other.fetchval("SELECT count(*) FROM container_metric") == 1

        with pytest.raises(asyncpg.LockNotAvailableError):
            await storage.prune(connection, T0 + HOUR, UNPACED)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await insert(connection, T0 + HOUR)
            await storage.make_room(connection, T0 + 2 * HOUR, T0 + 2 * HOUR)
        assert [part.pending for part in await parts(connection, TABLES[0])] == [True, False, False]
        await reader.rollback()
        pruned = await storage.prune(connection, T0 + HOUR, UNPACED)

        assert pruned.metrics == 1
        assert len(await ranges(connection)) == 2
        assert "container_metric_20270115_080000" not in await tables(connection)
        assert await connection.fetchval("SHOW lock_timeout") == "0"

    async def test_a_range_comes_and_goes_between_two_writes_of_a_transaction(
        self, connection: asyncpg.Connection, other: asyncpg.Connection
    ) -> None:
        """A lane that stands between COPY and COMMIT keeps no other range from being attached."""
        storage = PartitionedStorage()
        await storage.prepare(connection, window(T0))
        async with other.transaction():
            await insert(other, T0)
            async with asyncio.timeout(DEADLINE_SECONDS):
                await storage.make_room(connection, T0 + HOUR, T0 + HOUR)
            await insert(other, T0 + HOUR)

        assert await connection.fetchval("SELECT count(*) FROM container_metric") == 2

    async def test_what_was_detached_and_not_dropped_goes_the_next_time(self, connection: asyncpg.Connection) -> None:
        """A server that died half way leaves tables of its own behind; only those with its mark are dropped."""
        storage = PartitionedStorage()
        await storage.prepare(connection, window(T0))
        name = "container_metric_20270115_080000"
        await insert(connection, T0)
        before, _ = await storage.sizes(connection)
        await connection.execute(f"ALTER TABLE container_metric DETACH PARTITION {name}")
        await connection.execute("CREATE TABLE container_metric_20260101_000000 (LIKE container_metric)")

        # The disk still has it, and no query sees its rows.
        size, _ = await storage.sizes(connection)
        assert (size.table_bytes, size.index_bytes) == (before.table_bytes, before.index_bytes)
        assert (before.oldest_at, size.oldest_at) == (T0, None)

        await storage.prune(connection, T0, UNPACED)

        assert name not in await tables(connection)
        assert "container_metric_20260101_000000" in await tables(connection)

    async def test_a_row_is_kept_until_all_of_its_range_is_old(self, connection: asyncpg.Connection) -> None:
        """A range goes when its end is past, not before."""
        storage = PartitionedStorage()
        await storage.prepare(connection, window(T0))
        await insert(connection, T0)

        assert (await storage.prune(connection, T0 + 599 * SECOND, UNPACED)).metrics == 0
        assert (await storage.prune(connection, T0 + 600 * SECOND, UNPACED)).metrics == 1


async def looked_at(connection: asyncpg.Connection, query: str, *args: object) -> set[str]:
    """The ranges that a query's plan has."""
    plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {query}", *args))
    return {part.name for part in await parts(connection, TABLES[0]) if f"on {part.name} " in plan}


async def test_a_chart_looks_only_at_the_ranges_of_its_time(connection: asyncpg.Connection) -> None:
    """Of ten hours a quarter of an hour is in two ranges."""
    storage = PartitionedStorage()
    await storage.prepare(connection, window(T0))
    await storage.make_room(connection, T0, T0 + 10 * HOUR)
    query = "SELECT * FROM container_metric WHERE container_id = ANY($1) AND timestamp >= $2 AND timestamp < $3"

    found = await looked_at(connection, query, [1, 2], to_datetime(T0 + HOUR), to_datetime(T0 + HOUR + 900 * SECOND))

    assert found == {"container_metric_20270115_090000", "container_metric_20270115_091000"}


async def test_a_merge_looks_only_at_the_ranges_of_its_rows(database: str, connection: asyncpg.Connection) -> None:
    """Rows that may be stored already are compared with those of their time, not with a day of them."""
    storage = PartitionedStorage()
    now = now_us()
    await storage.prepare(connection, window(now))
    await storage.make_room(connection, now - 10 * HOUR, now)
    asked: list[tuple[str, tuple[object, ...]]] = []

    class Overheard(asyncpg.Connection):
        async def fetch(self, query: str, *args: object, **options: Any) -> Any:
            asked.append((query, args))
            return await super().fetch(query, *args, **options)

    async with rig(database, storage=storage, connection_class=Overheard) as lane:
        agent = lane.agent(greeting=hello(container(), connection=2, next_seq=2))
        agent.batch(Metric(ref=0, mem=1), seq=1)
        await agent.socket.acked(1)

    await connection.execute("CREATE TEMP TABLE incoming_container_metric (LIKE container_metric, ord bigserial)")
    [(query, args)] = [(query, args) for query, args in asked if "container_metric t" in query]
    assert len(await looked_at(connection, query, *args)) == 1
