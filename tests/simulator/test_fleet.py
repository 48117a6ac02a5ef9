"""The fleet: paced along an absolute timeline, honest about its own lateness, and leaving nothing behind."""

import asyncio
import gc
import json
import time
from collections import Counter
from pathlib import Path

import pytest

from server.protocol.messages import Ack, Batch, Bye
from simulator.delivery import Delivery
from simulator.fleet import DIALS_PER_TURN, GC_THRESHOLDS, Fleet
from simulator.latency import Latency
from simulator.ledger import LedgerReader, LedgerWriter
from simulator.link import Session, Transport
from simulator.report import invalid_reasons, report
from tests.support.fake_server import FakeServer, Peer, fake_server
from tests.support.fleets import eventually, plan_for, running_fleet


async def test_a_fleet_runs_its_duration_and_ends() -> None:
    """Every agent produces a batch per interval of the duration, all are acknowledged, and nothing runs on."""
    async with fake_server() as server:
        before = asyncio.all_tasks()
        fleet = Fleet(plan_for(server.url, agents=10, duration_us=1_000_000))
        await fleet.run(asyncio.Event())
        await eventually(lambda: all(peer.closed is not None for peer in server.peers))
        after = {task for task in asyncio.all_tasks() if task not in before}

    counts = fleet.counts
    assert counts.ticks + counts.skipped_ticks == 100
    assert counts.batches_acked == counts.batches_produced == counts.ticks
    assert counts.metrics_produced == 3 * counts.ticks
    assert len(server.peers) == counts.connects == counts.welcomes == 10
    assert [task for task in after if "simulator" in repr(task)] == []


async def test_agents_connect_over_the_ramp() -> None:
    """The dials spread over the ramp; who has not started produces nothing."""
    async with fake_server() as server, running_fleet(server, agents=4, ramp_us=800_000) as fleet:
        await eventually(lambda: fleet.counts.welcomes == 4)
        firsts = []
        for peer in server.peers:
            await eventually(lambda peer=peer: bool(peer.all_of(Batch)))  # type: ignore[misc]
            firsts.append(peer.all_of(Batch)[0].at - fleet.t0_us)

    assert all(first >= 200_000 * i for i, first in enumerate(firsts))


async def test_two_processes_are_two_parts_of_one_fleet() -> None:
    """With `first_agent` a second fleet has other hosts."""
    async with (
        fake_server() as server,
        running_fleet(server, agents=2),
        running_fleet(server, agents=2, first_agent=3),
    ):
        await eventually(lambda: len(server.peers) == 4)
        subjects = sorted(str(peer.claims["sub"]) for peer in server.peers)

    assert subjects == ["host-00001", "host-00002", "host-00003", "host-00004"]


async def test_late_ticks_keep_their_time_and_very_late_ones_are_skipped(tmp_path: Path) -> None:
    """A loop that stood still for 0.45 s: ticks of the last interval come late, older ones are skipped and counted."""
    ledger = tmp_path / "ledger"
    async with fake_server() as server, running_fleet(server, ledger) as fleet:
        await eventually(lambda: fleet.counts.ticks > 3)
        time.sleep(0.45)  # noqa: ASYNC251 - the fault under test
        await eventually(lambda: fleet.counts.skipped_ticks > 0)
        await eventually(lambda: len(server.peers[0].all_of(Batch)) > 10)
        batches = server.peers[0].all_of(Batch)

    assert fleet.counts.skipped_ticks >= 2
    assert [batch.seq for batch in batches] == list(range(1, len(batches) + 1))
    assert {(batch.at - batches[0].at) % 100_000 for batch in batches} == {0}
    assert any("schedule_lag_ms.p99" in reason for reason in invalid_reasons(fleet))
    with LedgerReader(ledger) as reader:
        reader.poll()
        (course,) = reader.courses_of(1)
    assert len(course.maps) >= 2
    produced = [batch.tick for batch in course.batches(0, 10**9)]
    assert len(produced) == fleet.counts.ticks
    assert produced[-1] - produced[0] + 1 == fleet.counts.ticks + fleet.counts.skipped_ticks


