"""What one organisation may take: counted, held back where it is over, and never at the cost of another."""

import asyncio
import uuid
from dataclasses import dataclass, field

import asyncpg
import pytest
import websockets

from server.counters import Counters
from server.errors import PeerError
from server.ingest import Ingest
from server.protocol.error_codes import ErrorCode
from server.protocol.messages import Inventory, Metric
from server.quotas import Limits, Organisation, Quotas
from server.registry import Registry
from server.windows import Budget
from tests.support import core
from tests.support.access import sql
from tests.support.core import OTHER_EPOCH, Peer, RecordingLane, RecordingLive, connect, make_quotas
from tests.support.server import AgentClient, RunningServer, eventually, line, now_us, running_server
from tests.support.sockets import ScriptedSocket


@dataclass(eq=False)
class Waiter:
    """An agent whose acks cost `batches` each."""

    organisation: Organisation
    batches: int = 10
    sent: int = 0
    order: list["Waiter"] = field(default_factory=list)

    def send_ack(self) -> None:
        """As an agent's record does it."""
        if self.organisation.may_ack(self):
            self.organisation.pay(self.batches)
            self.sent += 1
            self.order.append(self)


class TestBucket:
    """Acks of an organisation, as its rate allows."""

    def test_an_ack_may_go_into_debt_and_the_next_waits(self) -> None:
        """While there is anything in the bucket an ack goes, whatever it costs; then the debt is paid off first."""
        organisation = make_quotas(batches_per_second=8).of("o")
        one, two = Waiter(organisation, 20), Waiter(organisation, 20)
        one.send_ack()
        two.send_ack()
        sent = [(one.sent, two.sent)]
        for _ in range(3):
            organisation.refill(0.5)
            sent.append((one.sent, two.sent))
        organisation.refill(0.125)
        sent.append((one.sent, two.sent))

        assert sent == [(1, 0), (1, 0), (1, 0), (1, 0), (1, 1)]
        assert not organisation.waiting

    def test_who_waits_longest_goes_first(self) -> None:
        """Acks go in the order in which they began to wait, each agent once."""
        organisation = make_quotas(batches_per_second=10).of("o")
        order: list[Waiter] = []
        waiters = [Waiter(organisation, 10, order=order) for _ in range(5)]
        for _ in range(3):
            for waiter in waiters:
                waiter.send_ack()
        for _ in range(20):
            organisation.refill(0.5)

        assert order == [*waiters, waiters[0]]  # the first began to wait again once it was served

    def test_over_time_it_is_the_rate(self) -> None:
        """However many agents push, what is acknowledged in 100 s is 100 times the rate, and one second's burst."""
        organisation = make_quotas(batches_per_second=50).of("o")
        waiters = [Waiter(organisation, 7) for _ in range(30)]
        for _ in range(1000):
            for waiter in waiters:
                waiter.send_ack()
            organisation.refill(0.1)
        acknowledged = sum(waiter.sent for waiter in waiters) * 7

        assert 5000 <= acknowledged <= 5000 + 50 + 7
        assert max(w.sent for w in waiters) - min(w.sent for w in waiters) <= 1

    def test_an_idle_organisation_saves_up_one_second(self) -> None:
        """An hour without batches gives no more than one second's worth at once."""
        organisation = make_quotas(batches_per_second=10).of("o")
        organisation.refill(3600)

        assert organisation.tokens == 10

    def test_nothing_a_second_is_nothing(self) -> None:
        """A limit of 0 lets no ack go, also after a higher one was lowered to it; `release` lets all go."""
        quotas = make_quotas(batches_per_second=10)
        waiter = Waiter(quotas.of("o"))
        quotas.replace({"o": Limits(agents=1, containers=1, subscribers=1, batches_per_second=0)})
        quotas.tick(1.0)
        for second in range(2, 100):
            waiter.send_ack()
            quotas.tick(float(second))
        held = waiter.sent
        quotas.release()

        assert (held, waiter.sent) == (0, 1)

    def test_the_tick_fills_all_and_measures(self) -> None:
        """Buckets fill by the time that passed, from the second tick on; the rate of batches is told per second."""
        quotas = make_quotas(batches_per_second=100)
        one, two = quotas.of("a"), quotas.of("b")
        one.tokens = two.tokens = 0.0
        for tick in range(11):
            one.batches += 5
            quotas.tick(1000 + tick / 10)

        assert [one.tokens, two.tokens] == pytest.approx([100, 100])
        assert [one.batches_per_second, two.batches_per_second] == pytest.approx([50, 0], abs=5.1)

    def test_limits_of_ones_own(self) -> None:
        """An organisation with limits of its own has those, known before or not; taken back, it has the server's."""
        quotas = make_quotas(agents=5)
        before = quotas.of("a")
        own = Limits(agents=1, containers=2, subscribers=3, batches_per_second=4)
        quotas.replace({"a": own, "b": own})
        limits = [before.limits.agents, quotas.of("b").limits.agents, quotas.of("c").limits.agents]
        quotas.replace({})

        assert limits == [1, 1, 5]
        assert before.limits.agents == quotas.of("b").limits.agents == 5


