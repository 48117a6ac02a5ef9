"""What every strategy must do, on a real Postgres: what it removes, what it reads."""

import random
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import get_args

import asyncpg
import pytest

from server.db import migrate
from server.db.storage import log_table
from server.db.storage import sizes as table_sizes
from server.db.storage.base import Storage, Window
from server.db.storage.pace import Pace
from server.db.storage.strategies import STRATEGIES
from server.db.storage.strategies import storage as strategy
from server.db.storage.times import to_datetime
from server.errors import StartupError
from server.reads import ChartBucket, LogFilter
from server.rows import LINE_OVERHEAD_BYTES
from server.settings import Settings
from simulator.samples import Sample
from simulator.scenario_format import STRATEGIES as SCENARIO_STRATEGIES
from tests.support import lanes
from tests.support.charts import SECOND, T0, assert_same, compute, random_samples, store

RANGE = 1800 * SECOND
UNPACED = Pace(1.0)


@pytest.fixture
async def connection(database: str, storage: Storage) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with the strategy's tables; where it has ranges, of half an hour, the first from T0."""
    opened = await asyncpg.connect(database)
    await storage.create(opened)
    await storage.prepare(opened, Window(now=T0, retention_us=4 * 86_400 * SECOND, ahead_us=0))
    yield opened
    await opened.close()


async def fill(
    storage: Storage, connection: asyncpg.Connection, containers: int, times: int, step_us: int = SECOND
) -> None:
    """One sample and one line of each container at each of so many times from T0."""
    await storage.make_room(connection, T0, T0 + times * step_us)
    keys = [(c, to_datetime(T0 + s * step_us)) for c in range(1, containers + 1) for s in range(times)]
    await connection.copy_records_to_table("container_metric", records=[(*key, 1.5, 2, 3, 4) for key in keys])
    lines = [(*key, 0, key[0] % 2, False, True, f"line {key[0]}") for key in keys]
    await connection.copy_records_to_table("container_log", records=lines)


async def test_pruning_removes_exactly_what_is_older(storage: Storage, connection: asyncpg.Connection) -> None:
    """Over more containers than one statement takes, rows before the moment go and those at it stay."""
    await fill(storage, connection, containers=450, times=4, step_us=RANGE)
    pruned = await storage.prune(connection, T0 + 2 * RANGE, UNPACED)

    assert (pruned.metrics, pruned.logs) == (900, 900)
    for table in ("container_metric", "container_log"):
        row = await connection.fetchrow(f"SELECT count(*) AS n, min(timestamp) AS oldest FROM {table}")
        assert row is not None
        assert (row["n"], row["oldest"]) == (900, to_datetime(T0 + 2 * RANGE))


async def test_a_time_range_is_read_whole(storage: Storage, connection: asyncpg.Connection) -> None:
    """Of samples and lines the first moment is included, the last is not."""
    await fill(storage, connection, containers=2000, times=5)
    metrics = await lanes.metrics(connection, T0 + SECOND, T0 + 4 * SECOND, storage)
    logs = await lanes.logs(connection, T0 + SECOND, T0 + 4 * SECOND, storage)

    assert [row[:2] for row in metrics] == [(c, T0 + s * SECOND) for c in range(1, 2001) for s in (1, 2, 3)]
    assert metrics[0][2:] == (1.5, 2, 3, 4)
    assert [row[:3] for row in logs] == [(*row[:2], 0) for row in metrics]
    assert logs[0][3:] == ("stderr", "line 1", False, True)


async def test_nulls_are_read_as_nulls(storage: Storage, connection: asyncpg.Connection) -> None:
    """Each value that is null comes back so, whatever the others are, and a 0 comes back as 0."""
    rows = [Sample(1, T0 + mask, *(None if mask >> bit & 1 else 0 for bit in range(4))) for mask in range(16)]
    await storage.make_room(connection, T0, T0 + 16)
    await connection.copy_records_to_table(
        "container_metric", records=[(key, to_datetime(at), *values) for key, at, *values in rows]
    )

    assert await lanes.metrics(connection, storage=storage) == rows


