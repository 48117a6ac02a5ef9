"""Lanes on a real Postgres: what is acknowledged is committed, what is stored is stored once, whatever is cut."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from server.agents import now_us
from server.db.storage.plain import PlainStorage
from server.db.storage.times import to_datetime
from server.protocol.messages import Log, Metric, Rejected
from server.reads import MINUTE_US
from tests.support.core import EPOCH, SECOND_US, Peer, container, hello
from tests.support.lanes import Hold, Rig, WatchedConnection, backends, logs, metrics, rig, terminate
from tests.support.sockets import DEADLINE_SECONDS, eventually


class Partitioned(PlainStorage):
    """Samples by ranges of time, none of which is there before it is asked for."""

    fails = 0

    async def create(self, connection: asyncpg.Connection) -> None:
        """The table without a place for any row."""
        await connection.execute("""
            DROP TABLE container_metric;
            CREATE TABLE container_metric (
                container_id bigint NOT NULL, timestamp timestamptz NOT NULL, cpu_percent real, memory_bytes bigint,
                network_rx_bytes bigint, network_tx_bytes bigint, PRIMARY KEY (container_id, timestamp)
            ) PARTITION BY RANGE (timestamp);
        """)

    async def make_room(self, connection: asyncpg.Connection, since: int, until: int) -> None:
        """One range for all of it, after some failures."""
        if self.fails:
            self.fails -= 1
            raise asyncpg.LockNotAvailableError("scripted")
        low, high = to_datetime(since), to_datetime(until + 1)
        await connection.execute(
            f"CREATE TABLE made PARTITION OF container_metric FOR VALUES FROM ('{low}') TO ('{high}')"
        )


@pytest.fixture
async def lane(database: str, connection: asyncpg.Connection) -> AsyncIterator[Rig]:
    """A running lane."""
    async with rig(database) as running:
        yield running


def ids(agent: Peer) -> dict[int, int]:
    """An agent's stored container ids by ref."""
    return {ref: known.id for ref, known in agent.session.record.containers.items()}


async def reached(hold: Hold) -> None:
    """Wait until the lane stands at a seam."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        await hold.reached.wait()


class TestCommit:
    """What an ack means."""

    async def test_rows_are_committed_before_their_ack(self, lane: Rig, connection: asyncpg.Connection) -> None:
        """Before COMMIT nobody sees the rows and nothing is acknowledged; the ack comes after they can be read."""
        before, after = Hold(), Hold()
        lane.cuts.once("before_commit", before)
        lane.cuts.once("after_commit", after)
        agent = lane.agent()
        at = now_us()
        agent.batch(
            Metric(ref=0, cpu=0.5, mem=1, rx=2, tx=3, at=at),
            logs=(Log(ref=0, at=at, line=0, stream="stderr", text="é"),),
        )

        await reached(before)
        assert (await metrics(connection), await logs(connection)) == ([], [])
        assert agent.socket.acks == []
        before.release.set()
        await reached(after)
        assert agent.socket.acks == []
        assert await metrics(connection) == [(ids(agent)[0], at, 0.5, 1, 2, 3)]
        assert await logs(connection) == [(ids(agent)[0], at, 0, "stderr", "é", False, False)]
        after.release.set()

        await agent.socket.acked(1)

    async def test_one_ack_per_agent_and_flush(self, lane: Rig) -> None:
        """Batches of one flush are acknowledged together, each agent's with one cumulative ack."""
        one, two = lane.agent(host="h1"), lane.agent(host="h2")
        for _ in range(3):
            one.batch(Metric(ref=0))
        two.batch(Metric(ref=0))

        await one.socket.acked(3)
        await two.socket.acked(1)

        assert [ack.seq for ack in one.socket.acks] == [3]
        assert [ack.seq for ack in two.socket.acks] == [1]
        assert (lane.counters.flushes, lane.counters.metric_rows_stored) == (1, 4)

    async def test_a_commit_gives_back_window_and_memory(self, lane: Rig) -> None:
        """After the ack nothing of the batch counts against the agent's window or the budget."""
        agent = lane.agent()
        agent.batch(Metric(ref=0, mem=1))
        progress = agent.session.progress
        assert progress.outstanding_batches == 1
        assert lane.budget.used_bytes > 0

        await agent.socket.acked(1)

        assert (progress.outstanding_batches, progress.outstanding_bytes, lane.budget.used_bytes) == (0, 0, 0)

    async def test_what_came_on_a_broken_connection_is_acknowledged_on_the_next(self, lane: Rig) -> None:
        """The ack belongs to the epoch: it goes to the connection the agent has at the COMMIT."""
        hold = Hold()
        lane.cuts.once("before_commit", hold)
        first = lane.agent()
        first.batch(Metric(ref=0))
        await reached(hold)
        lane.registry.disconnect(first.session)
        second = lane.agent(greeting=hello(container(), connection=2, next_seq=2))
        hold.release.set()

        await second.socket.acked(1)

        assert first.socket.acks == []

    async def test_a_batch_without_a_good_row_needs_no_database(self, lane: Rig) -> None:
        """Rows that were all rejected are acknowledged with their reasons, and no transaction is begun."""
        agent = lane.agent()
        agent.batch(Metric(ref=9, at=5))

        ack = await agent.socket.acked(1)

        assert ack.rejected == (Rejected(seq=1, row="metrics[0]", reason="unknown_ref", ref=9, at=5),)
        assert "before_begin" not in lane.cuts.visits

    async def test_a_flush_starts_at_once_when_enough_has_gathered(self, database: str, connection: Any) -> None:
        """A full lane does not wait for its time."""
        async with rig(database, flush_seconds=10_000) as lane:
            agent = lane.agent()
            agent.batch(logs=tuple(
                Log(ref=0, at=now_us(), line=i, stream="stdout", text="x" * 16_000) for i in range(70)
            ))  # fmt: skip

            await agent.socket.acked(1)

            assert len(await logs(connection)) == 70

    async def test_a_lane_tells_how_long_its_flushes_take(self, lane: Rig) -> None:
        """While one is under way it counts up; a lane that has nothing to do is in no hurry."""
        hold = Hold()
        lane.cuts.once("before_commit", hold)
        agent = lane.agent()
        assert lane.lane.flush_takes_seconds == 0
        agent.batch(Metric(ref=0))
        await reached(hold)
        first = lane.lane.flush_takes_seconds
        await eventually(lambda: lane.lane.flush_takes_seconds > first)
        hold.release.set()
        await agent.socket.acked(1)
        await eventually(lambda: lane.lane.flush_takes_seconds == 0)