class Rig:
    """Two organisations over one ingest, whose lane commits when it is told to."""

    def __init__(self, window_batches: int = 4, **limits: int) -> None:
        self.counters, self.lane = Counters(), RecordingLane()
        self.quotas: Quotas = make_quotas(**limits)
        self.registry: Registry = core.make_registry(self.counters, self.quotas)
        self.ingest: Ingest = core.make_ingest(
            self.counters,
            [self.lane],
            RecordingLive(False),
            budget=Budget(10**9),
            registry=self.registry,
            window_batches=window_batches,
        )
        self.now = 1000.0
        self.quotas.tick(self.now)

    def agent(self, host: str, org: str = "noisy", **fields: object) -> Peer:
        """An agent with one container."""
        return connect(self.registry, self.ingest, core.hello(core.container(), **fields), org=org, host=host)

    def pass_seconds(self, seconds: float) -> None:
        """Let time go on, ten ticks a second."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.quotas.tick(self.now)


def acked(peer: Peer) -> int:
    """How far an agent knows it is committed."""
    return max((ack.seq for ack in peer.socket.acks), default=0)


def push(peer: Peer, window: int = 4) -> int:
    """Send what the window allows, as a well-behaved agent does; returns how many."""
    count = 0
    while peer.seq - acked(peer) < window:
        peer.batch(Metric(ref=0))
        count += 1
    return count


class TestFlood:
    """A noisy neighbour."""

    async def test_a_flood_is_held_to_its_rate_and_nothing_is_lost(self) -> None:
        """Who pushes all it can is acknowledged at its rate; another's acks come at once; nobody is closed."""
        rig = Rig(batches_per_second=20)
        noisy = [rig.agent(f"n{i}") for i in range(10)]
        quiet = rig.agent("q", org="quiet")
        for _ in range(300):  # 30 s
            for peer in noisy:
                push(peer)
            quiet.batch(Metric(ref=0)) if quiet.seq < 15 else None
            rig.lane.commit()
            assert acked(quiet) == quiet.seq
            rig.pass_seconds(0.1)
        sent, told = sum(p.seq for p in noisy), sum(acked(p) for p in noisy)
        stored = rig.counters.batches_accepted - quiet.seq
        rig.pass_seconds(10)

        assert 580 <= told <= 640
        assert told <= sent == stored <= told + 40
        assert [acked(p) for p in noisy] == [p.seq for p in noisy]
        assert all(p.socket.closed is None for p in [*noisy, quiet])

    async def test_a_window_is_full_until_the_ack(self) -> None:
        """An agent that goes on though its acks are held back is past its window, though everything is committed."""
        rig = Rig(batches_per_second=0)
        peer = rig.agent("n")
        push(peer)
        rig.lane.commit()

        with pytest.raises(PeerError) as caught:
            peer.batch(Metric(ref=0))
        assert caught.value.error.code == ErrorCode.WINDOW_EXCEEDED

    async def test_coming_back_is_no_way_around(self) -> None:
        """A welcome tells what the held acks would have told, and is paid for: a new connection gains nothing."""
        rig = Rig(batches_per_second=10)
        seq = 0
        for connection in range(1, 21):
            peer = rig.agent("n", connection=connection, next_seq=seq + 1)
            assert peer.session.progress.acked == seq
            push_from = peer.seq
            for _ in range(4):
                peer.batch(Metric(ref=0))
            seq = push_from + 4
            rig.lane.commit()
        other = rig.agent("m")
        other.batch(Metric(ref=0))
        rig.lane.commit()
        rig.pass_seconds(6)
        before = acked(other)
        rig.pass_seconds(2)

        assert (before, acked(other)) == (0, 1)

    async def test_a_new_epoch_is_paid_for_too(self) -> None:
        """What was committed of the epoch before is not given away."""
        rig = Rig(batches_per_second=2)
        push(rig.agent("n"))
        rig.lane.commit()
        tokens = rig.quotas.of("noisy").tokens
        push(rig.agent("n", epoch=OTHER_EPOCH))
        rig.lane.commit()
        rig.agent("n", epoch=OTHER_EPOCH, connection=2, next_seq=5)

        assert rig.quotas.of("noisy").tokens == tokens - 4

    async def test_a_slow_reader_waits_like_before(self) -> None:
        """An agent whose socket is full keeps its newest ack pending, and its organisation pays when it goes."""
        rig = Rig(batches_per_second=10)
        peer = rig.agent("n")
        peer.socket.takes = 0
        peer.batch(Metric(ref=0))
        rig.lane.commit()
        unpaid = rig.quotas.of("noisy").tokens
        peer.socket.takes = None
        peer.session.record.send_ack()

        assert (unpaid, rig.quotas.of("noisy").tokens) == (10, 9)
        assert acked(peer) == 1


