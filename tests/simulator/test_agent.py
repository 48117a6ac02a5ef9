"""An agent against a server of another make, on real sockets."""

import asyncio
import json
import re
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from server.protocol.error_codes import ErrorCode
from server.protocol.messages import (
    About,
    Ack,
    Action,
    ActionKind,
    ActionResult,
    AgentHeartbeat,
    Batch,
    Bye,
    Drain,
    Error,
    HeartbeatEcho,
    Hello,
    Inventory,
    Metric,
    Pulse,
    Rejected,
    ResultAck,
    TokenExpiring,
    WindowUpdate,
)
from simulator.fleet import Fleet
from simulator.host import FakeHost, host_id
from simulator.link import Transport
from simulator.lives import Lives
from tests.support.fake_server import FakeServer, Peer, fake_server
from tests.support.fleets import eventually, pauses_of, plan_for, running_fleet

M = TypeVar("M", bound=msgspec.Struct)


def seqs(peer: Peer) -> list[int]:
    """The batches that a connection brought."""
    return [batch.seq for batch in peer.all_of(Batch)]


def without_oldest(frame: bytes) -> bytes:
    """A batch's frame with the one field taken out that may differ when it is sent again."""
    return re.sub(rb'"oldest":\d+,', b"", frame)


async def has(peer: Peer, kind: type[M], count: int = 1) -> list[M]:
    """Wait until a connection brought so many messages of a type."""
    await eventually(lambda: len(peer.all_of(kind)) >= count)
    return peer.all_of(kind)


def action(
    server: FakeServer, action_id: str = "a", ref: int = 0, kind: ActionKind = "stop", seconds: int = 60
) -> Action:
    """A command that is valid for some seconds."""
    return Action(action_id=action_id, ref=ref, kind=kind, expires_at=server.now_us() + seconds * 1_000_000)


# ---------------------------------------------------------------- hello and batches


async def test_hello_says_who_speaks() -> None:
    """The first message names the machine, its containers and an empty spool."""
    async with fake_server() as server, running_fleet(server, first_agent=3) as fleet:
        peer = await server.peer(1)
        await has(peer, Batch)
        hello = peer.hello

    assert (hello.protocol, hello.connection) == (1, 1)
    assert hello.epoch == fleet.agents[0].epoch_id
    assert [container.ref for container in hello.containers] == [0, 1, 2]
    assert not hello.containers_follow
    assert peer.claims["sub"] == host_id(3)
    assert peer.claims["org"] == "acme"


async def test_batches_count_from_one_and_follow_the_timeline() -> None:
    """Seqs rise by one, and each batch's time is exactly an interval after the one before."""
    async with fake_server() as server, running_fleet(server):
        peer = await server.peer(1)
        await server.until(lambda: len(seqs(peer)) >= 8)
        batches = peer.all_of(Batch)

    assert [batch.seq for batch in batches] == list(range(1, len(batches) + 1))
    assert {later.at - batch.at for batch, later in pairwise(batches)} == {100_000}
    assert all(len(batch.metrics) == 3 and len(batch.logs) == 1 for batch in batches)


async def test_the_fleet_leaves_with_bye_after_the_last_ack() -> None:
    """At the end every batch is acknowledged, `bye` is the last message, and the socket closes 1000."""
    async with fake_server() as server:
        async with running_fleet(server, agents=5) as fleet:
            await server.until(lambda: sum(len(seqs(peer)) for peer in server.peers) >= 20)
        assert fleet.counts.batches_acked == fleet.counts.batches_produced
        for peer in server.peers:
            assert isinstance(peer.messages[-1], Bye)
            assert peer.closed == 1000


async def test_many_containers_come_in_parts() -> None:
    """What does not fit into hello follows as a snapshot before the first batch."""
    async with fake_server() as server, running_fleet(server, containers=450, log_lines=0):
        peer = await server.peer(1)
        await has(peer, Batch)
        hello, *parts = (message for message in peer.messages if isinstance(message, Hello | Inventory | Batch))

    assert isinstance(hello, Hello)
    assert hello.containers_follow
    assert isinstance(parts[0], Inventory)
    assert isinstance(parts[1], Inventory)
    assert isinstance(parts[2], Batch)
    assert [parts[0].snapshot, parts[1].snapshot] == ["part", "last"]
    refs = [container.ref for part in (hello.containers, parts[0].upserts, parts[1].upserts) for container in part]
    assert refs == list(range(450))


