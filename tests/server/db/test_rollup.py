"""The rollup over lanes and a real Postgres: whatever comes late, again or meanwhile, charts say what the samples say."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.agents import now_us
from server.db import migrate, rollup_progress
from server.db import rollup as rollup_module
from server.db.pool import Database
from server.db.rollup import Rollup
from server.db.storage.base import Rolled, Storage
from server.db.storage.plain import PlainStorage
from server.db.storage.strategies import STRATEGIES
from server.db.storage.strategies import storage as strategy
from server.db.storage.times import to_datetime
from server.dirty_minutes import DirtyMinutes
from server.protocol.messages import Metric
from server.reads import MINUTE_US
from simulator.samples import Sample
from tests.support import core
from tests.support.charts import SECOND, assert_same, compute, random_samples
from tests.support.charts import T0 as RANDOM_T0
from tests.support.core import Peer, container, hello
from tests.support.lanes import Hold, Rig, metrics, rig
from tests.support.server import RunningServer, eventually
from tests.support.sockets import DEADLINE_SECONDS

HOUR_US = 60 * MINUTE_US
START = (now_us() - 2 * HOUR_US) // (4 * MINUTE_US) * (4 * MINUTE_US)
"""Whole for the steps of charts, and two hours ago: ingest takes what is later, and what is earlier."""
GRACE_SECONDS = 15.0


@dataclass
class Clock:
    """What the rollup takes for now."""

    now: int = START

    def __call__(self) -> int:
        """Unix microseconds."""
        return self.now

    def minutes(self, count: float) -> None:
        """It is so many minutes after the start."""
        self.now = START + int(count * MINUTE_US)


@dataclass
class Bench:
    """A lane with agents, and the rollup behind it."""

    rig: Rig
    rollup: Rollup
    storage: Storage
    connection: asyncpg.Connection
    clock: Clock
    dirty: DirtyMinutes

    def agent(self, number: int = 0) -> Peer:
        """One of a host of its own, with two containers."""
        return self.rig.agent(container(0), container(1), host=f"host-{number}")

    async def acked(self, *agents: Peer) -> None:
        """Everything that they sent is stored."""
        for agent in agents:
            if agent.seq:
                await agent.socket.acked(agent.seq)

    async def stored(self) -> list[Sample]:
        """Every sample."""
        return await metrics(self.connection, storage=self.storage)

    async def check(self, minutes: int = 120, steps: Sequence[int] = (1, 4, 60)) -> None:
        """Charts of every container, alone and together, say what its samples say."""
        rows = await self.stored()
        ids = sorted({row.container_id for row in rows})
        for wanted in (ids, *([number] for number in ids[:2])):
            for step in steps:
                until = START + minutes * MINUTE_US
                found = await self.storage.chart(
                    self.connection, wanted, START, until, step * MINUTE_US, self.rollup.rolled
                )
                mine = [row for row in rows if row.container_id in wanted]
                assert_same(found, compute(mine, START, until, step * MINUTE_US))

    async def rolled_rows(self) -> int:
        """Samples that the rollup counts."""
        return int(await self.connection.fetchval("SELECT coalesce(sum(samples), 0) FROM metric_minute"))


@asynccontextmanager
async def make_bench(dsn: str, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A migrated database, begun at START."""
    connection = await asyncpg.connect(dsn)
    await migrate.apply(connection, storage)
    clock, dirty = Clock(), DirtyMinutes()
    monkeypatch.setattr(rollup_module, "now_us", clock)
    database = Database(dsn, pool_size=2, statement_timeout_seconds=20)
    await database.open(0)
    async with rig(dsn, storage=storage, dirty_minutes=dirty) as lane:
        rollup = Rollup(
            database, storage, dirty, lane.counters, lane.lane.barrier, grace_seconds=GRACE_SECONDS, future_seconds=0,
            retention_seconds=3600, duty=1.0,
        )  # fmt: skip
        await rollup.load()
        try:
            yield Bench(lane, rollup, storage, connection, clock, dirty)
        finally:
            rollup._disconnect()
            await database.close()
            await connection.close()


@pytest.fixture
def database(empty_database: str) -> str:
    """Here each strategy makes its tables itself."""
    return empty_database


