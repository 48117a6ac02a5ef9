"""The fleet's own faults, each against a server of another make: it happens, is counted, and leaves the ledger true."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from server.protocol.messages import Ack, AgentHeartbeat, Batch, Hello, TokenExpiring
from simulator.fault_kinds import FLEET_FAULTS
from simulator.fault_option import parse_faults
from simulator.faults import KINDS
from simulator.fleet import Fleet
from simulator.fleet_fault import choose
from simulator.ledger import LedgerReader
from simulator.link import Transport
from simulator.report import invalid_reasons, report
from simulator.scenario_faults import Fault
from tests.support.fake_server import FakeServer, Peer, fake_server
from tests.support.fleets import eventually, running_fleet


@asynccontextmanager
async def struck_fleet(
    server: FakeServer, *faults: str, ledger: Path | None = None, agents: int = 2, **changes: Any
) -> AsyncIterator[Fleet]:
    """A fleet that faults strike, entered when all have ended."""
    planned = parse_faults(faults, None, agents)
    async with running_fleet(server, ledger, agents=agents, faults=planned, **changes) as fleet:
        await eventually(lambda: all(fault.ended_us is not None for fault in fleet.faults.faults))
        yield fleet


def counts(fleet: Fleet) -> dict[str, int]:
    """What the first fault counted."""
    return dict(fleet.faults.faults[0].counts)


def of_host(server: FakeServer, number: int) -> list[Peer]:
    """The connections of one host, in their order."""
    return [peer for peer in server.peers if peer.claims["sub"] == f"host-{number:05d}"]


def test_every_kind_has_its_doer() -> None:
    """The format's kinds of the fleet are those that the fleet can do."""
    assert set(KINDS) == set(FLEET_FAULTS)


def test_who_is_struck_follows_from_the_seed() -> None:
    """The same seed chooses the same agents, another seed or place others; a share is exact, and never nobody."""
    tenth = Fault(at_seconds=1, kind="disconnect", fraction=0.1)
    chosen = choose(1, 0, tenth, range(1, 1001))

    assert chosen == choose(1, 0, tenth, range(1, 1001))
    assert len(set(chosen)) == 100
    assert chosen != choose(2, 0, tenth, range(1, 1001))
    assert chosen != choose(1, 1, tenth, range(1, 1001))
    assert len(choose(1, 0, tenth, range(1, 4))) == 1
    assert len(choose(1, 0, Fault(at_seconds=1, kind="disconnect", agents=7), range(1, 1001))) == 7


# ---------------------------------------------------------------- connections


async def test_a_disconnect_cuts_its_share_and_nobody_else() -> None:
    """One of two agents loses its connection and comes back; the other one's stands; the report says how many."""
    async with fake_server() as server, struck_fleet(server, "disconnect:at=300ms,fraction=0.5") as fleet:
        await eventually(lambda: fleet.counts.welcomes == 3)
    (told,) = report(fleet)["faults"]

    assert (told["kind"], told["agents"], told["happened"], told["missed"]) == ("disconnect", 1, 1, "")
    assert told["begun_us"] <= told["ended_us"]
    (struck,) = fleet.faults._victims
    assert len(of_host(server, struck)) == 2
    assert len(of_host(server, 3 - struck)) == 1
    assert fleet.counts.closes == {1006: 1, 1000: 2}
    assert fleet.counts.batches_acked == fleet.counts.batches_produced
    bystanders, everybody = (latency.summary()["count"] for latency in (fleet.bystander_ack_latency, fleet.ack_latency))
    assert isinstance(bystanders, int)
    assert isinstance(everybody, int)
    assert 0 < bystanders < everybody


async def test_a_storm_dials_when_it_is_over_and_not_before() -> None:
    """All are cut; the dials that their back-off would have made wait, and go together at the end."""
    planned = parse_faults(("reconnect_storm:at=300ms,for=2s",), None, 6)
    async with fake_server() as server, running_fleet(server, agents=6, faults=planned) as fleet:
        (storm,) = fleet.faults.faults
        await eventually(lambda: all(victim.held for victim in storm.victims))
        assert (fleet.counts.connects, len(server.peers)) == (6, 6)
        await eventually(lambda: fleet.counts.welcomes == 12)

    assert counts(fleet) == {"connections": 6, "dials": 6}
    assert storm.report()["missed"] == ""
    assert fleet.counts.batches_acked == fleet.counts.batches_produced