async def test_a_tail_ends_with_the_newest_line(storage: Storage, connection: asyncpg.Connection) -> None:
    """The last lines of one container, oldest first, and only those after a position if one is given."""
    await fill(storage, connection, containers=3, times=5)

    assert [row.at for row in await storage.tail_logs(connection, 2, 2, 10_000)] == [T0 + 3 * SECOND, T0 + 4 * SECOND]
    after = (T0 + 3 * SECOND, 0)
    assert [row.at for row in await storage.tail_logs(connection, 2, 9, 10_000, after)] == [T0 + 4 * SECOND]
    assert await storage.count_logs(connection, 2, (T0, 0)) == 4
    two = 2 * (len("line 0") + LINE_OVERHEAD_BYTES)
    assert [row.at for row in await storage.tail_logs(connection, 2, 9, two)] == [T0 + 3 * SECOND, T0 + 4 * SECOND]
    assert [row.at for row in await storage.tail_logs(connection, 2, 9, two - 1)] == [T0 + 4 * SECOND]


async def test_sizes_tell_the_oldest_row(storage: Storage, connection: asyncpg.Connection) -> None:
    """Of an empty table there is none; else it is exact, over all containers."""
    assert [size.oldest_at for size in await storage.sizes(connection)] == [None, None]
    await fill(storage, connection, containers=3, times=2)
    await connection.execute("DELETE FROM container_metric WHERE container_id < 3 AND timestamp = $1", to_datetime(T0))
    sizes = await storage.sizes(connection)

    assert [size.oldest_at for size in sizes] == [T0, T0]
    assert await table_sizes.oldest_at(connection, "container_metric", by_index=True) == T0
    assert await table_sizes.oldest_at(connection, "container_metric", by_index=False) == T0
    assert all(size.table_bytes > 0 and size.index_bytes > 0 for size in sizes)