class TestCuts:
    """Each step of a flush may be the last one of its connection."""

    @pytest.mark.parametrize("place", ["before_begin", "before_commit"])
    async def test_a_backend_that_dies_before_commit(
        self, lane: Rig, connection: asyncpg.Connection, place: str
    ) -> None:
        """Nothing was stored, the same rows go again, each is stored once, and one ack comes."""
        agent = lane.agent(container(0), container(1))
        lane.cuts.once(place, lambda: terminate(connection))
        # The samples are copied before the second seam, the line with the COMMIT after it.
        lines = (Log(ref=0, at=now_us(), line=0, stream="stdout", text="a"),)
        agent.batch(Metric(ref=0, mem=1), Metric(ref=1, mem=2), logs=lines)

        await agent.socket.acked(1)

        assert sorted(row.mem or 0 for row in await metrics(connection)) == [1, 2]
        assert len(await logs(connection)) == 1
        assert [ack.seq for ack in agent.socket.acks] == [1]
        assert lane.counters.flush_retries.total() == 1
        assert lane.counters.metric_rows_stored == 2
        assert lane.counters.rows_replayed == 0

    async def test_an_error_before_commit_stores_nothing_twice(self, lane: Rig, connection: asyncpg.Connection) -> None:
        """A flush that fails between its rows and its COMMIT is rolled back and done again by COPY."""

        async def fail() -> None:
            raise ConnectionResetError("cut here")

        lane.cuts.once("before_commit", fail)
        agent = lane.agent()
        agent.batch(Metric(ref=0, mem=1))

        await agent.socket.acked(1)

        assert [row.mem for row in await metrics(connection)] == [1]
        assert lane.counters.flush_retries == {"ConnectionResetError": 1}
        assert lane.counters.flushes_merged == 0

    async def test_a_commit_whose_answer_is_lost(self, database: str, connection: asyncpg.Connection) -> None:
        """The outcome of a COMMIT is unknown: the rows are merged, found there, and acknowledged once."""
        lost: list[str] = []

        class LosesTheAnswer(WatchedConnection):
            def done(self, statement: str, tag: str) -> str:
                if statement.endswith("COMMIT") and not lost:
                    lost.append(tag)
                    self.terminate()
                    raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
                return tag

        async with rig(database, connection_class=LosesTheAnswer) as lane:
            agent = lane.agent()
            agent.batch(Metric(ref=0, mem=1), logs=(Log(ref=0, at=now_us(), line=0, stream="stdout", text="a"),))

            await agent.socket.acked(1)

            assert lost == ["COMMIT"]
            assert [row.mem for row in await metrics(connection)] == [1]
            assert len(await logs(connection)) == 1
            assert [ack.rejected for ack in agent.socket.acks] == [()]
            assert lane.counters.flush_retries == {"commit_unknown": 1}
            assert lane.counters.rows_replayed == 2

    async def test_a_flush_of_fresh_rows_takes_a_trip_for_each_table(
        self, database: str, connection: asyncpg.Connection
    ) -> None:
        """BEGIN, COMMIT and marks travel with rows: with ten thousand sockets a trip waits for a long turn of the loop."""
        minute = now_us() // MINUTE_US * MINUTE_US - MINUTE_US
        trips: list[str] = []

        class Counts(WatchedConnection):
            def done(self, statement: str, tag: str) -> str:
                trips.append(re.sub(r" \(.*?\)", "", statement))
                return tag

        async with rig(database, connection_class=Counts) as lane:
            agent = lane.agent()
            lines = (Log(ref=0, at=minute, line=0, stream="stdout", text="a"),)
            agent.batch(Metric(ref=0, mem=1), logs=lines, at=minute)
            await agent.socket.acked(1)
            agent.batch(Metric(ref=0, mem=2), at=minute + MINUTE_US - 1)
            await agent.socket.acked(2)

            assert len(await metrics(connection)) == 2
            assert [trip for trip in trips if "TEMP" not in trip] == [
                "BEGIN; INSERT INTO dirty_minute VALUES; COPY container_metric FROM STDIN",
                "COPY container_log FROM STDIN; COMMIT",
                "BEGIN; COPY container_metric FROM STDIN; COMMIT",
            ]
            assert (lane.counters.metric_rows_stored, lane.counters.log_rows_stored) == (2, 1)

    async def test_a_server_that_dies_between_commit_and_ack(
        self, database: str, connection: asyncpg.Connection
    ) -> None:
        """The agent sends the batch to the next server, which finds every row there and acknowledges."""
        at = now_us()

        async def die() -> None:
            raise RuntimeError("killed")

        async with rig(database) as lane:
            agent = lane.agent()
            lane.cuts.once("after_commit", die)
            agent.batch(Metric(ref=0, mem=1, at=at))
            with pytest.raises(RuntimeError, match="killed"):
                await lane.task
            assert agent.socket.acks == []
        assert len(await metrics(connection)) == 1

        async with rig(database) as lane:
            agent = lane.agent(greeting=hello(container(), connection=2, next_seq=2))
            agent.batch(Metric(ref=0, mem=1, at=at), seq=1)
            ack = await agent.socket.acked(1)

            assert ack.rejected == ()
            assert len(await metrics(connection)) == 1
            assert (lane.counters.rows_replayed, lane.counters.metric_rows_stored) == (1, 0)

    async def test_a_database_that_refuses(
        self, lane: Rig, connection: asyncpg.Connection, postgres_dsn: str, database: str
    ) -> None:
        """While the database is away nothing is acknowledged and the lane says since when; then all of it is stored."""
        agent = lane.agent()
        agent.batch(Metric(ref=0, mem=1))
        await agent.socket.acked(1)
        admin = await asyncpg.connect(postgres_dsn)
        name = database.rsplit("/", 1)[1]
        try:
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            await terminate(connection)
            agent.batch(Metric(ref=0, mem=2))
            await eventually(lambda: lane.lane.failing_since is not None and lane.counters.flush_retries.total() >= 2)
            agent.batch(Metric(ref=0, mem=3))
            assert [ack.seq for ack in agent.socket.acks] == [1]
            assert not lane.task.done()
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')

            await agent.socket.acked(3)
        finally:
            await admin.close()

        assert lane.lane.failing_since is None
        assert [row.mem for row in await metrics(connection)] == [1, 2, 3]

    @pytest.mark.parametrize("sqlstate", ["40001", "40P01", "53100", "57014", "55P03"])
    async def test_a_moment_of_the_database_is_waited_out(
        self, lane: Rig, connection: asyncpg.Connection, sqlstate: str
    ) -> None:
        """Serialization failure, deadlock, full disk, cancelled statement, lock timeout: the same rows go again."""
        await connection.execute(f"""
            CREATE SEQUENCE troubles;
            CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('troubles') <= 2 THEN RAISE EXCEPTION 'trouble' USING ERRCODE = '{sqlstate}'; END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER trouble BEFORE INSERT ON container_metric EXECUTE FUNCTION trouble();
        """)
        agent = lane.agent()
        agent.batch(Metric(ref=0, mem=1), logs=(Log(ref=0, at=now_us(), line=0, stream="stdout", text="x"),))

        ack = await agent.socket.acked(1)

        assert lane.counters.flush_retries[sqlstate] == 2
        assert (ack.rejected, agent.socket.closed) == ((), None)
        assert [row.mem for row in await metrics(connection)] == [1]
        assert len(await logs(connection)) == 1
        assert lane.lane.failing_since is None

    @pytest.mark.parametrize("word", ["BEGIN", "COMMIT"])
    async def test_a_connection_that_is_confused_is_replaced(
        self, database: str, connection: asyncpg.Connection, word: str
    ) -> None:
        """A connection lost in the middle of an operation makes asyncpg raise InternalClientError at the next: try again."""

        class Confused(WatchedConnection):
            confusions = 1

            def done(self, statement: str, tag: str) -> str:
                if word in statement and Confused.confusions:
                    Confused.confusions -= 1
                    raise asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress")
                return tag

        async with rig(database, connection_class=Confused) as lane:
            agent = lane.agent()
            agent.batch(Metric(ref=0, mem=1))
            await agent.socket.acked(1)

            assert Confused.confusions == 0
            assert lane.counters.flush_retries.total() == 1
            assert [row.mem for row in await metrics(connection)] == [1]
            assert not lane.task.done()

    async def test_a_commit_that_rolled_back_is_no_commit(self, database: str, connection: asyncpg.Connection) -> None:
        """Postgres ends an aborted transaction with the word ROLLBACK and no error: nothing is acknowledged for it."""

        class RollsBack(WatchedConnection):
            times = 1

            def sent(self, statement: str) -> str:
                if statement.endswith("COMMIT") and RollsBack.times:
                    RollsBack.times -= 1
                    return statement.removesuffix("COMMIT") + "ROLLBACK"
                return statement

        async with rig(database, connection_class=RollsBack) as lane:
            agent = lane.agent()
            agent.batch(Metric(ref=0, mem=1))
            await agent.socket.acked(1)

            assert RollsBack.times == 0
            assert lane.counters.flush_retries == {"commit_unknown": 1}
            assert [row.mem for row in await metrics(connection)] == [1]

    async def test_a_backlog_goes_in_several_flushes(self, database: str, connection: asyncpg.Connection) -> None:
        """However much has gathered, a flush takes a bounded part of it; a barrier waits for all of them."""
        async with rig(database, flush_bytes=1) as lane:
            hold = Hold()
            lane.cuts.once("before_begin", hold)
            agent = lane.agent()
            agent.batch(Metric(ref=0, mem=0))
            await reached(hold)
            for mem in range(1, 6):
                agent.batch(Metric(ref=0, mem=mem))
            hold.release.set()
            await lane.lane.barrier(DEADLINE_SECONDS)

            assert lane.counters.flushes == 6
            assert [ack.seq for ack in agent.socket.acks] == [1, 2, 3, 4, 5, 6]
            assert [row.mem for row in await metrics(connection)] == list(range(6))
            assert lane.lane.idle

    @pytest.mark.parametrize("replay", [False, True])
    async def test_a_flush_that_is_not_done_in_time_is_halved(
        self, database: str, connection: asyncpg.Connection, replay: bool
    ) -> None:
        """A statement past its deadline would be past it again: half of it goes, then the rest, each once, in order."""
        await connection.execute("""
            CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF (SELECT count(*) FROM added) > 2 THEN RAISE EXCEPTION 'too slow' USING ERRCODE = '57014'; END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER slow AFTER INSERT ON container_metric REFERENCING NEW TABLE AS added EXECUTE FUNCTION slow();
        """)
        async with rig(database) as lane:
            hold = Hold()
            lane.cuts.once("before_begin", hold)
            agent = lane.agent(greeting=hello(container(), connection=2, next_seq=9 if replay else 1))
            for mem in range(8):
                agent.batch(Metric(ref=0, mem=mem), seq=mem + 1)
            await reached(hold)
            hold.release.set()
            await lane.lane.barrier(2 * DEADLINE_SECONDS)

            # What was cancelled beside its COMMIT may be committed: it is merged from then on, and cancelled there.
            assert lane.counters.flush_retries["57014"] + lane.counters.flush_retries["commit_unknown"] >= 2
            assert lane.counters.flush_retries["commit_unknown"] == (0 if replay else 1)
            assert [ack.seq for ack in agent.socket.acks] == sorted({ack.seq for ack in agent.socket.acks})
            assert agent.socket.acks[-1].seq == 8
            assert [row.mem for row in await metrics(connection)] == list(range(8))
            assert lane.counters.metric_rows_stored == 8

    @pytest.mark.parametrize("replay", [False, True])
    async def test_a_missing_partition_is_made(
        self, database: str, connection: asyncpg.Connection, replay: bool
    ) -> None:
        """A row without a partition is not at fault: the strategy makes one, and copied and merged rows alike are stored."""
        storage = Partitioned()
        await storage.create(connection)
        async with rig(database, storage=storage) as lane:
            agent = lane.agent(greeting=hello(container(), connection=2, next_seq=2 if replay else 1))
            agent.batch(Metric(ref=0, mem=1), seq=1)

            ack = await agent.socket.acked(1)

            assert ack.rejected == ()
            assert lane.counters.flush_retries == {"missing_partition": 1}
            assert [row.mem for row in await metrics(connection)] == [1]

    async def test_a_partition_that_cannot_be_made_is_waited_for(
        self, database: str, connection: asyncpg.Connection
    ) -> None:
        """Rows wait, unacknowledged and not rejected, until there is a place for them."""
        storage = Partitioned()
        storage.fails = 2
        await storage.create(connection)
        async with rig(database, storage=storage) as lane:
            agent = lane.agent()
            agent.batch(Metric(ref=0, mem=1))

            ack = await agent.socket.acked(1)

            assert ack.rejected == ()
            assert lane.counters.flush_retries == {"missing_partition": 3}
            assert [row.mem for row in await metrics(connection)] == [1]

    async def test_a_connection_that_cannot_be_prepared_is_closed(
        self, lane: Rig, connection: asyncpg.Connection
    ) -> None:
        """Each try to reconnect leaves no connection behind, or an outage would use up all there are."""
        await connection.execute("ALTER TABLE container_log RENAME TO away")
        agent = lane.agent()
        agent.batch(Metric(ref=0))
        await eventually(lambda: lane.counters.flush_retries["42P01"] >= 3)

        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(await backends(connection)) > 1:  # a backend ends some time after its connection
                await asyncio.sleep(0.01)
        await connection.execute("ALTER TABLE away RENAME TO container_log")

        await agent.socket.acked(1)