# ---------------------------------------------------------------- acknowledgement and resending


async def test_what_was_not_acknowledged_is_sent_again_unchanged() -> None:
    """After a cut the agent resends from the server's word on, in order, byte by byte the same but for `oldest`."""

    async def script(peer: Peer) -> None:
        if peer.number > 1:
            await peer.welcome(acked_seq=2)
            await peer.ack_all()
        await peer.welcome()
        for _ in range(5):
            await peer.next(Batch)
        await peer.send(Ack(seq=1))
        peer.connection.transport.abort()

    async with fake_server(script) as server, running_fleet(server, log_lines=30) as fleet:
        second = await server.peer(2)
        await server.until(lambda: len(seqs(second)) >= 8)
        first = server.peers[0]
        hello = second.hello

    assert hello.connection == 2
    assert hello.epoch == first.hello.epoch
    assert hello.oldest <= 2  # the ack may not have come through before the cut
    assert hello.next_seq == max(seqs(first)) + 1
    assert seqs(second) == list(range(3, 3 + len(seqs(second))))
    before = {batch.seq: frame for batch, frame in zip(first.all_of(Batch), first.batch_frames(), strict=True)}
    after = {batch.seq: frame for batch, frame in zip(second.all_of(Batch), second.batch_frames(), strict=True)}
    again = sorted(before.keys() & after.keys())
    assert again[:3] == [3, 4, 5]
    assert all(without_oldest(before[seq]) == without_oldest(after[seq]) for seq in again)
    assert fleet.counts.batches_resent == len(again)
    assert fleet.counts.batches_acked == fleet.counts.batches_produced


async def test_resent_batches_are_unchanged_across_a_restart_of_a_container() -> None:
    """A command between two ticks does not change what lies before it, even when that is made again."""

    async def script(peer: Peer) -> None:
        # One at a time, so that acks come between the batches that are made again.
        await peer.welcome(batches=64 if peer.number == 1 else 1)
        if peer.number > 1:
            await peer.ack_all()
        for _ in range(3):
            await peer.next(Batch)
        await peer.send(action(server, ref=1, kind="restart"))
        await peer.next(ActionResult)
        for _ in range(3):
            await peer.next(Batch)
        peer.connection.transport.abort()

    async with fake_server(script) as server, running_fleet(server):
        second = await server.peer(2)
        await server.until(lambda: len(seqs(second)) >= 8)
        first = server.peers[0]

    before = [without_oldest(frame) for frame in first.batch_frames()]
    after = [without_oldest(frame) for frame in second.batch_frames()[: len(before)]]
    assert before == after
    assert any(metric.ref == 1 and metric.cpu is None for batch in first.all_of(Batch)[1:] for metric in batch.metrics)


@pytest.mark.parametrize(("batches", "window_bytes"), [(3, 4 << 20), (100, 1000)])
async def test_the_window_is_kept(batches: int, window_bytes: int) -> None:
    """Unacknowledged frames fill the window in batches or bytes and never pass it; an ack lets the next ones go."""

    def unacked(peer: Peer, acked: int) -> int:
        frames = peer.batch_frames()[acked:]
        size = sum(len(frame) for frame in frames)
        assert len(frames) <= batches
        assert size <= window_bytes
        assert len(frames) == batches or size + min(len(frame) for frame in frames) > window_bytes
        return len(frames)

    async def script(peer: Peer) -> None:
        await peer.welcome(batches=batches, window_bytes=window_bytes)

    async with fake_server(script) as server, running_fleet(server, log_lines=0) as fleet:
        peer = await server.peer(1)
        await has(peer, Pulse, 3)  # so the window is full
        full = unacked(peer, 0)
        await peer.send(Ack(seq=full))
        await has(peer, Batch, full + 1)
        await has(peer, Pulse, len(peer.all_of(Pulse)) + 3)
        unacked(peer, full)
        await peer.send(Ack(seq=fleet.counts.batches_sent))