async def test_no_tick_comes_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where timers fire early another one is set, so no lateness or latency is negative; and none is set for no time."""
    honest_sleep, honest_record = asyncio.sleep, Latency.record
    asked: list[float] = []
    recorded: list[int] = []

    async def early(seconds: float) -> None:
        asked.append(seconds)
        await honest_sleep(seconds * 0.7)

    def record(latency: Latency, microseconds: int, due_us: int | None = None, *, counts: bool = True) -> None:
        recorded.append(microseconds)
        honest_record(latency, microseconds, due_us, counts=counts)

    monkeypatch.setattr(asyncio, "sleep", early)
    monkeypatch.setattr(Latency, "record", record)
    async with fake_server() as server:
        fleet = Fleet(plan_for(server.url, agents=5, duration_us=500_000))
        await fleet.run(asyncio.Event())

    assert fleet.counts.batches_acked > 10
    assert min(recorded) >= 0
    assert all(seconds == 0 or seconds >= 0.001 for seconds in asked)


async def test_ack_latency_counts_from_the_time_a_batch_was_due() -> None:
    """A server that holds its acks back for 0.3 s shows at least that."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        for _ in range(4):
            await peer.next(Batch)
        await peer.send(Ack(seq=4))
        await peer.ack_all()

    async with fake_server(script) as server, running_fleet(server) as fleet:
        await eventually(lambda: fleet.counts.batches_acked >= 4)
        worst_ms = fleet.ack_latency.summary()["max"]

    assert isinstance(worst_ms, float)
    assert worst_ms >= 299


async def test_the_ledger_ends_in_order(tmp_path: Path) -> None:
    """The last progress says what the server had, and an end follows."""
    ledger = tmp_path / "ledger"
    async with fake_server() as server:
        async with running_fleet(server, ledger, agents=3):
            await eventually(lambda: sum(len(peer.all_of(Batch)) for peer in server.peers) > 12)
        received = {str(peer.claims["sub"]): len(peer.all_of(Batch)) for peer in server.peers}
    with LedgerReader(ledger) as reader:
        reader.poll()

    assert reader.ended
    assert {f"host-{agent:05d}": course.acked for (agent, _), course in reader.courses.items()} == received
    assert all(course.produced == course.sent == course.acked for course in reader.courses.values())
    lines = ledger.read_text().splitlines()
    assert json.loads(lines[0])["type"] == "header"
    assert json.loads(lines[-1])["type"] == "end"


async def test_a_ledger_can_be_followed_while_the_fleet_runs(tmp_path: Path) -> None:
    """Within its flush interval the file tells what has happened."""
    ledger = tmp_path / "ledger"
    async with fake_server() as server, running_fleet(server, ledger) as fleet:
        with LedgerReader(ledger) as reader:
            await eventually(lambda: reader.poll() and (1, 0) in reader.courses and reader.courses[1, 0].acked >= 5)
            assert not reader.ended
            assert reader.progress_us <= fleet.now_us()


async def test_a_ledger_that_cannot_be_written_stops_the_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is an error of the run, and every connection is closed all the same."""

    def full(*_: object) -> None:
        raise OSError(28, "no room")

    async def run_into_it(server: FakeServer) -> None:
        async with running_fleet(server, tmp_path / "ledger") as fleet:
            await eventually(lambda: fleet.counts.batches_acked > 2)
            monkeypatch.setattr(LedgerWriter, "flush", full)
            await eventually(lambda: server.peers[0].closed is not None)

    async with fake_server() as server:
        with pytest.raises(OSError, match="no room"):
            await run_into_it(server)
        assert isinstance(server.peers[0].messages[-1], Bye)


@pytest.mark.parametrize("transport", list(Transport))
async def test_a_fault_of_an_agent_stops_the_fleet(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception where a library would swallow it is raised by `run`, not lost in a log."""

    def broken(*_: object) -> bool:
        raise ZeroDivisionError

    async def run_into_it(server: FakeServer) -> None:
        async with running_fleet(server, transport=transport) as fleet:
            await eventually(lambda: fleet.counts.batches_acked > 0)
            monkeypatch.setattr(Delivery, "ack", broken)
            await eventually(lambda: server.peers[0].closed is not None)

    async with fake_server() as server:
        with pytest.raises(ZeroDivisionError):
            await run_into_it(server)


async def test_the_report_adds_up() -> None:
    """Its counts are those of the run, its histograms decode, and a fleet that kept up is valid."""
    async with fake_server() as server, running_fleet(server, agents=2, interval_us=500_000) as fleet:
        await eventually(lambda: fleet.counts.batches_acked >= 4)
    final = report(fleet)

    assert final["batches"]["acked"] == final["batches"]["produced"] == fleet.counts.ticks
    assert final["rows"] == {"metrics": 3 * fleet.counts.ticks, "logs": fleet.counts.ticks}
    assert final["closes"] == {"1000": 2}
    assert final["ack_latency_ms"]["count"] == fleet.counts.batches_acked
    assert final["schedule_lag_ms"]["hdr"]
    assert final["started_us"] < final["stopped_us"]
    assert final["clock_offset_ms"] is not None
    assert json.loads(json.dumps(final)) == final