class TestDuplicates:
    """Rows that may have been stored before."""

    async def test_equal_rows_are_replays(self, lane: Rig, connection: asyncpg.Connection) -> None:
        """What is there already with equal values is counted, acknowledged and not stored again, nulls included."""
        at = now_us()
        rows = (Metric(ref=0, cpu=0.1, at=at), Metric(ref=1, mem=2**63 - 1, at=at))
        lines = (Log(ref=0, at=at, line=0, stream="stdout", text="", partial=True, truncated=True),)
        containers = container(0), container(1)
        agent = lane.agent(*containers)
        agent.batch(*rows, logs=lines)
        await agent.socket.acked(1)
        lane.registry.disconnect(agent.session)
        stored = await metrics(connection), await logs(connection)
        again = lane.agent(greeting=hello(*containers, epoch=EPOCH.replace("1", "3"), next_seq=2))

        again.batch(*rows, logs=lines, seq=1)
        ack = await again.socket.acked(1)

        assert ack.rejected == ()
        assert (await metrics(connection), await logs(connection)) == stored
        assert lane.counters.rows_replayed == 3
        assert lane.counters.flushes_merged == 1

    async def test_other_values_are_a_conflict_named_in_the_ack(
        self, lane: Rig, connection: asyncpg.Connection
    ) -> None:
        """A row whose identity is stored with other values is rejected with its place, ref, time and line; it stays."""
        at = now_us()
        containers = container(5), container(7)
        agent = lane.agent(*containers)
        agent.batch(
            Metric(ref=7, mem=1, at=at),
            logs=tuple(Log(ref=5, at=at, line=i, stream="stdout", text="a") for i in (0, 1)),
        )
        await agent.socket.acked(1)
        stored = await metrics(connection), await logs(connection)
        lane.registry.disconnect(agent.session)
        again = lane.agent(greeting=hello(*containers, connection=2, epoch=EPOCH.replace("1", "3"), next_seq=2))

        again.batch(
            Metric(ref=5, mem=9, at=at),
            Metric(ref=7, at=at),
            logs=tuple(Log(ref=5, at=at, line=i, stream="stdout", text=text) for i, text in enumerate("ab")),
            seq=1,
        )
        ack = await again.socket.acked(1)

        detail = "a row with this identity is stored with other values"
        assert ack.rejected == (
            Rejected(seq=1, row="metrics[1]", reason="conflicting_duplicate", ref=7, at=at, detail=detail),
            Rejected(seq=1, row="logs[1]", reason="conflicting_duplicate", ref=5, at=at, line=1, detail=detail),
        )
        new = (ids(agent)[5], at, None, 9, None, None)
        assert sorted(map(tuple, await metrics(connection))) == sorted([*map(tuple, stored[0]), new])
        assert await logs(connection) == stored[1]
        assert lane.counters.rows_rejected == {"conflicting_duplicate": 2}
        assert lane.counters.rows_replayed == 1

    async def test_two_versions_in_one_flush_keep_the_first(self, lane: Rig, connection: asyncpg.Connection) -> None:
        """Of two rows with one identity in the same merge the earlier one is stored, the later one rejected."""
        agent = lane.agent(greeting=hello(container(), next_seq=10))
        at = now_us()
        agent.batch(Metric(ref=0, mem=1, at=at), Metric(ref=0, mem=2, at=at), Metric(ref=0, mem=1, at=at), seq=1)

        ack = await agent.socket.acked(1)

        assert [row.mem for row in await metrics(connection)] == [1]
        assert [(row.row, row.reason) for row in ack.rejected] == [("metrics[1]", "conflicting_duplicate")]

    async def test_a_fresh_duplicate_marks_its_agent_and_nobody_else(
        self, lane: Rig, connection: asyncpg.Connection
    ) -> None:
        """A COPY that meets a stored row is merged at once; only that agent's rows are merged from then on."""
        at = now_us() - 10 * SECOND_US
        guilty, other = lane.agent(host="h1"), lane.agent(host="h2")
        await connection.execute(
            "INSERT INTO container_metric VALUES ($1, to_timestamp($2 / 1e6))", ids(guilty)[0], float(at)
        )
        stored_at = (await metrics(connection))[0].at
        guilty.batch(Metric(ref=0, at=stored_at))
        other.batch(Metric(ref=0, at=stored_at))

        await guilty.socket.acked(1)
        await other.socket.acked(1)

        assert (guilty.session.progress.suspect, other.session.progress.suspect) == (True, False)
        assert lane.counters.flush_retries == {"23505": 1}
        assert len(await metrics(connection)) == 2
        assert lane.lane.failing_since is None

        flushes_merged = lane.counters.flushes_merged
        other.batch(Metric(ref=0, at=at + SECOND_US))
        await other.socket.acked(2)
        assert lane.counters.flushes_merged == flushes_merged
        guilty.batch(Metric(ref=0, at=at + SECOND_US))
        await guilty.socket.acked(2)
        assert lane.counters.flushes_merged == flushes_merged + 1
        assert lane.counters.flush_retries == {"23505": 1}