class TestContainers:
    """Containers of all hosts of an organisation together."""

    async def test_those_over_the_limit_are_named(self) -> None:
        """A container over the organisation's limit is left out and named; another organisation is not concerned."""
        rig = Rig(containers=3)
        containers = [core.container(i) for i in range(2)]
        for host, org in (("h1", "a"), ("h1", "b")):
            rig.registry.connect(org, host, core.hello(*containers), ScriptedSocket())
        _, errors = rig.registry.connect("a", "h2", core.hello(*containers), ScriptedSocket())

        assert [(e.code, e.about and e.about.ref) for e in errors] == [(ErrorCode.LIMIT_EXCEEDED, 1)]
        assert "expected at most 3 containers in the organisation" in errors[0].message
        assert rig.quotas.of("a").containers == 3
        assert rig.quotas.of("b").containers == 2

    async def test_replacing_is_not_adding(self) -> None:
        """At its limit an organisation can still re-create containers: a full list replaces what was there."""
        rig = Rig(containers=4)
        old, new = ([core.container(i, number) for i, number in enumerate(range(first, first + 2))] for first in (0, 2))
        for host in ("h1", "h2"):
            rig.registry.connect("a", host, core.hello(*old), ScriptedSocket())
        _, errors = rig.registry.connect("a", "h1", core.hello(*new, epoch=OTHER_EPOCH), ScriptedSocket())

        assert errors == []
        assert rig.quotas.of("a").containers == 4

    async def test_counts_follow_every_change(self) -> None:
        """Present, gone, back, forgotten: memory and count agree after each step, per host and organisation."""
        rig = Rig()
        session, _ = rig.registry.connect("a", "h1", core.hello(core.container(0), core.container(1)), ScriptedSocket())
        record, organisation = session.record, rig.quotas.of("a")
        counts = []
        for upserts, removed in (
            ([core.container(0, state="exited")], ()),
            ([core.container(0, state="removed")], ()),
            ([core.container(0, state="dead")], ()),
            ([core.container(0)], ()),
            ([], (0, 1, 7)),
            ([core.container(2, state="removed")], (0,)),
        ):
            rig.registry.inventory(record, Inventory(at=1, upserts=tuple(upserts), removed=tuple(removed)))
            present = sum(c.removed_at is None for c in record.by_id.values())
            counts.append((present, record.present, organisation.containers))
        rig.registry.forget(4e9)

        assert counts == [(2, 2, 2), (1, 1, 1), (1, 1, 1), (2, 2, 2), (0, 0, 0), (0, 0, 0)]
        assert (record.present, organisation.containers, len(record.by_id)) == (0, 0, 0)

    async def test_what_the_database_knew_counts(self) -> None:
        """Containers restored at the start count, each once."""
        rig = Rig()
        for _ in range(2):
            rig.registry.restore("a", "h1", core.container(0))

        assert rig.quotas.of("a").containers == 1


async def dial(server: RunningServer, host: str, org: str = "org-a") -> tuple[int, str | None]:
    """Status of an agent's upgrade, and when it may come again."""
    try:
        async with server.agent(host=host, org=org, greet=False):
            return 101, None
    except websockets.InvalidStatus as error:
        return error.response.status_code, error.response.headers.get("Retry-After")