async def test_a_batch_that_is_never_acked_counts_with_its_age() -> None:
    """Every batch held at the end is in the latencies once, no younger than the wait; acked ones are there already."""

    async def acks_one(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(Ack(seq=(await peer.next(Batch)).seq))

    stop = asyncio.Event()
    async with fake_server(acks_one) as server:
        fleet = Fleet(plan_for(server.url, agents=2, interval_us=100_000), settle_seconds=0.3)
        running = asyncio.create_task(fleet.run(stop))
        await eventually(lambda: fleet.counts.batches_acked == 2 and fleet.counts.batches_produced >= 8)
        stop.set()
        await running
    latency = report(fleet)["ack_latency_ms"]

    assert fleet.counts.batches_acked == 2
    assert latency["count"] == fleet.counts.batches_produced
    assert latency["p50"] >= 300


async def test_the_warm_up_is_left_out() -> None:
    """Latencies of what was due then are in no percentile; counts are of the whole run; the report says how long it was."""
    async with fake_server() as server, running_fleet(server, warm_up_us=500_000) as fleet:
        await eventually(lambda: fleet.ack_latency.p99_ms > 0)
    final = report(fleet)
    acked, lag = final["ack_latency_ms"]["count"], final["schedule_lag_ms"]["count"]

    assert 0 < acked < fleet.counts.batches_acked
    assert 0 < lag < fleet.counts.ticks
    assert final["batches"]["acked"] == fleet.counts.batches_acked
    assert final["warm_up_ms"] == 500.0


async def test_a_busy_generator_makes_the_run_invalid() -> None:
    """Over 85 % of a core the figures say nothing about the server."""
    async with fake_server() as server, running_fleet(server) as fleet:
        await eventually(lambda: fleet.counts.batches_acked >= 2)
    fleet.load.cpu_max = 0.9

    assert "cpu.max = 0.90 of a core: expected at most 0.85" in invalid_reasons(fleet)


async def test_the_garbage_collector_is_tuned_only_where_the_process_is_the_fleets_own() -> None:
    """A fleet within another process leaves the collector alone; in its own it collects rarely, and not what was built."""
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    async with fake_server() as server:
        await Fleet(plan_for(server.url, duration_us=200_000)).run(asyncio.Event())
        assert (gc.get_threshold(), gc.get_freeze_count()) == (thresholds, frozen)
        try:
            await Fleet(plan_for(server.url, duration_us=200_000), owns_process=True).run(asyncio.Event())
            assert gc.get_threshold() == GC_THRESHOLDS
            assert gc.get_freeze_count() > frozen
        finally:
            gc.unfreeze()
            gc.set_threshold(*thresholds)


async def test_agents_that_dial_at_once_leave_turns_to_the_ticks() -> None:
    """When all connections break together only a few dials begin in one turn of the loop, and all agents come back."""
    begun: Counter[int] = Counter()
    turn = 0

    async def count_turns() -> None:
        nonlocal turn
        while True:
            await asyncio.sleep(0)
            turn += 1

    async def connect(url: str, token: str, subprotocol: str, session: Session, source: str | None = None) -> None:
        begun[turn] += 1
        await honest_connect(url, token, subprotocol, session, source)

    turns = asyncio.create_task(count_turns())
    async with fake_server() as server, running_fleet(server, agents=40, interval_us=500_000) as fleet:
        await eventually(lambda: fleet.counts.welcomes == 40)
        honest_connect = fleet._connect
        fleet._connect = connect
        try:
            for peer in tuple(server.peers):
                peer.connection.transport.abort()
            await eventually(lambda: fleet.counts.welcomes == 80)
        finally:
            turns.cancel()

    assert begun.total() == 40
    assert max(begun.values()) <= DIALS_PER_TURN


async def test_agents_belong_to_several_organisations_in_turn() -> None:
    """Each dials with a token of its own one."""
    async with fake_server() as server, running_fleet(server, agents=4, organisations=3) as fleet:
        await eventually(lambda: fleet.counts.welcomes == 4)
        found = {str(peer.claims["sub"]): peer.claims["org"] for peer in server.peers}

    assert found == {
        "host-00001": "acme-1", "host-00002": "acme-2", "host-00003": "acme-3", "host-00004": "acme-1",
    }  # fmt: skip