async def test_a_storm_shorter_than_the_back_off_brings_all_back_at_its_end() -> None:
    """None of the pauses is over when the fault is; all dial nevertheless, and once each."""
    planned = parse_faults(("reconnect_storm:at=300ms,for=100ms",), None, 6)
    async with fake_server() as server, running_fleet(server, agents=6, faults=planned, chance=0.99) as fleet:
        (storm,) = fleet.faults.faults
        waiting: list[bool] = []
        end = storm.end

        def look_and_end() -> None:
            assert fleet.counts.connects == 6
            waiting.append(any(victim.held for victim in storm.victims))
            end()

        storm.end = look_and_end  # type: ignore[method-assign]
        await eventually(lambda: storm.ended_us is not None)
        assert counts(fleet) == {"connections": 6, "dials": 6}
        await eventually(lambda: fleet.counts.welcomes == 12)

    assert waiting == [False]
    assert len(server.peers) == 12


@pytest.mark.parametrize("transport", list(Transport))
async def test_a_half_open_connection_loses_everything_without_a_word(transport: Transport, tmp_path: Path) -> None:
    """What the agent sends never arrives, what comes is not read; cut at the end, all of it is sent again, once."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        first = peer.number == 1
        while True:
            await peer.send(Ack(seq=(await peer.next(Batch)).seq))
            if first and fleet.faults.faults[0].active:
                silent.append(len(peer.all_of(Batch)))

    silent: list[int] = []
    path = tmp_path / "ledger"
    fault = "half_open:at=300ms,for=600ms,fraction=1"
    async with (
        fake_server(script) as server,
        running_fleet(server, path, transport=transport, faults=parse_faults((fault,), None, 1)) as fleet,
    ):
        await eventually(lambda: len(server.peers) == 2 and len(server.peers[1].all_of(Batch)) > 8)
        first, second = server.peers

    told = counts(fleet)
    assert (told["connections"], told["cut_at_its_end"]) == (1, 1)
    assert told["lost_frames"] >= 4
    assert silent == []
    heard = [batch.seq for batch in first.all_of(Batch)]
    again = [batch.seq for batch in second.all_of(Batch)]
    assert heard == list(range(1, len(heard) + 1))
    assert again[0] <= len(heard) + 1
    assert again == list(range(again[0], fleet.counts.batches_produced + 1))
    assert fleet.counts.batches_resent >= told["lost_frames"] - 1
    assert first.closed == 1006


@pytest.mark.parametrize("transport", list(Transport))
async def test_acks_that_are_not_read_wait(transport: Transport) -> None:
    """The agent sends until its window is full and takes no ack; when it reads again the connection goes on."""

    async def script(peer: Peer) -> None:
        await peer.welcome(batches=3)
        await peer.ack_all()

    async with fake_server(script) as server:
        planned = parse_faults(("unread_acks:at=300ms,for=800ms,fraction=1",), None, 1)
        async with running_fleet(server, transport=transport, faults=planned) as fleet:
            (fault,) = fleet.faults.faults
            await eventually(lambda: fault.active)
            before = fleet.counts.batches_acked
            await eventually(lambda: fleet.counts.pulses > 2)
            assert fault.active
            assert fleet.counts.batches_acked <= before + 1
            await eventually(lambda: fleet.counts.batches_acked > before + 10)

    assert counts(fleet) == {"connections": 1}
    assert fleet.counts.batches_acked == fleet.counts.batches_produced
    assert len(server.peers) == 1


@pytest.mark.parametrize("transport", list(Transport))
async def test_a_slow_link_carries_late_and_in_order(transport: Transport) -> None:
    """Frames come by the latency later, each way, none is lost or overtaken, and afterwards the link is quick again."""
    async with fake_server() as server:
        planned = parse_faults(("slow_link:at=300ms,for=1s,fraction=1,latency=150ms,bytes_per_second=20000",), None, 1)
        async with running_fleet(server, transport=transport, faults=planned) as fleet:
            (fault,) = fleet.faults.faults
            await eventually(lambda: fault.ended_us is not None)
            acked = fleet.counts.batches_acked
            await eventually(lambda: fleet.counts.batches_acked > acked + 3)
        (peer,) = server.peers

    assert counts(fleet)["connections"] == 1
    assert fault.happened >= 10
    slowest = fleet.ack_latency.summary()["max"]
    assert isinstance(slowest, float)
    assert slowest >= 300
    assert [batch.seq for batch in peer.all_of(Batch)] == list(range(1, fleet.counts.batches_produced + 1))
    assert fleet.counts.batches_acked == fleet.counts.batches_produced


async def test_a_slow_link_that_is_too_slow_is_full_and_can_still_be_left() -> None:
    """More waits than the link carries: it stays bounded as a full window would, and the fleet ends in order."""
    planned = parse_faults(("slow_link:at=400ms,for=1h,fraction=1,bytes_per_second=100",), None, 1)
    async with fake_server() as server:
        async with running_fleet(server, log_lines=500, faults=planned, settle=5.0) as fleet:
            await eventually(lambda: len(server.peers) == 1 and fleet.counts.batches_produced > 10)
            (link,) = next(iter(fleet.faults._victims.values())).links
            assert link.full
            assert fleet.counts.batches_sent < fleet.counts.batches_produced
        assert fleet.faults.faults[0].report()["missed"].startswith("it was not over")
        assert server.peers[0].closed == 1000

    assert fleet.counts.batches_acked == fleet.counts.batches_produced


async def test_a_token_runs_out_and_the_agent_takes_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent dials with a token of a second, does not heed `token_expiring`, is closed 4001, and comes back at once."""
    monkeypatch.setattr("simulator.agent.TAKEOVER_SECONDS", 0.0)

    async def script(peer: Peer) -> None:
        await peer.welcome(
            acked_seq=max((batch.seq for p in server.peers[:-1] for batch in p.all_of(Batch)), default=0)
        )
        expires, issued = peer.claims["exp"], peer.claims["iat"]
        assert isinstance(expires, int)
        assert isinstance(issued, int)
        lifetimes.append(expires - issued)
        if peer.number == 2:
            await peer.send(TokenExpiring(expires_at=server.now_us()))
            await peer.send(Ack(seq=(await peer.next(Batch)).seq))
            await peer.next(Batch)
            await peer.close(4001)
        await peer.ack_all()

    lifetimes: list[int] = []
    planned = parse_faults(("token_expiry:at=300ms,for=1s,fraction=1",), None, 1)
    async with fake_server(script) as server, running_fleet(server, faults=planned) as fleet:
        await eventually(lambda: len(server.peers) == 3 and len(server.peers[2].all_of(Batch)) > 2)

    assert lifetimes == [3600, 1, 3600]
    assert counts(fleet) == {"short_tokens": 1, "expired": 1}
    assert (fleet.counts.takeovers, fleet.counts.closes[4001]) == (1, 1)


