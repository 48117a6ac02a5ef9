"""A fleet of several processes is one fleet: its rows, its report, its end."""

import asyncio
import json
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil
import pytest

from server.protocol.messages import Batch
from simulator.fleet import Fleet
from simulator.ledger import LedgerReader, ledger_files
from simulator.link import Transport
from simulator.merge import add_reports
from simulator.plan import Plan
from simulator.processes import Processes
from simulator.status import Status
from tests.simulator.test_cli import address, ended, simulate
from tests.support.fake_server import FakeServer, fake_server
from tests.support.fleets import eventually, plan_for


def a_plan(server: FakeServer, **changes: object) -> Plan:
    """Five agents over a ramp, two seconds."""
    values = {"agents": 5, "interval_us": 500_000, "ramp_us": 600_000, "duration_us": 2_000_000, "log_lines": 3}
    return plan_for(server.url, **(values | changes))


def rows_of(server: FakeServer, t0_us: int) -> set[tuple[object, ...]]:
    """Every row that a server got, by host, with its time after the start; and the hosts' containers."""
    rows: set[tuple[object, ...]] = set()
    for peer in server.peers:
        host = peer.claims["sub"]
        rows |= {(host, repr(container)) for container in peer.hello.containers}
        for batch in peer.all_of(Batch):
            rows |= {(host, batch.at - t0_us, metric) for metric in batch.metrics}
            rows |= {(host, log.at - t0_us, msgspec.structs.replace(log, at=0)) for log in batch.logs}
    return rows


@pytest.mark.parametrize("transport", list(Transport))
async def test_processes_send_exactly_the_rows_of_one(transport: Transport, tmp_path: Path) -> None:
    """Same seed, same containers, samples and lines at the same times after the start, and the ledgers tell of all."""
    async with fake_server() as server:
        alone = Fleet(a_plan(server, transport=transport))
        await alone.run(asyncio.Event())
        expected = rows_of(server, alone.t0_us)
    async with fake_server() as server:
        told: list[Status] = []
        fleet = Processes(a_plan(server, transport=transport), 2, tmp_path / "ledger.jsonl", told.append)
        await fleet.run(asyncio.Event())
        whole = add_reports(fleet.reports)
        found = rows_of(server, whole["started_us"])

    assert fleet.failures == []
    assert alone.counts.skipped_ticks == whole["skipped_ticks"] == 0
    assert len(found) > 60
    assert found == expected
    assert whole["batches"]["acked"] == alone.counts.batches_acked
    assert told[-1].agents == 5
    assert _agents_of(ledger_files(tmp_path / "ledger.jsonl", 2)) == [[1, 2], [3, 4, 5]]


async def test_a_process_that_dies_ends_the_fleet() -> None:
    """The others leave in order, and it is told whose process ended and how."""
    async with fake_server() as server:
        fleet = Processes(a_plan(server, duration_us=None, ramp_us=0), 2, None, lambda _: None)
        running = asyncio.create_task(fleet.run(asyncio.Event()))
        await eventually(lambda: len(server.peers) == 5, 30)
        victim = fleet._children[1]
        victim.signal(signal.SIGKILL)
        await asyncio.wait_for(running, 30)
        await eventually(lambda: all(peer.closed is not None for peer in server.peers))
        closed = sorted(peer.closed or 0 for peer in server.peers)

    assert fleet.failures == ["the process of shard 2/2 ended with exit code -9"]
    assert closed == [1000, 1000, 1006, 1006, 1006]
    assert [one["shard"] for one in fleet.reports] == ["1/2"]
    assert victim._process is not None
    assert not psutil.pid_exists(victim._process.pid)


async def test_a_ledger_that_cannot_be_written_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One process that cannot keep its ledger ends the fleet, and names the file."""
    (tmp_path / "ledger-2.jsonl").mkdir()
    async with fake_server() as server:
        fleet = Processes(a_plan(server, duration_us=None), 2, tmp_path / "ledger.jsonl", lambda _: None)
        await asyncio.wait_for(fleet.run(asyncio.Event()), 30)

    assert fleet.failures == ["the process of shard 2/2 ended with exit code 3"]
    assert "ledger-2.jsonl: File exists: expected a file that can be written" in capfd.readouterr().err


async def test_a_signal_stops_all_processes_in_order(tmp_path: Path) -> None:
    """SIGINT to the parent: every agent says goodbye, one report is written, exit 130."""
    async with (
        fake_server() as server,
        simulate(
            "--url", address(server), "--agents", "4", "--ramp", "0s", "--interval", "200ms", "--processes", "2",
            "--report", str(tmp_path / "report"), "--ledger", str(tmp_path / "ledger"),
        ) as process,
    ):  # fmt: skip
        await eventually(lambda: sum(len(peer.all_of(Batch)) for peer in server.peers) > 12, 30)
        process.send_signal(signal.SIGINT)
        code, _, errors = await ended(process)

    assert code == 130
    assert "Traceback" not in errors
    final = json.loads((tmp_path / "report").read_text())
    assert final["closes"] == {"1000": 4}
    assert final["batches"]["acked"] == final["batches"]["produced"]
    assert _agents_of(ledger_files(tmp_path / "ledger", 2)) == [[1, 2], [3, 4]]


async def test_processes_do_not_outlive_a_killed_parent() -> None:
    """SIGKILL of the parent: the agents leave in order all the same, and no process is left."""
    async with (
        fake_server() as server,
        simulate(
            "--url", address(server), "--agents", "4", "--ramp", "0s", "--interval", "200ms", "--processes", "2"
        ) as process,
    ):
        await eventually(lambda: len(server.peers) == 4, 30)
        children = psutil.Process(process.pid).children()
        process.kill()
        await eventually(lambda: all(peer.closed is not None for peer in server.peers), 30)
        await eventually(lambda: not any(child.is_running() for child in children), 30)

    assert len(children) == 2
    assert {peer.closed for peer in server.peers} == {1000}


def test_one_process_keeps_the_ledgers_name() -> None:
    """Several get a number each, before the suffix."""
    assert ledger_files(Path("a/ledger.jsonl"), 1) == (Path("a/ledger.jsonl"),)
    assert ledger_files(Path("a/ledger.jsonl"), 2) == (Path("a/ledger-1.jsonl"), Path("a/ledger-2.jsonl"))


def _agents_of(ledgers: Sequence[Path]) -> list[list[int]]:
    found = []
    for path in ledgers:
        with LedgerReader(path) as reader:
            reader.poll()
            assert reader.ended
            found.append(sorted(agent for agent, _ in reader.courses))
    return found