async def test_a_window_that_shrinks_stops_the_agent() -> None:
    """With more on its way than the new window allows, nothing is sent until acks make room."""

    async def script(peer: Peer) -> None:
        await peer.welcome(batches=5)

    async with fake_server(script) as server, running_fleet(server):
        peer = await server.peer(1)
        await has(peer, Batch, 5)
        await peer.send(WindowUpdate(batches=2, bytes=4 << 20))
        await has(peer, Pulse, 3)
        await peer.send(Ack(seq=3))
        await has(peer, Pulse, len(peer.all_of(Pulse)) + 3)
        assert seqs(peer) == [1, 2, 3, 4, 5]
        await peer.send(Ack(seq=4))
        await has(peer, Batch, 6)
        await peer.send(WindowUpdate(batches=500, bytes=4 << 20))
        await has(peer, Batch, 10)


async def test_pulses_come_only_while_batches_wait() -> None:
    """A full window brings a pulse for each tick with its samples; an agent that keeps up sends none."""

    async def script(peer: Peer) -> None:
        await peer.welcome(batches=1)
        await peer.next(Batch)
        pulses = [await peer.next(Pulse) for _ in range(4)]
        assert {later.at - pulse.at for pulse, later in pairwise(pulses)} == {100_000}
        assert all(len(pulse.metrics) == 3 for pulse in pulses)
        await peer.send(WindowUpdate(batches=64, bytes=4 << 20))
        await peer.send(Ack(seq=1))
        await peer.ack_all()

    async with fake_server(script) as server, running_fleet(server) as fleet:
        peer = await server.peer(1)
        await has(peer, Batch, 8)
        pulses = len(peer.all_of(Pulse))
        await has(peer, Batch, 14)
        assert len(peer.all_of(Pulse)) == pulses == fleet.counts.pulses


async def test_a_full_window_makes_no_batch_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is not made: on each tick that would be a second load beside an overload. It goes after the ack."""
    made: list[range] = []
    honest = FakeHost.metrics_of

    def counted(self: FakeHost, ticks: range) -> list[tuple[Metric, ...]]:
        made.append(ticks)
        return honest(self, ticks)

    monkeypatch.setattr(FakeHost, "metrics_of", counted)

    async def script(peer: Peer) -> None:
        await peer.welcome(batches=2)

    async with fake_server(script) as server, running_fleet(server) as fleet:
        peer = await server.peer(1)
        await has(peer, Pulse, 6)
        assert made == []
        await peer.send(WindowUpdate(batches=64, bytes=4 << 20))
        await peer.send(Ack(seq=2))
        await has(peer, Batch, 8)
        assert made
        assert seqs(peer) == list(range(1, fleet.counts.batches_sent + 1))


async def test_a_spool_that_overflows_declares_what_it_drops(tmp_path: Path) -> None:
    """Past its bytes the oldest batches go; the next batch raises `oldest` over the gap, and the ledger holds it."""

    async def script(peer: Peer) -> None:
        await peer.welcome(batches=1)
        await peer.next(Batch)
        for _ in range(12):
            await peer.next(Pulse)
        await peer.send(Ack(seq=1))
        await peer.send(WindowUpdate(batches=64, bytes=4 << 20))
        await peer.ack_all()

    ledger = tmp_path / "ledger"
    async with fake_server(script) as server, running_fleet(server, ledger, spool_bytes=1500, log_lines=0) as fleet:
        peer = await server.peer(1)
        batches = await has(peer, Batch, 6)

    assert batches[1].seq > 2
    assert batches[1].oldest == batches[1].seq
    assert [batch.seq for batch in batches[1:]] == list(range(batches[1].seq, batches[-1].seq + 1))
    dropped = [json.loads(line) for line in ledger.read_text().splitlines() if '"dropped"' in line]
    assert (dropped[0]["first"], dropped[-1]["last"]) == (1, batches[1].seq - 1)
    assert [record["sent"] for record in dropped] == [max(1, record["first"] - 1) for record in dropped]
    counts = fleet.counts
    assert counts.batches_dropped == batches[1].seq - 1
    assert counts.batches_produced == counts.batches_acked + counts.batches_dropped


async def test_rejected_rows_are_counted_and_put_down(tmp_path: Path) -> None:
    """What an ack names or counts as not stored stands in the ledger; a strange reason is filed as `other`."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.next(Batch)
        await peer.next(Batch)
        rows = (
            Rejected(seq=2, row="metrics[0]", reason="too_old", ref=0, at=5),
            Rejected(seq=2, row="logs[0]", reason="x" * 5000, ref=0, at=5, line=0),
        )
        await peer.send(Ack(seq=2, rejected=rows, rejected_more={"too_old": 7, "y" * 5000: 1}))
        await peer.ack_all()

    ledger = tmp_path / "ledger"
    async with fake_server(script) as server, running_fleet(server, ledger) as fleet:
        await has(await server.peer(1), Batch, 4)

    assert fleet.counts.rejected == {"too_old": 8, "other": 2}
    records = [json.loads(line) for line in ledger.read_text().splitlines() if '"rejected' in line]
    assert records == [
        {"type": "rejected", "agent": 1, "epoch": 0, "seq": 2, "row": "metrics[0]", "ref": 0, "at": 5, "line": None,
         "reason": "too_old"},
        {"type": "rejected", "agent": 1, "epoch": 0, "seq": 2, "row": "logs[0]", "ref": 0, "at": 5, "line": 0,
         "reason": "other"},
        {"type": "rejected_more", "agent": 1, "epoch": 0, "first": 1, "last": 2, "counts": {"too_old": 7, "other": 1}},
    ]  # fmt: skip