class TestConnections:
    """Agents and subscribers of a real server."""

    async def test_agents_over_the_limit(self, database: str) -> None:
        """Row 13: they get 429 with Retry-After; who takes its own connection over, and other organisations, get in."""
        epoch = str(uuid.uuid4())
        async with running_server(database, org_max_agents=1) as server:
            async with server.agent(epoch=epoch):
                over = await dial(server, "host-2")
                async with server.agent(epoch=epoch, connection=2) as again:
                    await again.batch(1)
                    await again.acked(1)
                    other = await dial(server, "host-2", "org-b")
            organisation = server.service.quotas.of("org-a")
            await eventually(lambda: organisation.agents == 0, "the agents gone")
            later = await dial(server, "host-2")

        assert (over[0], other[0], later[0]) == (429, 101, 101)
        assert 60 <= int(over[1] or 0) <= 120  # those turned away together do not come back together

    async def test_agents_that_dial_together(self, database: str) -> None:
        """Row 13: of many that dial at once no more get in than the organisation may have, hellos outstanding counted."""
        async with running_server(database, org_max_agents=3) as server:
            refused = asyncio.Event()
            count = 0

            async def come(number: int) -> bool:
                nonlocal count
                try:
                    async with server.agent(host=f"h{number}", greet=False):
                        await refused.wait()
                except websockets.InvalidStatus:
                    count += 1
                    if count == 9:
                        refused.set()
                    return False
                return True

            async with asyncio.timeout(30):
                got_in = await asyncio.gather(*map(come, range(12)))

        assert sum(got_in) == 3

    async def test_subscribers_over_the_limit(self, database: str) -> None:
        """They are accepted and closed 4504, which a browser can read; the others, and other organisations, go on."""
        async with running_server(database, org_max_subscribers=1) as server, server.live() as live:
            await live.send({"type": "heartbeat", "at": 1})
            await live.until("heartbeat")
            async with server.live() as over:
                code, _ = await over.closed()
            async with server.live(org="org-b") as other:
                for socket in (live, other):
                    await socket.send({"type": "heartbeat", "at": 2})
                    await socket.until("heartbeat")
            assert server.service.counters.handshakes_refused["live", "org_subscribers"] == 1

        assert code == 4504

    async def test_a_flood_on_a_real_server(self, database: str) -> None:
        """While one organisation's acks are held back another's come, all rows are stored, and then all are acknowledged."""
        async with running_server(database, flush_seconds=0.01) as server:
            await sql(database, "INSERT INTO quota (org, batches_per_second) VALUES ('org-a', 0)")
            noisy = server.service.quotas.of("org-a")
            await eventually(lambda: noisy.limits.batches_per_second == 0, "the poll")
            async with server.agent() as one, server.agent(host="host-2") as two, server.agent(org="org-b") as quiet:
                for seq in range(1, 31):
                    for agent in (one, two):
                        await agent.batch(seq)
                for seq in range(1, 21):
                    await quiet.batch(seq)
                    await quiet.acked(seq)
                await eventually(lambda: len(noisy.waiting) == 2, "both agents waiting")
                held = [await silence(agent) for agent in (one, two)]
                stored = await metric_rows(database)
                await sql(database, "UPDATE quota SET batches_per_second = 1000")
                for agent in (one, two):
                    await agent.acked(30)
                    await agent.batch(31)
                    await agent.acked(31)
                assert noisy.waiting == {}

        assert held == [[], []]
        assert stored == 80

    async def test_a_stop_sends_the_held_acks(self, database: str) -> None:
        """An orderly stop tells the agents what is committed, whatever their organisation's rate."""
        async with running_server(database, org_batches_per_second=0) as server, server.agent() as agent:
            await agent.batch(1)
            await eventually(lambda: server.service.quotas.acks_waiting == 1, "the ack held")
            server.stop()
            await agent.acked(1)
            assert (await agent.closed())[0] == 1012

    async def test_a_full_share_of_memory(self, database: str) -> None:
        """An organisation past its share of the ingest memory is sent away with 1013; another's batches are taken."""
        release = asyncio.Event()

        async def stall(seam: str) -> None:
            if seam == "before_begin":
                await release.wait()

        async with (
            running_server(database, stall, lanes=1, ingest_budget_bytes=2**20, org_budget_share=0.01) as server,
            server.agent() as one,
            server.agent(org="org-b") as other,
        ):
            text = "x" * int(2**20 * 0.01)
            await one.batch(1, logs=[line(text, now_us())])
            code, _ = await one.closed()
            await other.batch(1)
            await eventually(lambda: server.service.quotas.of("org-b").ingest_bytes > 0, "taken")
            release.set()
            await other.acked(1)
            await eventually(lambda: server.service.quotas.of("org-a").ingest_bytes == 0, "given back")

        assert code == 1013


async def silence(agent: AgentClient) -> list[object]:
    """What an agent gets up to the echo of a heartbeat."""
    await agent.send({"type": "heartbeat", "at": 7})
    found: list[object] = []
    while (message := await agent.receive())["type"] != "heartbeat":
        found.append(message)
    return found


async def metric_rows(dsn: str) -> int:
    """Samples stored."""
    connection = await asyncpg.connect(dsn)
    try:
        count: int = await connection.fetchval("SELECT count(*) FROM container_metric")
        return count
    finally:
        await connection.close()