class TestUnstorable:
    """Rows that Postgres refuses."""

    async def test_an_unstorable_row_is_found_and_the_rest_stored(
        self, lane: Rig, connection: asyncpg.Connection
    ) -> None:
        """Two rows that a constraint forbids are rejected by name; every other row of all agents is stored."""
        await connection.execute("ALTER TABLE container_metric ADD CONSTRAINT no_666 CHECK (memory_bytes <> 666)")
        refs = range(20)
        guilty = lane.agent(*(container(ref) for ref in refs), host="h1")
        other = lane.agent(host="h2")
        at = now_us()
        guilty.batch(
            *(Metric(ref=ref, mem=666 if ref in {3, 17} else ref, at=at) for ref in refs),
            logs=(Log(ref=0, at=at, line=0, stream="stdout", text="a"),),
        )
        other.batch(Metric(ref=0, mem=1, at=at))

        ack = await guilty.socket.acked(1)
        assert (await other.socket.acked(1)).rejected == ()

        assert [(row.row, row.reason, row.ref, row.at, row.line) for row in ack.rejected] == [
            ("metrics[3]", "unstorable", 3, at, None),
            ("metrics[17]", "unstorable", 17, at, None),
        ]
        assert ack.rejected[0].detail.startswith("23514: ")
        assert "no_666" in ack.rejected[0].detail
        assert len(await metrics(connection)) == 19
        assert len(await logs(connection)) == 1
        assert lane.counters.rows_rejected == {"unstorable": 2}
        assert not other.session.progress.suspect

    async def test_past_twenty_rejected_rows_are_counted_by_reason(
        self, lane: Rig, connection: asyncpg.Connection
    ) -> None:
        """The ack names the first 20 and counts those beyond."""
        await connection.execute("ALTER TABLE container_log ADD CHECK (text <> 'bad')")
        agent = lane.agent()
        at = now_us()
        agent.batch(logs=tuple(Log(ref=0, at=at, line=i, stream="stdout", text="bad") for i in range(25)))

        ack = await agent.socket.acked(1)

        assert [row.line for row in ack.rejected] == list(range(20))
        assert ack.rejected_more == {"unstorable": 5}