async def test_two_expiries_of_one_agent_count_each_its_own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault has one token of its own, and the close of the connection that had it; the other's says nothing to it."""
    monkeypatch.setattr("simulator.agent.TAKEOVER_SECONDS", 0.0)

    async def script(peer: Peer) -> None:
        await peer.welcome(
            acked_seq=max((batch.seq for p in server.peers[:-1] for batch in p.all_of(Batch)), default=0)
        )
        if peer.claims["exp"] - peer.claims["iat"] < 10:  # type: ignore[operator]
            await peer.next(Batch)
            await peer.close(4001)
        await peer.ack_all()

    planned = tuple(
        Fault(at_seconds=at, kind="token_expiry", for_seconds=1, fraction=1) for at in (0.3, 1.5)
    )  # the second one's place among the dials is after the first one's close
    async with fake_server(script) as server, running_fleet(server, faults=planned) as fleet:
        await eventually(lambda: len(server.peers) == 5)

    assert [dict(fault.counts) for fault in fleet.faults.faults] == [{"short_tokens": 1, "expired": 1}] * 2


async def test_two_half_open_faults_of_one_agent_count_each_its_own_frames() -> None:
    """What the second one swallowed is not added to the first one's."""
    planned = parse_faults(
        ("half_open:at=300ms,for=400ms,fraction=1", "half_open:at=1.5s,for=800ms,fraction=1"), None, 1
    )
    lost = []
    async with fake_server() as server, running_fleet(server, faults=planned) as fleet:
        first, second = fleet.faults.faults
        await eventually(lambda: first.counts["lost_frames"] > 0 and second.active)
        lost.append(first.counts["lost_frames"])
        await eventually(lambda: second.counts["lost_frames"] > 0)

    assert second.counts["cut_at_its_end"] == 1
    assert [first.counts["lost_frames"]] == lost
    assert [fault.happened for fault in fleet.faults.faults] == [1, 1]