# ---------------------------------------------------------------- frames that cannot be taken


async def test_a_batch_the_server_cannot_read_is_never_sent_again() -> None:
    """An error about a batch: after the reconnect it is left out, declared, and the rest goes on."""

    async def script(peer: Peer) -> None:
        if peer.number > 1:
            await peer.welcome(acked_seq=2)
            await peer.ack_all()
        await peer.welcome()
        for _ in range(5):
            await peer.next(Batch)
        about = About(type="batch", seq=3)
        await peer.send(Error(code=ErrorCode.BAD_REQUEST, message="no", fatal=False, about=about))
        await peer.close(4003)

    async with fake_server(script) as server, running_fleet(server) as fleet:
        second = await server.peer(2)
        batches = await has(second, Batch, 3)

    assert batches[0].seq == 4
    assert batches[0].oldest == 4
    assert fleet.counts.batches_dropped == 1
    assert fleet.counts.errors == {"bad_request": 1}


async def test_a_gap_that_returns_is_declared() -> None:
    """A server that closes 4003 twice at the same place without a word gets that batch declared, not resent for ever."""

    async def script(peer: Peer) -> None:
        await peer.welcome(acked_seq=min(peer.number - 1, 1) * 2)
        if peer.number > 2:
            await peer.ack_all()
        for _ in range(4):
            await peer.next(Batch)
        await peer.send(Ack(seq=2))
        await peer.close(4003)

    async with fake_server(script) as server, running_fleet(server):
        third = await server.peer(3)
        batches = await has(third, Batch, 2)

    assert seqs(server.peers[1])[0] == 3
    assert (batches[0].seq, batches[0].oldest) == (4, 4)