async def test_the_oldest_row_of_a_large_table_is_looked_for_when_it_may_be_another(
    storage: Storage, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it takes long: not while nothing was stored, and not each second while something is."""
    monkeypatch.setattr(table_sizes, "_COSTLY_SECONDS", -1.0)
    looked, oldest_at = list[bool](), table_sizes.oldest_at

    async def looking(connection: asyncpg.Connection, table: str, *, by_index: bool) -> int | None:
        looked.append(by_index)
        return await oldest_at(connection, table, by_index=by_index)

    async def oldest() -> int | None:
        await connection.execute("SELECT pg_stat_force_next_flush()")
        found, _ = await storage.sizes(connection)
        return found.oldest_at

    async def containers(count: int) -> None:
        await connection.execute("UPDATE pg_class SET reltuples = $1 WHERE oid = 'container'::regclass", count)

    monkeypatch.setattr(table_sizes, "oldest_at", looking)
    await connection.execute("CREATE TABLE IF NOT EXISTS container (container_id bigint PRIMARY KEY)")
    await fill(storage, connection, containers=3, times=2)
    await containers(0)
    assert await oldest() == T0
    looks = len(looked)
    assert await oldest() == T0
    assert len(looked) == looks

    # Of a million containers a few rows: all of them are looked at, and then not for 5 s.
    await containers(1_000_000)
    await connection.execute("DELETE FROM container_metric WHERE timestamp = $1", to_datetime(T0))
    monkeypatch.setattr(table_sizes, "_BYTE_SECONDS", 1.0)
    assert await oldest() == T0
    assert len(looked) == looks
    monkeypatch.setattr(table_sizes, "_KEPT_SECONDS", 0.0)
    assert await oldest() == T0 + SECOND
    assert looked[looks:] == [True]

    monkeypatch.setattr(table_sizes, "_BYTE_SECONDS", 7e-10)
    await connection.execute("DELETE FROM container_metric WHERE container_id = 1")
    assert await oldest() == T0 + SECOND
    assert looked[looks:] == [True, False]


class TestChart:
    """Samples by steps of time."""

    @pytest.mark.parametrize("seed", range(12))
    async def test_it_is_what_a_plain_computation_says(
        self, storage: Storage, connection: asyncpg.Connection, seed: int
    ) -> None:
        """Random samples of three containers, with resets, nulls and pauses: every bucket is exact."""
        chance = random.Random(seed)
        rows = [row for container in (1, 2, 3, 4) for row in random_samples(chance, container)]
        await store(storage, connection, rows)
        step = chance.choice([1, 5, 30, 60, 240]) * SECOND
        since = T0 + chance.randrange(0, 600) * SECOND // step * step
        until = since + chance.randrange(1, 400) * step
        wanted = [1, 2, 3]

        found = await storage.chart(connection, wanted, since, until, step)

        expected = compute([row for row in rows if row.container_id in wanted], since, until, step)
        assert_same(found, expected)

    async def test_a_bucket_says_the_same_in_every_chart_of_its_step(
        self, storage: Storage, connection: asyncpg.Connection
    ) -> None:
        """Where a chart begins changes nothing: the sample before it is known."""
        await store(storage, connection, list(random_samples(random.Random(99), 1)))
        step = 30 * SECOND
        whole = {bucket.at: bucket for bucket in await storage.chart(connection, [1], T0, T0 + 3600 * SECOND, step)}

        for since in range(T0, T0 + 600 * SECOND, step):
            part = await storage.chart(connection, [1], since, since + 120 * SECOND, step)
            assert list(part) == [whole[bucket.at] for bucket in part]

    async def test_rates_by_hand(self, storage: Storage, connection: asyncpg.Connection) -> None:
        """A first sample has no rate, a reset rises by its new value, a null breaks the pair, a long pause too."""
        counts: list[tuple[int, int | None]] = [
            (0, 1000), (5, 1500), (10, 1500), (15, 40), (20, None), (25, 100), (30, 200), (91, 800), (151, 860),
        ]  # fmt: skip
        await store(storage, connection, [Sample(1, T0 + s * SECOND, None, None, rx, None) for s, rx in counts])

        found = await storage.chart(connection, [1], T0, T0 + 200 * SECOND, 5 * SECOND)

        assert [((b.at - T0) // SECOND, b.rx_per_second) for b in found] == [
            (0, None), (5, 100.0), (10, 0.0), (15, 8.0), (20, None), (25, None), (30, 20.0), (90, None), (150, 1.0),
        ]  # fmt: skip
        assert {(b.samples, b.cpu_mean, b.cpu_max, b.mem_mean, b.mem_max, b.tx_per_second) for b in found} == {
            (1, None, None, None, None, None)
        }

    async def test_counters_of_any_size(self, storage: Storage, connection: asyncpg.Connection) -> None:
        """The largest counters neither overflow nor lose a byte that a float can hold."""
        top = 2**63 - 1
        samples = [
            Sample(1, T0, 0.0, top, 0, top), Sample(1, T0 + SECOND, 1e6, top, top, top),
            Sample(2, T0, 0.0, top, 0, 0), Sample(2, T0 + SECOND, 1e6, top, top, 1),
        ]  # fmt: skip
        await store(storage, connection, samples)

        (bucket,) = await storage.chart(connection, [1, 2], T0, T0 + 10 * SECOND, 10 * SECOND)

        assert bucket == ChartBucket(T0, 4, 5e5, 1e6, float(top), top, float(top), 0.5)


class TestLogPages:
    """A container's lines, a page at a time."""

    @staticmethod
    async def fill(storage: Storage, connection: asyncpg.Connection, texts: Sequence[str], container: int = 1) -> None:
        """One line each ten milliseconds, three at each time; stderr every second one."""
        await storage.make_room(connection, T0, T0 + SECOND)
        await connection.copy_records_to_table(
            "container_log",
            records=[
                (container, to_datetime(T0 + i // 3 * 10_000), i % 3, i % 2, False, False, text)
                for i, text in enumerate(texts)
            ],
        )

    async def pages(
        self, storage: Storage, connection: asyncpg.Connection, wanted: LogFilter, lines: int, most_bytes: int = 10**9
    ) -> list[list[str]]:
        """Every page there is."""
        after, found = (T0, -1), list[list[str]]()
        while True:
            rows, end = await storage.page_logs(connection, 1, after, T0 + SECOND, lines, most_bytes, wanted)
            if end is None:
                return found
            found.append([row.text for row in rows])
            assert end > after
            after = end

    async def test_pages_hold_every_line_once(self, storage: Storage, connection: asyncpg.Connection) -> None:
        """Whatever the size of the pages, and though lines share a time; those of other containers are left alone."""
        texts = [f"line {i}" for i in range(100)]
        await self.fill(storage, connection, texts)
        await self.fill(storage, connection, ["other"] * 100, container=2)

        for lines in (1, 2, 7, 100, 1000):
            pages = await self.pages(storage, connection, LogFilter(), lines)
            assert [text for page in pages for text in page] == texts
            assert max(map(len, pages)) <= lines

    async def test_a_page_is_bounded_in_bytes(self, storage: Storage, connection: asyncpg.Connection) -> None:
        """A page ends before the line that starts past the bound; one line larger than all of it comes alone."""
        size = LINE_OVERHEAD_BYTES + 10
        await self.fill(storage, connection, ["x" * 10] * 4 + ["y" * 5000] + ["z" * 10])

        assert list(map(len, await self.pages(storage, connection, LogFilter(), 100, 2 * size))) == [2, 2, 1, 1]
        assert list(map(len, await self.pages(storage, connection, LogFilter(), 100, 2 * size + 1))) == [3, 2, 1]
        assert list(map(len, await self.pages(storage, connection, LogFilter(), 100, 1))) == [1] * 6

    async def test_what_does_not_match_is_passed_over(self, storage: Storage, connection: asyncpg.Connection) -> None:
        """Text is looked for literally, in the case it has; a page without a match still says how far it went."""
        await self.fill(storage, connection, ["100% sure", "100 sure", "a_b", "axb", "SURE", "back\\slash"])

        async def found(**wanted: str) -> list[str]:
            pages = await self.pages(storage, connection, LogFilter(**wanted), 2)  # type: ignore[arg-type]
            assert len(pages) == 3
            return [text for page in pages for text in page]

        assert await found(contains="100%") == ["100% sure"]
        assert await found(contains="a_b") == ["a_b"]
        assert await found(contains="sure") == ["100% sure", "100 sure"]
        assert await found(contains="\\") == ["back\\slash"]
        assert await found(stream="stderr") == ["100 sure", "axb", "back\\slash"]
        assert await found(stream="stdout", contains="b") == ["a_b"]

    async def test_pruning_one_container(
        self, storage: Storage, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Lines up to a time go, in as many steps as it takes; the bytes are counted; other containers keep theirs."""
        monkeypatch.setattr(log_table, "_PRUNE_LINES", 7)
        await self.fill(storage, connection, ["abc"] * 60)
        await self.fill(storage, connection, ["other"] * 60, container=2)

        removed = await storage.prune_container_logs(connection, 1, T0 + 9 * 10_000)

        assert (removed.lines, removed.bytes) == (30, 30 * (3 + LINE_OVERHEAD_BYTES))
        oldest = await connection.fetch(
            "SELECT container_id, count(*), min(timestamp) FROM container_log GROUP BY container_id ORDER BY container_id"
        )
        assert [tuple(row) for row in oldest] == [(1, 30, to_datetime(T0 + 10 * 10_000)), (2, 60, to_datetime(T0))]
        assert (await storage.prune_container_logs(connection, 1, T0)).lines == 0

    async def test_bytes_between_times(self, storage: Storage, connection: asyncpg.Connection) -> None:
        """Each part counts its upper end in, and together they are everything."""
        await self.fill(storage, connection, ["abc"] * 30)
        size = 3 + LINE_OVERHEAD_BYTES

        bounds = [T0 + 10_000, T0 + 10_001, T0 + 50_000]
        assert await storage.container_log_bytes(connection, 1, bounds) == [6 * size, 0, 12 * size, 12 * size]
        assert await storage.container_log_bytes(connection, 1, []) == [30 * size]
        assert await storage.container_log_bytes(connection, 2, [T0]) == [0, 0]


class TestOwnership:
    """A strategy works on what is its own, and says what is in its way."""

    async def test_it_is_created_once(self, storage: Storage, connection: asyncpg.Connection) -> None:
        """A second start changes nothing and loses no row."""
        await fill(storage, connection, containers=2, times=2)
        await storage.create(connection)

        assert await connection.fetchval("SELECT count(*) FROM container_metric") == 4

    async def test_another_strategys_database_is_refused(self, storage: Storage, database: str) -> None:
        """The error names both strategies and what to set; every row stays."""
        (other,) = (name for name in STRATEGIES if name != storage.name)
        opened = await asyncpg.connect(database)
        await migrate.apply(opened, strategy(other))
        await fill(strategy(other), opened, containers=1, times=1)
        with pytest.raises(
            StartupError, match=f"'{storage.name}'.*kept by strategy '{other}'.*SEATRIAL_STORAGE={other}"
        ):
            await migrate.apply(opened, storage)

        assert await opened.fetchval("SELECT count(*) FROM container_metric") == 1
        await opened.close()

    @pytest.mark.parametrize(
        ("statement", "words"),
        [
            ("CREATE TABLE container_metric (id int)", "container_metric .*: expected .*It is not ours"),
            ("CREATE VIEW container_log AS SELECT 1", "container_log is a view: expected a"),
        ],
    )
    async def test_somebody_elses_table_is_left_alone(
        self, storage: Storage, database: str, statement: str, words: str
    ) -> None:
        """One of our name that is not ours ends the start, stays, and leaves the database unclaimed."""
        opened = await asyncpg.connect(database)
        await opened.execute(statement)
        with pytest.raises(StartupError, match=words):
            await migrate.apply(opened, storage)

        name = statement.split()[2]
        assert await opened.fetchval("SELECT to_regclass($1)", name) is not None
        assert await opened.fetchval("SELECT count(*) FROM storage_strategy") == 0
        await opened.close()

    @pytest.mark.parametrize(
        ("statement", "words"),
        [
            ("REVOKE CREATE ON SCHEMA public FROM {role}", "'{role}' may create no tables in schema 'public'.*GRANT CREATE"),
            ("REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC", "role '{role}' may create no temporary .*GRANT TEMPORARY"),
            ("ALTER TABLE container_log OWNER TO CURRENT_USER", "container_log belongs to role .*: expected '{role}'"),
        ],
    )  # fmt: skip
    async def test_missing_rights_are_named(self, storage: Storage, database: str, statement: str, words: str) -> None:
        """A role that may not do what is needed is told which right it lacks."""
        name = database.rpartition("/")[2]
        role = f"guest_{name}"
        opened = await asyncpg.connect(database)
        await opened.execute(f"CREATE ROLE {role}; GRANT CREATE ON SCHEMA public TO {role}; SET ROLE {role}")
        try:
            await migrate.apply(opened, storage)
            await opened.execute("RESET ROLE")
            await opened.execute(statement.format(role=role, database=name))
            await opened.execute(f"SET ROLE {role}")
            with pytest.raises(StartupError, match=words.format(role=role)):
                await migrate.apply(opened, storage)
        finally:
            await opened.execute(f"RESET ROLE; DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
            await opened.close()

    async def test_a_role_that_may_nothing_is_told(self, storage: Storage, database: str) -> None:
        """Where not even the fixed tables can be made, the error names the role."""
        role = f"nobody_{database.rpartition('/')[2]}"
        opened = await asyncpg.connect(database)
        await opened.execute(f"CREATE ROLE {role}; SET ROLE {role}")
        try:
            with pytest.raises(StartupError, match=f"role '{role}': permission denied for schema public"):
                await migrate.apply(opened, storage)
        finally:
            await opened.execute(f"RESET ROLE; DROP ROLE {role}")
            await opened.close()


def test_an_unknown_strategy_is_refused() -> None:
    """The error lists those there are."""
    with pytest.raises(ValueError, match="storage = 'timescale': expected one of plain, partitioned"):
        strategy("timescale")


def test_settings_and_scenarios_know_every_strategy() -> None:
    """What the code has can be chosen everywhere, and nothing else."""
    assert set(STRATEGIES) == set(get_args(Settings.model_fields["storage"].annotation)) == set(SCENARIO_STRATEGIES)


async def test_a_pace_rests_as_long_as_its_share_demands(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a fifth of the time a step of one second is followed by four of rest; at all of it by none."""
    clock, rests = iter([10.0, 11.0, 20.0, 21.0]), []

    async def sleep(seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr("server.db.storage.pace.time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("server.db.storage.pace.asyncio", SimpleNamespace(sleep=sleep))
    for duty in (0.2, 1.0):
        async with Pace(duty).step():
            pass

    assert rests == [pytest.approx(4.0), 0.0]