# ---------------------------------------------------------------- what agents say


async def test_malformed_frames_are_answered_and_hide_no_batch() -> None:
    """Each is refused as what it is, none could be taken for a batch, and the batches around them all arrive."""
    from server.protocol.codec import FrameError, decode_agent_message
    from simulator.message_faults import MALFORMED

    for data in MALFORMED:
        with pytest.raises(FrameError) as caught:
            decode_agent_message(data)
        about = caught.value.error.about
        assert about is None or about.type != "batch"

    raw: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.ack_all()

    async with fake_server(script) as server:
        planned = parse_faults(("malformed_frames:at=300ms,frames=2,fraction=1",), None, 1)
        async with running_fleet(server, faults=planned) as fleet:
            await eventually(lambda: fleet.faults.faults[0].ended_us is not None)
            await eventually(lambda: len(server.peers[0].frames) > len(server.peers[0].messages))
            raw += server.peers[0].frames

    assert MALFORMED[0] in raw
    assert counts(fleet) == {"frames": 2}


async def test_a_frame_over_the_limit_costs_no_batch() -> None:
    """One byte too many: the server closes 1009, and the agent, which knows why, drops no batch of its own."""

    async def script(peer: Peer) -> None:
        await peer.welcome(frame_bytes=5000, acked_seq=0)
        if peer.number > 1:
            await peer.ack_all()
        await eventually(lambda: any(len(frame) > 5000 for frame in peer.frames))
        sizes.append(max(map(len, peer.frames)))
        await peer.close(1009)

    sizes: list[int] = []
    async with (
        fake_server(script) as server,
        struck_fleet(server, "oversized_frames:at=300ms,fraction=1", agents=1) as fleet,
    ):
        await eventually(lambda: len(server.peers) == 2 and len(server.peers[1].all_of(Batch)) > 5)

    assert sizes == [5001]
    assert counts(fleet) == {"frames": 1, "closed": 1}
    assert fleet.counts.batches_dropped == 0
    assert fleet.counts.batches_acked == fleet.counts.batches_produced


async def test_a_flood_past_the_window_stays_in_the_ledger(tmp_path: Path) -> None:
    """Empty batches go past the window, are numbered and sent again; the ledger says that they hold no rows."""

    async def script(peer: Peer) -> None:
        await peer.welcome(batches=4)
        if peer.number > 1:
            await peer.ack_all()
        await eventually(lambda: len(peer.all_of(Batch)) > 4)
        await peer.close(4013)

    path = tmp_path / "ledger"
    async with (
        fake_server(script) as server,
        struck_fleet(server, "window_flood:at=350ms,frames=30,fraction=1", agents=1, ledger=path) as fleet,
    ):
        await eventually(lambda: len(server.peers) == 2 and len(server.peers[1].all_of(Batch)) > 45)
        second = server.peers[1]

    told = counts(fleet)
    assert told["batches"] == 30
    assert told["past_window"] >= 26
    assert told["closed"] == 1
    assert fleet.counts.batches_acked == fleet.counts.batches_produced
    assert fleet.ack_latency.summary()["count"] == fleet.counts.ticks
    batches = second.all_of(Batch)
    assert [batch.seq for batch in batches] == list(range(1, fleet.counts.batches_produced + 1))
    hollow = [batch.seq for batch in batches if not batch.metrics]
    assert len(hollow) == 30
    with LedgerReader(path) as reader:
        reader.poll()
    (course,) = reader.courses_of(1)
    produced = list(course.batches(0, 10**9))
    assert [batch.seq for batch in produced] == [batch.seq for batch in batches if batch.metrics]
    assert {later.tick - batch.tick for batch, later in pairwise(produced)} == {1}