async def test_a_frame_that_was_too_big_is_not_sent_again() -> None:
    """After 1009 the largest frame on its way is declared dropped."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        if peer.number > 1:
            await peer.ack_all()
        for _ in range(6):
            await peer.next(Batch)
        await peer.close(1009)

    async with fake_server(script) as server, running_fleet(server, log_lines=4):
        second = await server.peer(2)
        await has(second, Batch, 8)
        first = server.peers[0]

    sizes = {batch.seq: len(frame) for batch, frame in zip(first.all_of(Batch), first.batch_frames(), strict=True)}
    largest = max(sizes, key=lambda seq: sizes[seq])
    assert largest not in seqs(second)
    assert set(sizes) - {largest} <= set(seqs(second))


async def test_a_frame_over_the_servers_limit_is_never_sent() -> None:
    """Batches above `limits.frame_bytes` are declared dropped instead."""

    async def script(peer: Peer) -> None:
        await peer.welcome(frame_bytes=415)
        await peer.ack_all()

    async with fake_server(script) as server, running_fleet(server, log_lines=1) as fleet:
        peer = await server.peer(1)
        await eventually(lambda: len(seqs(peer)) > 3 and fleet.counts.batches_dropped > 1)

    assert max(len(frame) for frame in peer.batch_frames()) <= 415
    gaps = [
        (before.seq, after.seq, after.oldest)
        for before, after in pairwise(peer.all_of(Batch))
        if after.seq - before.seq > 1
    ]
    assert all(oldest > before + 1 for before, _, oldest in gaps)


# ---------------------------------------------------------------- connections


async def test_a_new_token_takes_over_before_the_old_connection_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On `token_expiring` a second connection with another token is there first; then the old one closes; nothing is lost."""
    monkeypatch.setattr("simulator.agent.TAKEOVER_SECONDS", 0.0)
    old_stood: list[bool] = []

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.welcome()
            await peer.send(Ack(seq=(await peer.next(Batch)).seq))
            await peer.send(TokenExpiring(expires_at=server.now_us() + 60_000_000))
            return
        await has(peer, Hello)
        # The old connection still brings the acknowledgement of what it took.
        sent = fleet.counts.batches_sent
        await server.peers[0].send(Ack(seq=sent))
        await eventually(lambda: fleet.counts.batches_acked == sent)
        old_stood.append(server.peers[0].closed is None)
        await peer.welcome(acked_seq=sent)
        await peer.ack_all()

    async with fake_server(script) as server, running_fleet(server) as fleet:
        second = await server.peer(2)
        await has(second, Batch, 5)
        first = server.peers[0]
        await eventually(lambda: first.closed is not None)

    assert old_stood == [True]
    assert first.closed == 1000
    assert (first.hello.connection, second.hello.connection) == (1, 2)
    assert first.claims["jti"] != second.claims["jti"]
    assert seqs(first) + seqs(second) == list(range(1, fleet.counts.batches_produced + 1))
    assert (fleet.counts.takeovers, fleet.counts.batches_resent) == (1, 0)