class TestBarrier:
    """Waiting for what was offered."""

    async def test_it_waits_for_the_flush_under_way_and_for_what_is_pending(
        self, lane: Rig, connection: asyncpg.Connection
    ) -> None:
        """A barrier returns once everything offered before it is committed, in however many flushes."""
        hold = Hold()
        lane.cuts.once("before_commit", hold)
        agent = lane.agent()
        agent.batch(Metric(ref=0, mem=1))
        await reached(hold)
        agent.batch(Metric(ref=0, mem=2))

        barrier = asyncio.create_task(lane.lane.barrier(DEADLINE_SECONDS))
        await asyncio.sleep(0)  # let it begin
        hold.release.set()
        await barrier

        assert [row.mem for row in await metrics(connection)] == [1, 2]
        assert lane.lane.idle

    async def test_it_does_not_wait_for_what_comes_later(self, lane: Rig, connection: asyncpg.Connection) -> None:
        """Rows offered after a barrier began do not hold it up."""
        first, second = Hold(), Hold()
        lane.cuts.once("before_commit", first)
        lane.cuts.once("before_commit", second)
        agent = lane.agent()
        agent.batch(Metric(ref=0, mem=1))
        await reached(first)
        barrier = asyncio.create_task(lane.lane.barrier(DEADLINE_SECONDS))
        await asyncio.sleep(0)  # let it begin
        agent.batch(Metric(ref=0, mem=2))
        first.release.set()

        await barrier

        assert [row.mem for row in await metrics(connection)] == [1]
        second.release.set()
        await agent.socket.acked(2)

    async def test_an_idle_lane_has_no_barrier(self, lane: Rig) -> None:
        """Nothing offered, nothing to wait for: neither barrier nor drain looks at the database."""
        await lane.lane.barrier(0.001)

        assert await lane.lane.drain(0.001)
        assert lane.cuts.visits == []

    async def test_it_hurries_the_flush(self, database: str, connection: asyncpg.Connection) -> None:
        """A barrier does not wait for the lane's flush interval."""
        async with rig(database, flush_seconds=10_000) as lane:
            agent = lane.agent()
            agent.batch(Metric(ref=0, mem=1))

            assert await lane.lane.drain(DEADLINE_SECONDS)

            assert len(await metrics(connection)) == 1
            assert [ack.seq for ack in agent.socket.acks] == [1]

    async def test_its_deadline_ends_it(self, lane: Rig) -> None:
        """A database that does not get there in time is a TimeoutError, and a drain that says so; the lane lives on."""
        hold = Hold()
        lane.cuts.once("before_commit", hold)
        agent = lane.agent()
        agent.batch(Metric(ref=0))
        await reached(hold)

        with pytest.raises(TimeoutError):
            await lane.lane.barrier(0.01)
        assert not await lane.lane.drain(0.01)
        hold.release.set()

        await agent.socket.acked(1)