async def test_a_flood_of_frames_is_sent_to_its_last() -> None:
    """Every heartbeat of the flood arrives, and the batches go on between them."""
    async with (
        fake_server() as server,
        struck_fleet(server, "frame_flood:at=300ms,frames=1500,fraction=1", agents=1) as fleet,
    ):
        peer = server.peers[0]
        await eventually(lambda: len(peer.all_of(AgentHeartbeat)) >= 1500)

    assert counts(fleet) == {"frames": 1500}
    assert fleet.counts.batches_acked == fleet.counts.batches_produced


async def test_a_flood_of_frames_tells_the_agents_own_time_and_takes_the_blame_for_its_close() -> None:
    """Its heartbeats are as far ahead as the agent's clock; the window flood before it did not cost the connection."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        if peer.number > 1:
            await peer.ack_all()
        await eventually(lambda: len(peer.all_of(AgentHeartbeat)) >= 50)
        await peer.close(4013)

    faults = (
        "window_flood:at=300ms,frames=80,fraction=1", "clock_skew:at=400ms,for=1m,skew=90s,fraction=1",
        "frame_flood:at=700ms,frames=50,fraction=1",
    )  # fmt: skip
    async with fake_server(script) as server, running_fleet(server, faults=parse_faults(faults, None, 1)) as fleet:
        by_window, _, by_frames = fleet.faults.faults
        await eventually(lambda: by_frames.counts["closed"] == 1)
        beats = server.peers[0].all_of(AgentHeartbeat)

    assert (by_window.counts["batches"], by_window.counts["closed"]) == (80, 0)
    assert all(beat.at > fleet.t0_us + 90_000_000 for beat in beats)


@pytest.mark.parametrize("kind", ["malformed_frames", "oversized_frames", "window_flood", "frame_flood"])
async def test_what_sends_a_lot_sends_a_little_of_it_at_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With three frames a turn the loop goes on between the agents, and each of them still sends all of its own."""
    monkeypatch.setattr("simulator.message_faults.OversizedFrames.slice_frames", 3)
    monkeypatch.setattr("simulator.paced_fault.PacedFault.slice_frames", 3)
    frames = 1 if kind in {"malformed_frames", "oversized_frames"} else 7  # the server ends at the first of these
    counted = "batches" if kind == "window_flood" else "frames"
    option = f"{kind}:at=1s,fraction=1" + ("" if kind == "oversized_frames" else f",frames={frames}")

    async def script(peer: Peer) -> None:
        await peer.welcome(frame_bytes=20_000)
        await peer.ack_all()

    async with fake_server(script) as server:
        planned = parse_faults((option,), None, 8)
        async with running_fleet(server, agents=8, faults=planned) as fleet:
            (fault,) = fleet.faults.faults
            begin = fault.begin
            after_begin: list[int] = []

            def begin_and_note() -> None:
                begin()
                after_begin.append(fault.counts[counted])

            monkeypatch.setattr(fault, "begin", begin_and_note)
            await eventually(lambda: fault.ended_us is not None)

    assert after_begin == [3]
    assert fault.counts[counted] == 8 * frames