@pytest.fixture(params=STRATEGIES)
async def bench(request: pytest.FixtureRequest, database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A bench of each strategy."""
    async with make_bench(database, strategy(request.param), monkeypatch) as made:
        yield made


@pytest.fixture
async def plain(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A bench of strategy `plain`."""
    async with make_bench(database, PlainStorage(), monkeypatch) as made:
        yield made


def sample(at: float, ref: int = 0, value: int = 1) -> Metric:
    """A sample so many seconds after START."""
    return Metric(ref=ref, at=START + int(at * SECOND), cpu=value / 2, mem=value * 4096, rx=value * 100, tx=None)


async def test_a_minute_is_computed_after_its_grace(bench: Bench) -> None:
    """Not before; the newest minutes come from samples, so that a chart is complete to now."""
    agent = bench.agent()
    for at in range(0, 150, 5):
        agent.batch(sample(at, value=at), sample(at, ref=1, value=at + 1))
    await bench.acked(agent)
    await bench.check()

    bench.clock.minutes(1.2)
    await bench.rollup.round()
    assert await bench.rolled_rows() == 0
    bench.clock.minutes(1.3)
    await bench.rollup.round()
    assert await bench.rolled_rows() == 24
    assert bench.rollup.rolled == (START, START + MINUTE_US)
    assert (bench.rollup.waiting.minutes, bench.rollup.waiting.oldest) == (4, START + MINUTE_US)
    await bench.check()
    bench.clock.minutes(10)
    await bench.rollup.round()
    assert await bench.rolled_rows() == 60
    assert bench.rollup.waiting == (0, None)
    assert bench.rig.counters.minutes_rolled_up == 6
    await bench.check()


async def test_it_waits_while_flushes_are_slow(plain: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is computed while who stores samples is pressed, but never for longer than its time."""
    agent = plain.agent()
    looks: list[int] = []

    def pressed() -> bool:
        looks.append(plain.rig.counters.minutes_rolled_up)
        return len(looks) < 4

    monkeypatch.setattr(plain.rollup, "_pressed", pressed)
    agent.batch(sample(0))
    await plain.acked(agent)
    plain.clock.minutes(2)
    await plain.rollup.round()
    assert (looks, plain.rig.counters.minutes_rolled_up) == ([0, 0, 0, 0], 1)

    monkeypatch.setattr(plain.rollup, "_pressed", lambda: True)
    monkeypatch.setattr(rollup_module, "PRESSED_SECONDS", 0.2)
    agent.batch(sample(120))
    await plain.acked(agent)
    plain.clock.minutes(10)
    await plain.rollup.round()
    assert plain.rig.counters.minutes_rolled_up == 2


async def test_what_is_rolled_is_read_from_the_rollup(bench: Bench) -> None:
    """Without the samples it was made of, a long chart stays as it was; a short one has nothing."""
    agent = bench.agent()
    agent.batch(*(sample(at, value=at) for at in range(0, 600, 5)))
    await bench.acked(agent)
    (row, *_) = await bench.stored()
    bench.clock.minutes(60)
    await bench.rollup.round()

    async def chart(step_us: int) -> object:
        span = (START, START + HOUR_US)
        return await bench.storage.chart(bench.connection, [row.container_id], *span, step_us, bench.rollup.rolled)

    before = await chart(4 * MINUTE_US)
    await bench.connection.execute("DELETE FROM container_metric")
    assert await chart(4 * MINUTE_US) == before
    assert await chart(10 * SECOND) == []


@pytest.mark.parametrize("seed", range(4))
async def test_any_samples_give_the_chart_of_their_definition(bench: Bench, seed: int) -> None:
    """Resets, nulls, pauses over minutes: exact for each step, wherever the rollup begins and ends."""
    chance = random.Random(seed)
    rows = [
        row._replace(at=row.at - RANDOM_T0 + START) for number in (1, 2, 3) for row in random_samples(chance, number)
    ]
    await bench.storage.make_room(bench.connection, START, START + 3 * HOUR_US)
    await bench.connection.copy_records_to_table(
        "container_metric", records=[(row.container_id, to_datetime(row.at), *row[2:]) for row in rows]
    )
    ids = [row.container_id for row in rows]
    computed = await bench.storage.roll_up(bench.connection, sorted(set(ids)), START, START + 3 * HOUR_US)

    assert computed == len({(row.container_id, row.at // MINUTE_US) for row in rows})
    for _ in range(6):
        first, last = sorted(chance.choices(range(-5, 200), k=2))
        bench.rollup.rolled = Rolled(START + first * MINUTE_US, START + last * MINUTE_US)
        await bench.check(minutes=chance.choice([8, 60, 240]), steps=(1, 4, 15))


async def test_late_samples_and_replays_change_their_minute(bench: Bench) -> None:
    """A computed minute is computed again, in the next round."""
    agent = bench.agent()
    for at in (0, 1, 10, 130):
        agent.batch(sample(at, value=at))
    agent.batch(sample(20, ref=1))
    await bench.acked(agent)
    bench.clock.minutes(5)
    await bench.rollup.round()
    agent.batch(sample(25, ref=1, value=9), sample(131))
    await bench.acked(agent)
    again = bench.rig.agent(
        container(0), host="host-0",
        greeting=hello(container(0), container(1), connection=2, next_seq=20, epoch=core.OTHER_EPOCH),
    )  # fmt: skip
    again.seq = 0
    again.batch(sample(1, value=1), sample(5, value=5))
    await bench.acked(again)
    assert bench.rig.counters.rows_replayed == 1
    assert await bench.rolled_rows() == 5
    await bench.rollup.round()

    assert await bench.rolled_rows() == len(await bench.stored()) == 8
    await bench.check()


async def test_a_mark_set_while_its_minute_is_computed_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample committed after the statement read the samples is computed in the next round."""
    agent = bench.agent()
    agent.batch(sample(0), sample(0, ref=1))
    await bench.acked(agent)
    bench.clock.minutes(3)
    computed, roll_up = Hold(), bench.storage.roll_up

    async def held(*args: object) -> int:
        done = await roll_up(*args)  # type: ignore[arg-type]
        await computed()
        return done

    monkeypatch.setattr(bench.storage, "roll_up", held)
    round_ = asyncio.create_task(bench.rollup.round())
    async with asyncio.timeout(DEADLINE_SECONDS):
        await computed.reached.wait()
    agent.batch(sample(7, value=7))
    await bench.acked(agent)
    computed.release.set()
    await round_
    assert await bench.rolled_rows() == 2
    await bench.rollup.round()

    assert await bench.rolled_rows() == 3
    await bench.check()


async def test_samples_on_their_way_are_waited_for(plain: Bench) -> None:
    """A flush that relies on a mark and is not committed holds up the round that would take the mark away."""
    agent = plain.agent()
    agent.batch(sample(0))
    await plain.acked(agent)
    hold = Hold()
    plain.rig.cuts.once("before_commit", hold)
    agent.batch(sample(1))
    async with asyncio.timeout(DEADLINE_SECONDS):
        await hold.reached.wait()
    plain.clock.minutes(3)
    settling, settle = asyncio.Event(), plain.rollup._settle

    async def told(timeout_seconds: float) -> None:
        settling.set()
        await settle(timeout_seconds)

    plain.rollup._settle = told
    round_ = asyncio.create_task(plain.rollup.round())
    waits = asyncio.create_task(settling.wait())
    await asyncio.wait({round_, waits}, timeout=DEADLINE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    waits.cancel()
    assert plain.dirty.closed_until == START + 2 * MINUTE_US
    hold.release.set()
    await round_

    assert await plain.rolled_rows() == 2
    await plain.check()


async def test_a_flush_that_fails_brings_its_marks_again(plain: Bench) -> None:
    """The rows of a flush that is tried again are never without their marks."""

    async def fail() -> None:
        raise ConnectionResetError("cut here")

    plain.rig.cuts.once("before_commit", fail)
    agent = plain.agent()
    agent.batch(sample(0))
    agent.batch(sample(1), sample(1, ref=1))
    await plain.acked(agent)
    plain.clock.minutes(3)
    await plain.rollup.round()

    assert plain.rig.counters.flush_retries.total() == 1
    assert await plain.rolled_rows() == 3


async def test_a_round_that_fails_keeps_its_marks(plain: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is cut, the next one computes what is left; nothing is believed to be computed before it is."""
    agent = plain.agent()
    for at in (0, 60, 120):
        agent.batch(sample(at), sample(at, ref=1))
    await plain.acked(agent)
    plain.clock.minutes(10)
    roll_up, calls = plain.storage.roll_up, list[int]()

    async def cut(connection: asyncpg.Connection, ids: Sequence[int], since: int, until: int) -> int:
        calls.append(since)
        if len(calls) == 2:
            raise asyncpg.QueryCanceledError("cut here")
        return await roll_up(connection, ids, since, until)

    monkeypatch.setattr(plain.storage, "roll_up", cut)
    with pytest.raises(asyncpg.QueryCanceledError):
        await plain.rollup.round()
    assert plain.rollup.rolled == (START, START + MINUTE_US)
    await plain.check()
    await plain.rollup.round()

    assert calls == [START, START + MINUTE_US, START + MINUTE_US, START + 2 * MINUTE_US]
    assert await plain.rolled_rows() == 6
    await plain.check()


async def test_pruned_minutes_keep_what_was_computed(bench: Bench) -> None:
    """A minute of which samples are gone is not computed from the rest; what marks it goes, too."""
    agent = bench.agent()
    for at in range(0, 240, 20):
        agent.batch(sample(at))
    await bench.acked(agent)
    bench.clock.minutes(10)
    await bench.rollup.round()
    assert await bench.rolled_rows() == 12
    await rollup_progress.pruned_until(bench.connection, START + 90 * SECOND, bench.clock.now)
    await bench.connection.execute(
        "DELETE FROM container_metric WHERE timestamp < $1", to_datetime(START + 90 * SECOND)
    )
    agent.batch(sample(10, ref=1), sample(115, ref=1), sample(125, ref=1))
    await bench.acked(agent)
    await bench.rollup.round()

    found = await bench.connection.fetch(
        "SELECT minute, sum(samples)::int FROM metric_minute GROUP BY minute ORDER BY minute"
    )
    assert [tuple(row) for row in found] == [
        (to_datetime(START + i * MINUTE_US), n) for i, n in enumerate([3, 3, 4, 3])
    ]
    assert bench.rollup.waiting.minutes == 0


async def test_how_far_is_pruned_never_goes_back_but_for_a_wrong_clock(plain: Bench) -> None:
    """A longer retention brings no sample back; a clock that was ahead does not stop the rollup for good."""

    async def until() -> int:
        return await rollup_progress.first_whole_minute(plain.connection)

    await rollup_progress.pruned_until(plain.connection, START + 1, START + HOUR_US)
    assert await until() == START + MINUTE_US
    await rollup_progress.pruned_until(plain.connection, START - 5 * MINUTE_US, START + HOUR_US)
    assert await until() == START + MINUTE_US
    await rollup_progress.pruned_until(plain.connection, START - 5 * MINUTE_US, START)
    assert await until() == START - 5 * MINUTE_US


async def test_samples_without_marks_are_filled_backwards(bench: Bench) -> None:
    """Those of a server without a rollup: exact at any time, and from the rollup in the end, as far as samples go."""
    await bench.connection.execute(
        "INSERT INTO container (container_id, org, host, docker_id, name, series, image, state, labels, protected)"
        " SELECT i, 'o', 'h', repeat('a', 64), 'n', 's', 'i', 'running', '{}', false FROM generate_series(1, 3) i"
    )
    times = [START - offset * 20 * SECOND for offset in range(1, 200)]
    await bench.storage.make_room(bench.connection, times[-1], START)
    await bench.connection.copy_records_to_table(
        "container_metric",
        records=[(c, to_datetime(at), 1.5, c, at // SECOND, None) for c in (1, 2, 3) for at in times],
    )
    bench.clock.minutes(5)
    await bench.rollup.round()
    assert bench.rollup.minutes_to_fill == 55
    span = (START - 64 * MINUTE_US, START)
    truth = compute(await bench.stored(), *span, 4 * MINUTE_US)
    while bench.rollup.minutes_to_fill:
        await bench.rollup.fill()
        if bench.rollup.minutes_to_fill % 20 == 0:
            found = await bench.storage.chart(bench.connection, [1, 2, 3], *span, 4 * MINUTE_US, bench.rollup.rolled)
            assert_same(found, truth)

    assert bench.rollup.rolled == (START - 55 * MINUTE_US, START + 4 * MINUTE_US)
    assert await bench.rolled_rows() == 3 * 55 * 3
    assert await rollup_progress.begin(bench.connection, bench.clock.now) == bench.rollup.rolled


async def test_minutes_that_go_on_are_not_filled(plain: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a new database, where samples may be ahead of the clock: charts are exact while the first minutes go on."""
    rounds = asyncio.Queue[None]()
    round_ = plain.rollup.round

    async def told() -> None:
        await round_()
        rounds.put_nowait(None)

    async def pass_rounds() -> None:
        while not rounds.empty():
            rounds.get_nowait()
        async with asyncio.timeout(DEADLINE_SECONDS):
            for _ in range(3):
                await rounds.get()

    await rollup_progress.forget(plain.connection)
    plain.rollup._future_us = MINUTE_US
    plain.clock.minutes(0.5)
    await plain.rollup.load()
    monkeypatch.setattr(plain.rollup, "round", told)
    monkeypatch.setattr(rollup_module, "INTERVAL_SECONDS", 0.01)
    early, late = plain.agent(0), plain.agent(1)
    early.batch(sample(10), sample(20))
    await plain.acked(early)
    task = asyncio.create_task(plain.rollup.run())
    try:
        await pass_rounds()
        late.batch(sample(40), sample(50))
        await plain.acked(late)
        await pass_rounds()
        await plain.check()
        plain.clock.minutes(4)
        await eventually(lambda: plain.rollup.rolled.since <= START, "the first minutes filled")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    await plain.check()


async def test_a_clock_that_moved_back_begins_anew(plain: Bench) -> None:
    """What is rolled ahead of the clock is no more relied on: it is filled again."""
    plain.clock.minutes(600)
    await plain.rollup.round()
    assert plain.rollup.rolled.until > START + 500 * MINUTE_US
    plain.clock.minutes(10)
    await plain.rollup.load()

    assert plain.rollup.rolled == (START + 10 * MINUTE_US, START + 10 * MINUTE_US)


async def test_a_history_that_is_written_later_is_filled(plain: Bench) -> None:
    """Rows without marks for times that were rolled already: whoever writes them says so, and the next server begins anew."""
    plain.clock.minutes(30)
    await plain.rollup.round()
    assert plain.rollup.rolled == (START, START + 29 * MINUTE_US)
    await rollup_progress.forget(plain.connection)
    plain.clock.minutes(40)
    await plain.rollup.load()

    assert plain.rollup.rolled == (START + 40 * MINUTE_US, START + 40 * MINUTE_US)


async def test_only_one_process_computes(plain: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one on the same database waits, and takes over when the first is gone."""
    agent = plain.agent()
    agent.batch(sample(0))
    await plain.acked(agent)
    await plain.rollup.round()
    other = Rollup(
        plain.rollup._database, plain.storage, DirtyMinutes(), plain.rig.counters, plain.rig.lane.barrier,
        grace_seconds=0, future_seconds=0, retention_seconds=3600, duty=1.0,
    )  # fmt: skip
    plain.clock.minutes(3)
    try:
        await other.round()
        assert await plain.rolled_rows() == 0
        plain.rollup._disconnect()

        async def takes_over() -> bool:
            await other.round()
            return await plain.rolled_rows() == 1

        await eventually(takes_over)
    finally:
        other._disconnect()


async def test_a_failed_round_is_followed_by_the_next(
    plain: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the database does to one, the task lives on, on a new connection."""
    faults = [TimeoutError("late"), asyncpg.DeadlockDetectedError("deadlock"), OSError("reset")]
    done = asyncio.Event()
    round_ = plain.rollup.round

    async def cut() -> None:
        if faults:
            raise faults.pop(0)
        await round_()
        done.set()

    monkeypatch.setattr(plain.rollup, "round", cut)
    monkeypatch.setattr(rollup_module, "INTERVAL_SECONDS", 0.01)
    task = asyncio.create_task(plain.rollup.run())
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await done.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert sum(record.getMessage().startswith("the rollup failed") for record in caplog.records) == 3
    assert plain.rollup._connection is None


async def test_a_server_computes_and_tells(
    server: RunningServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples that an agent sends become minutes by themselves, and /metrics says what waits."""
    monkeypatch.setattr(rollup_module, "INTERVAL_SECONDS", 0.05)
    server.service.rollup._grace_us = 0
    task = asyncio.create_task(server.service.rollup.run())
    try:
        async with server.agent() as agent:
            await agent.batch(1, at=now_us() - 3 * MINUTE_US)
            await agent.batch(2, at=now_us() - MINUTE_US)
            await agent.acked(2)
            await eventually(lambda: server.service.counters.minutes_rolled_up >= 2, "both minutes computed")
        text = (await server.get("/metrics")).text
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert "seatrial_minutes_rolled_up_total 2.0" in text
    for name in ("minutes_waiting", "oldest_age_seconds", "minutes_to_fill", "seconds_count"):
        assert f"\nseatrial_rollup_{name} " in text


Step = tuple[str, int, int, int]
"""What happens, to which agent, at which second, with how many samples."""

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["fresh", "fresh", "fresh", "again", "round", "both", "fail"]),
        st.integers(0, 2),
        st.integers(0, 900),
        st.integers(1, 40),
    ),
    min_size=4,
    max_size=14,
)


class Play:
    """Agents, and a rollup whose clock knows nothing of them: samples come in time, late, and again."""

    numbers = iter(range(1000))
    """Each play has a time and hosts of its own: what is closed once stays closed."""

    def __init__(self, bench: Bench) -> None:
        number = next(self.numbers)
        self.bench = bench
        self.base = START - 20 * HOUR_US + number * HOUR_US // 2
        self.hosts = [f"play-{number}-{i}" for i in range(3)]
        self.agents = [self.connect(i) for i in range(3)]
        self.connections = [1, 1, 1]
        self.newest = [self.base - 30 * SECOND] * 3

    def connect(self, number: int, **greeting: object) -> Peer:
        """An agent with two containers."""
        greeted = hello(container(0), container(1), **greeting)
        return self.bench.rig.agent(host=self.hosts[number], greeting=greeted)

    async def begin(self) -> None:
        """Nothing is stored, nothing rolled."""
        await self.bench.connection.execute("DELETE FROM container_metric; DELETE FROM metric_minute")
        await self.bench.connection.execute("DELETE FROM dirty_minute; UPDATE rollup_progress SET rolled_until = NULL")
        self.bench.clock.now = self.base - 2 * MINUTE_US
        await self.bench.rollup.load()

    def batch(self, number: int, second: int, count: int, *, fresh: bool) -> None:
        """Samples that follow the newest one, or begin anywhere, or are sent again by a new connection."""
        at = self.newest[number] if fresh else self.base + second * SECOND
        if not fresh:
            self.connections[number] += 1
            seq = self.agents[number].seq
            self.agents[number] = self.connect(number, connection=self.connections[number], next_seq=seq + 2)
            self.agents[number].seq = seq
        samples = []
        for i in range(count):
            at += (1 + (second + i * i) % 11) * SECOND
            samples.append(self.sample(at, (second + i) % 2))
        self.agents[number].batch(*samples)
        if fresh:
            self.newest[number] = at

    @staticmethod
    def sample(at: int, ref: int) -> Metric:
        """What a container measured then: the same each time that it is told."""
        second = at // SECOND
        return Metric(
            ref=ref, at=at, cpu=None if second % 13 == 0 else second % 7 / 2, mem=second % 1000 * 4096,
            rx=second * 37 % 5000, tx=None if second % 11 == 0 else second * 2**40 % 2**62,
        )  # fmt: skip

    async def round(self, second: int) -> None:
        """A round when it is so late."""
        self.bench.clock.now = self.base + second * SECOND
        await self.bench.rollup.round()

    async def check(self) -> None:
        """Charts say what samples say."""
        rows = await self.bench.stored()
        since = (self.base - MINUTE_US) // (4 * MINUTE_US) * (4 * MINUTE_US)
        span = (since, since + 40 * MINUTE_US)
        ids = sorted({row.container_id for row in rows})
        for step_us in (MINUTE_US, 4 * MINUTE_US):
            found = await self.bench.storage.chart(self.bench.connection, ids, *span, step_us, self.bench.rollup.rolled)
            assert_same(found, compute(rows, *span, step_us))


@given(steps=STEPS)
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
async def test_any_order_of_things_ends_in_the_truth(bench: Bench, steps: list[Step]) -> None:
    """Fresh, late and repeated samples, failed flushes and rounds, some at once: after a round charts are exact."""

    async def fail() -> None:
        raise ConnectionResetError("cut here")

    play = Play(bench)
    await play.begin()
    for what, number, second, count in steps:
        if what == "fail":
            bench.rig.cuts.once("before_commit", fail)
        elif what == "round":
            await bench.acked(*play.agents)
            await play.round(second)
            await play.check()
        else:
            play.batch(number, second, count, fresh=what != "again")
        if what == "both":
            await play.round(second)
    await bench.acked(*play.agents)
    await play.round(3600)
    await play.check()

    stored = [row for row in await bench.stored() if row.at < play.base + 3540 * SECOND]
    assert await bench.rolled_rows() == len(stored)
    assert bench.rollup.rolled.until > play.base + 900 * SECOND