async def test_a_takeover_that_fails_leaves_the_old_connection_standing(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the new dial is refused the old connection goes on, and the dial is tried again."""
    monkeypatch.setattr("simulator.agent.TAKEOVER_SECONDS", 0.0)

    async def script(peer: Peer) -> None:
        await peer.welcome(acked_seq=0 if peer.number == 1 else max(seqs(server.peers[0])))
        if peer.number == 1:
            server.refusal = (HTTPStatus.INTERNAL_SERVER_ERROR, {})
            await peer.send(TokenExpiring(expires_at=server.now_us() + 60_000_000))
        await peer.ack_all()

    async with fake_server(script) as server, running_fleet(server) as fleet:
        first = await server.peer(1)
        await eventually(lambda: server.refused >= 1)
        await has(first, Batch, len(seqs(first)) + 3)
        assert first.closed is None
        server.refusal = None
        await has(await server.peer(2), Batch, 2)

    assert fleet.counts.refused == {"500": 1}
    assert fleet.counts.batches_acked == fleet.counts.batches_produced


async def test_after_a_drain_the_agent_comes_back_within_the_time() -> None:
    """1012 after `drain` is answered by a new dial within the server's seconds, not by the ordinary back-off."""

    async def script(peer: Peer) -> None:
        await peer.welcome(acked_seq=0)
        if peer.number == 1:
            await peer.send(Drain(reconnect_within_seconds=30))
            await peer.close(1012)
        await peer.ack_all()

    async with fake_server(script) as server, running_fleet(server, chance=0.001) as fleet:
        await has(await server.peer(2), Batch)

    assert fleet.counts.closes[1012] == 1


async def test_done_means_done() -> None:
    """After 1000 from the server the agent stays away, and holds what it produces."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(1000)

    async with fake_server(script) as server:
        async with running_fleet(server, settle=0) as fleet:
            await eventually(lambda: fleet.counts.closes[1000] == 1)
            assert fleet.agents[0]._redial is None
            produced = fleet.counts.batches_produced
            await eventually(lambda: fleet.counts.batches_produced > produced + 2)
        assert len(server.peers) == 1
        assert fleet.agents[0].delivery.backlog == fleet.counts.batches_produced


@pytest.mark.parametrize(
    ("status", "headers", "shortest"),
    [(401, {}, 300.0), (403, {}, 300.0), (429, {"Retry-After": "77"}, 77.0), (503, {}, 30.0), (500, {}, 0.5)],
)
@pytest.mark.parametrize("transport", list(Transport))
async def test_a_refused_handshake_is_backed_off_from(
    transport: Transport, status: int, headers: dict[str, str], shortest: float
) -> None:
    """Each HTTP status leads to its pause; 401 for ever is asked once in five minutes, not in a loop."""
    async with fake_server() as server:
        server.refusal = (HTTPStatus(status), headers)
        pauses = await pauses_of(server.url, 1, chance=0.0, transport=transport)

    assert pauses == [shortest]


@pytest.mark.parametrize("transport", list(Transport))
async def test_a_server_that_closes_after_accepting_is_not_dialled_in_a_loop(transport: Transport) -> None:
    """Connections that end at once count as failures: the pauses grow up to a minute."""

    async def script(peer: Peer) -> None:
        peer.connection.transport.abort()

    async with fake_server(script) as server:
        pauses = await pauses_of(server.url, 8, chance=1.0, transport=transport)

    assert pauses == [1.5, 2.5, 4.5, 8.5, 16.5, 32.5, 60.5, 60.5]


@pytest.mark.parametrize("transport", list(Transport))
async def test_a_server_that_is_not_there_is_backed_off_from(transport: Transport) -> None:
    """A refused TCP connection counts as unreachable."""
    async with fake_server() as server:
        url = server.url
    fleet = Fleet(plan_for(url, duration_us=300_000, transport=transport), settle_seconds=0)
    await asyncio.wait_for(fleet.run(asyncio.Event()), 20)

    assert fleet.counts.refused == {"unreachable": 1}


# ---------------------------------------------------------------- time


async def test_heartbeats_measure_the_servers_clock() -> None:
    """Heartbeats come at the server's interval; with the echo the agent knows that the server is 5 s ahead."""

    async def script(peer: Peer) -> None:
        await peer.welcome(heartbeat_seconds=1)
        beat = await peer.next(AgentHeartbeat)
        await peer.send(HeartbeatEcho(at=beat.at, server_time=server.now_us()))
        await peer.next(AgentHeartbeat)
        done.set()

    done = asyncio.Event()
    async with fake_server(script) as server:
        server.clock_ahead_us = 5_000_000
        async with running_fleet(server, settle=0) as fleet:
            await asyncio.wait_for(done.wait(), 10)
            ahead_us = fleet.agents[0].offset.server_ahead_us

    assert ahead_us == pytest.approx(5_000_000, abs=500_000)


async def test_a_silent_server_is_left() -> None:
    """Three heartbeats without any frame: the agent cuts the connection and dials again."""

    async def script(peer: Peer) -> None:
        await peer.welcome(heartbeat_seconds=1)
        if peer.number > 1:
            await peer.ack_all()

    async with fake_server(script) as server, running_fleet(server) as fleet:
        await has(await server.peer(2), Batch)

    assert fleet.counts.closes[1006] == 1
    assert len(server.peers[0].all_of(AgentHeartbeat)) == 2


async def test_a_server_that_never_welcomes_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `welcome` the agent closes after its deadline, having sent nothing but hello."""
    monkeypatch.setattr("simulator.agent.WELCOME_SECONDS", 0.3)

    async def script(peer: Peer) -> None:
        if peer.number > 1:
            await peer.welcome()
            await peer.ack_all()

    async with fake_server(script) as server, running_fleet(server):
        await has(await server.peer(2), Batch)

    assert [type(message) for message in server.peers[0].messages] == [Hello]
    assert server.peers[0].closed == 1002


# ---------------------------------------------------------------- commands


async def test_a_command_is_carried_out_once_and_its_result_repeated_until_acknowledged() -> None:
    """The same id comes three times over two connections: one execution; the result comes again until `result_ack`."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.next(Batch)
        if peer.number == 1:
            await peer.send(action(server))
            await peer.send(action(server))
            assert (await peer.next(ActionResult)).outcome == "succeeded"
            peer.connection.transport.abort()
            return
        assert [report.action_id for report in peer.hello.unacknowledged_results] == (["a"] if peer.number == 2 else [])
        await has(peer, ActionResult)
        if peer.number == 2:
            await peer.send(action(server))
            await has(peer, ActionResult, 2)
            await peer.send(ResultAck(action_id="a"))
            await peer.send(action(server, "b", 1))  # its answer shows that the acknowledgement came
            await eventually(lambda: peer.all_of(ActionResult)[-1].action_id == "b")
            await peer.send(ResultAck(action_id="b"))
            await peer.send(action(server, "a"))
            await peer.send(action(server, "c", 2))
            await eventually(lambda: peer.all_of(ActionResult)[-1].action_id == "c")
            done.set()
        await peer.ack_all()

    done = asyncio.Event()
    async with fake_server(script) as server, running_fleet(server) as fleet:
        await asyncio.wait_for(done.wait(), 10)
        await server.peers[-1].send(Ack(seq=len(seqs(server.peers[-1]))))

    assert fleet.counts.actions_executed == 3
    assert fleet.counts.actions_repeated == 3
    assert [result.action_id for result in server.peers[1].all_of(ActionResult)] == ["a", "a", "b", "c"]


async def test_a_stopped_container_is_reported_and_falls_silent() -> None:
    """After a stop its inventory says exited, and no later batch mentions it."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.next(Batch)
        await peer.send(action(server, ref=2))
        await peer.next(ActionResult)
        await peer.ack_all()

    async with fake_server(script) as server, running_fleet(server, log_lines=20):
        peer = await server.peer(1)
        await has(peer, ActionResult)
        at = server.now_us()
        await eventually(lambda: bool(peer.all_of(Batch)) and peer.all_of(Batch)[-1].at > at + 500_000)

    (inventory,) = peer.all_of(Inventory)
    assert [(container.ref, container.state) for container in inventory.upserts] == [(2, "exited")]
    later = [batch for batch in peer.all_of(Batch) if batch.at > at + 100_000]
    assert later
    assert not any(metric.ref == 2 for batch in later for metric in batch.metrics)
    assert not any(log.ref == 2 for batch in later for log in batch.logs)


async def test_late_and_impossible_commands_are_answered() -> None:
    """Past its time a command is `expired`, for an unknown container `failed`; neither changes anything."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(action(server, "late", seconds=-1))
        await peer.send(action(server, "unknown", ref=77))
        await peer.ack_all()

    async with fake_server(script) as server, running_fleet(server) as fleet:
        results = await has(await server.peer(1), ActionResult, 2)

    assert {result.action_id: result.outcome for result in results} == {"late": "expired", "unknown": "failed"}
    assert results[1].detail == "ref = 77: no such container"
    counts = fleet.counts
    assert (counts.actions_executed, counts.actions_expired, counts.actions_failed) == (0, 1, 1)


# ---------------------------------------------------------------- a server that is out of its mind


@pytest.mark.parametrize("transport", list(Transport))
async def test_unreadable_frames_end_the_connection(transport: Transport) -> None:
    """A few frames of unknown type are passed over; twenty close the connection, and the agent backs off."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        if peer.number > 1:
            await peer.ack_all()
        for _ in range(19):
            await peer.send('{"type":"from_the_future"}')
        await peer.send(Ack(seq=(await peer.next(Batch)).seq))
        await peer.next(Batch)
        await peer.send("\x00\x01 no json")

    async with fake_server(script) as server, running_fleet(server, transport=transport) as fleet:
        await has(await server.peer(2), Batch)

    assert fleet.counts.unreadable_frames == 20
    assert server.peers[0].closed == 1002


@pytest.mark.parametrize(
    ("nonsense", "code"),
    [
        (Ack(seq=10**9), 1002),
        (b"binary", 1003),
        ("x" * (2 << 20), 1009),
    ],
)
async def test_nonsense_ends_the_connection(nonsense: Ack | bytes | str, code: int) -> None:
    """An ack of what was never sent, a binary frame, a huge frame: closed, backed off from, nothing lost."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        if peer.number > 1:
            await peer.ack_all()
        await peer.next(Batch)
        await peer.send(nonsense)

    async with fake_server(script) as server, running_fleet(server) as fleet:
        second = await server.peer(2)
        await has(second, Batch, 3)

    assert server.peers[0].closed == code
    assert seqs(second)[0] == 1
    assert fleet.counts.batches_dropped == 0


async def test_a_welcome_that_claims_too_much_ends_the_connection() -> None:
    """A server that says it has what was never sent is not believed."""

    async def script(peer: Peer) -> None:
        await peer.welcome(acked_seq=0 if peer.number > 1 else 5)
        await peer.ack_all()

    async with fake_server(script) as server, running_fleet(server):
        assert (await has(await server.peer(2), Batch))[0].seq == 1

    assert server.peers[0].all_of(Batch) == []


@pytest.mark.parametrize("transport", list(Transport))
async def test_a_server_that_never_acknowledges_costs_bounded_memory(transport: Transport) -> None:
    """The spool holds its bytes and no more, however long it lasts."""

    async def script(peer: Peer) -> None:
        await peer.welcome(batches=2)

    async with (
        fake_server(script) as server,
        running_fleet(server, settle=0, spool_bytes=2000, log_lines=0, transport=transport) as fleet,
    ):
        await eventually(lambda: fleet.counts.batches_produced > 25)
        backlog = fleet.agents[0].delivery.backlog
        await server.peers[0].send(Ack(seq=2))
        await server.peers[0].send(WindowUpdate(batches=64, bytes=1 << 20))
        await eventually(lambda: fleet.counts.batches_sent > 6)
        await server.peers[0].send(Ack(seq=fleet.agents[0].delivery.next_seq - 1))

    assert backlog <= 8


async def test_recreated_containers_are_declared_before_they_are_mentioned() -> None:
    """Inventory tells the new container and the one that is gone, and they are counted; no batch mentions another."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.ack_all()

    async with fake_server(script) as server, running_fleet(server, churn_per_hour=9000.0) as fleet:
        peer = await server.peer(1)
        await eventually(lambda: sum(bool(one.removed) for one in peer.all_of(Inventory)) >= 3)
        recreated = fleet.counts.containers_recreated

    declared = {container.ref: container for container in peer.hello.containers}
    gone: set[int] = set()
    for message in peer.messages:
        if isinstance(message, Inventory):
            declared |= {container.ref: container for container in message.upserts}
            gone.update(message.removed)
        if isinstance(message, Batch):
            mentioned = {row.ref for row in message.metrics} | {row.ref for row in message.logs}
            assert mentioned <= declared.keys() - gone
    assert gone <= declared.keys()
    for ref in gone:
        old, new = declared[ref], declared[ref + 3]
        assert old.id != new.id
        assert (old.name, old.labels, old.image) == (new.name, new.labels, new.image)
    assert 3 <= recreated <= len(gone)


async def test_what_is_gone_is_declared_again_while_batches_mention_it() -> None:
    """A hello lists, as removed, each container that only a held batch mentions."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        if peer.number == 1:
            await eventually(lambda: sum(bool(one.removed) for one in peer.all_of(Inventory)) >= 2)
            await peer.close(1012)
        else:
            await peer.ack_all()

    async with fake_server(script) as server, running_fleet(server, churn_per_hour=9000.0):
        peer = await server.peer(2)
        await has(peer, Batch)

    told = {container.ref: container.state for container in peer.hello.containers}
    assert [ref for ref, state in told.items() if state == "removed"]
    first = peer.all_of(Batch)[0]
    assert {row.ref for row in first.metrics} == {0, 1, 2}
    assert {row.ref for row in first.metrics} <= told.keys()


async def test_a_crash_loop_shows_in_inventory_and_samples() -> None:
    """It is told as restarting, then running, and each run begins its counters anew."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.ack_all()

    async with (
        fake_server(script) as server,
        running_fleet(server, containers=12, profiles={"crash-looping": 1}, interval_us=1_000_000) as fleet,
    ):
        peer = await server.peer(1)
        await eventually(lambda: {c.state for one in peer.all_of(Inventory) for c in one.upserts} >= {"running"}, 20)
        lives = fleet.agents[0]._host.lives
        assert isinstance(lives, Lives)

    for one in peer.all_of(Inventory):
        assert {container.state for container in one.upserts} <= {"running", "restarting"}
    states = {container.ref: container.state for container in peer.hello.containers}
    for message in peer.messages:
        if isinstance(message, Inventory):
            states |= {container.ref: container.state for container in message.upserts}
        if isinstance(message, Batch):
            assert {row.ref for row in message.metrics} == {ref for ref, state in states.items() if state == "running"}
    assert lives.changing() == list(range(12))