async def test_frames_wait_for_a_connection_that_is_full_and_no_longer_than_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A half-open connection takes what a buffer takes; the flood then waits, gives it up, and says so."""
    monkeypatch.setattr("simulator.paced_fault.FULL_SECONDS", 0.1)
    monkeypatch.setattr("simulator.impaired_link.MAX_BUFFERED_BYTES", 2000)
    faults = "half_open:at=300ms,for=1h,fraction=1", "frame_flood:at=500ms,frames=100000,fraction=1"
    async with fake_server() as server, running_fleet(server, faults=parse_faults(faults, None, 1), settle=0) as fleet:
        flood = fleet.faults.faults[1]
        await eventually(lambda: flood.ended_us is not None)

    assert flood.counts["left_full"] == 1
    assert flood.counts["frames"] < 200


async def test_a_flood_that_is_under_way_ends_with_the_fleet() -> None:
    """Its timer is its own: nothing is sent after the stop, and it counts as not over."""
    planned = parse_faults(("frame_flood:at=300ms,frames=100000,fraction=1",), None, 1)
    async with fake_server() as server, running_fleet(server, faults=planned, settle=0) as fleet:
        (flood,) = fleet.faults.faults
        await eventually(lambda: flood.counts["frames"] > 0)
        fleet.faults.stop()
        sent = flood.counts["frames"]
        await eventually(lambda: fleet.counts.batches_acked > 5)

    assert flood.counts["frames"] == sent < 100_000
    assert flood.report()["missed"] == "it was not over when the fleet stopped"


async def test_a_flood_past_the_window_costs_no_rows() -> None:
    """It stops where the spool is half full, counts what it added, and no batch has to be dropped."""

    async def script(peer: Peer) -> None:
        await peer.welcome(batches=2)
        await peer.next(Batch)
        await eventually(lambda: fleet.faults.faults[0].ended_us is not None)
        await peer.ack_all()

    planned = parse_faults(("window_flood:at=350ms,frames=5000,fraction=1",), None, 1)
    async with fake_server(script) as server, running_fleet(server, faults=planned, spool_bytes=60_000) as fleet:
        await eventually(lambda: fleet.counts.batches_acked > 100)

    told = counts(fleet)
    assert 100 < told["batches"] < 600
    assert told["batches"] + fleet.counts.ticks == fleet.counts.batches_produced == fleet.counts.batches_acked
    assert fleet.counts.batches_dropped == 0


@pytest.mark.parametrize(("kind", "code"), [("duplicate_identity", 4510), ("cloned_epoch", 4509)])
async def test_impostors_dial_and_send_nothing(kind: str, code: int) -> None:
    """Another machine, or a copy: hello with what is the agent's or not, refused, no batch; the agent does not notice."""

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.welcome()
            await peer.ack_all()
        await peer.next(Hello)
        await peer.close(code)

    async with fake_server(script) as server, struck_fleet(server, f"{kind}:at=800ms,fraction=1", agents=1) as fleet:
        await eventually(lambda: counts(fleet).get("refused") == 1, 30)
        agent, impostor = server.peers

    assert counts(fleet) == {"dialled": 1, "refused": 1}
    assert agent.claims["sub"] == impostor.claims["sub"]
    assert impostor.all_of(Batch) == []
    same = (agent.hello.machine_id, agent.hello.epoch, agent.hello.connection) == (
        impostor.hello.machine_id, impostor.hello.epoch, impostor.hello.connection,
    )  # fmt: skip
    assert same is (kind == "cloned_epoch")
    assert (agent.hello.machine_id == impostor.hello.machine_id) is same
    assert fleet.counts.connects == 1
    assert fleet.counts.closes == {1000: 1}


async def test_an_impostor_has_a_token_of_its_own() -> None:
    """The agent that it copies waits for its dial with a short token; the impostor dials meanwhile with a common one."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        lifetimes.append((peer.claims["exp"], peer.claims["iat"]))
        await peer.ack_all()

    lifetimes: list[Any] = []
    faults = "token_expiry:at=300ms,for=3s,fraction=1", "duplicate_identity:at=500ms,fraction=1"
    async with fake_server(script) as server, running_fleet(server, faults=parse_faults(faults, None, 1)) as fleet:
        await eventually(lambda: len(lifetimes) == 2)
        assert fleet.faults.faults[0].counts == {}

    assert [expires - issued for expires, issued in lifetimes] == [3600, 3600]


async def test_a_clock_that_is_off_without_a_connection_counts_no_batch() -> None:
    """Batches that are produced and never leave bear the wrong time, and nobody has seen it."""

    async def script(peer: Peer) -> None:
        await peer.welcome(batches=1)
        await eventually(lambda: fleet.faults.faults[0].ended_us is not None)
        await peer.ack_all()

    planned = parse_faults(("clock_skew:at=300ms,for=600ms,skew=90s,fraction=1",), None, 1)
    async with fake_server(script) as server, running_fleet(server, faults=planned) as fleet:
        await eventually(lambda: fleet.counts.batches_acked > 8)

    assert fleet.counts.ticks > 8
    assert counts(fleet)["batches"] == 0


async def test_an_impostor_that_is_welcomed_leaves_at_once() -> None:
    """A server that takes it in is told of in the report; still no row comes of it."""
    async with (
        fake_server() as server,
        struck_fleet(server, "duplicate_identity:at=300ms,fraction=1", agents=1) as fleet,
    ):
        await eventually(lambda: len(server.peers) == 2 and server.peers[1].closed is not None)

    assert counts(fleet) == {"dialled": 1, "welcomed": 1}
    assert server.peers[1].all_of(Batch) == []


async def test_a_clock_that_is_off_shows_in_rows_heartbeats_and_ledger(tmp_path: Path) -> None:
    """All that the agent says is 90 s ahead while the fault lasts, and not before or after; the ledger has both changes."""

    async def script(peer: Peer) -> None:
        await peer.welcome(heartbeat_seconds=1)
        await peer.ack_all()

    path = tmp_path / "ledger"
    async with (
        fake_server(script) as server,
        struck_fleet(server, "clock_skew:at=300ms,for=1.5s,skew=90s,fraction=1", agents=1, ledger=path) as fleet,
    ):
        await eventually(lambda: len(server.peers[0].all_of(Batch)) > 22)
        (peer,) = server.peers

    ahead = 90_000_000
    batches = peer.all_of(Batch)
    skewed = [batch for batch in batches if batch.at > fleet.t0_us + ahead]
    assert 10 <= len(skewed) < len(batches) - 3
    assert counts(fleet) == {"batches": len(skewed)}
    assert all(log.at > fleet.t0_us + ahead - 100_000 for batch in skewed for log in batch.logs)
    assert any(beat.at > fleet.t0_us + ahead for beat in peer.all_of(AgentHeartbeat))
    others = [batch.at for batch in batches if batch not in skewed]
    assert max(others) < fleet.t0_us + ahead
    with LedgerReader(path) as reader:
        reader.poll()
    assert [(change.ahead_us, change.agent) for change in reader.clocks[1]] == [(ahead, 1), (0, 1)]
    assert reader.header is not None
    assert reader.header.clock_ahead_us == (0, ahead)


# ---------------------------------------------------------------- honesty


async def test_a_fault_that_did_not_happen_makes_the_run_invalid() -> None:
    """Nobody was connected when its time came, or its time never came: the report says which fault, and why."""

    async def script(peer: Peer) -> None:
        await peer.close(1000)

    async with (
        fake_server(script) as server,
        struck_fleet(server, "malformed_frames:at=300ms,fraction=1", settle=0) as fleet,
    ):
        pass
    planned, why = "malformed_frames of 1 at 300ms frames 2", "frames = 0 of 2 agents: none was connected"
    assert f"the fault {planned} did not happen: {why}" in invalid_reasons(fleet)

    async with (
        fake_server() as server,
        running_fleet(server, faults=parse_faults(("disconnect:at=1h",), None, 1)) as fleet,
    ):
        await eventually(lambda: fleet.counts.batches_acked > 0)
    assert any("its time had not come when the fleet stopped" in reason for reason in invalid_reasons(fleet))
    assert report(fleet)["faults"][0]["happened"] == 0
