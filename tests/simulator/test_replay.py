"""Recorded agents as hosts: other names, shifted times, round after round, and rows that a verifier makes again."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from seatrial import app
from server.protocol.codec import encode
from server.protocol.identity import container_id
from server.protocol.messages import Batch, Container, Hello, Inventory, Log, Metric
from simulator.describe_replay import describe_replay
from simulator.errors import PlanError
from simulator.expected import ExpectedRows
from simulator.fleet import Fleet
from simulator.ledger import Header, LedgerError, LedgerReader, LedgerWriter, Map, Replayed, Status, ledger_files
from simulator.merge import add_reports
from simulator.processes import Processes
from simulator.recorded_agents import Recording, read_recording
from simulator.recording import Frame, Opened, RecordingError, RecordingWriter
from simulator.replay import ReplayHost
from simulator.samples import Sample
from tests.simulator.test_cli import address, ended, simulate
from tests.simulator.test_processes import rows_of
from tests.support.fake_server import fake_server
from tests.support.fleets import plan_for

T0 = 1_700_000_000_000_000
START = 1_800_000_000_000_000
SECOND = 1_000_000


def container(ref: int, number: int, name: str = "web") -> Container:
    """A container whose Docker id is a number."""
    return Container(ref=ref, id=f"{number:064x}", name=f"{name}-{number}", image="nginx", state="running")


def hello(machine: str, containers: Sequence[Container], epoch: int = 0) -> Hello:
    """A hello of a machine's agent."""
    return Hello(
        protocol=1, epoch=f"00000000-0000-0000-0000-{epoch:012x}", connection=1, machine_id=machine, oldest=1, next_seq=1,
        agent_version="1", hostname=machine, cores=4, containers=tuple(containers),
    )  # fmt: skip


def batch(seq: int, at: int, *refs: int, **fields: Any) -> Batch:
    """A sample of each ref."""
    metrics = tuple(Metric(ref=ref, cpu=None if ref else 0.1, mem=seq * 4096, rx=seq, tx=None) for ref in refs)
    return Batch(seq=seq, oldest=1, at=at, metrics=metrics, **fields)


def record(path: Path, *said: tuple[float, int, Any]) -> Path:
    """A recording of (seconds after T0, connection, message or text)."""
    writer = RecordingWriter(path, T0)
    for connection in sorted({number for _, number, _ in said}):
        writer.add(Opened(connection=connection, at_us=T0, subprotocol=None))
    for seconds, connection, message in said:
        text = message if isinstance(message, str) else encode(message).decode()
        writer.add(Frame(connection=connection, at_us=T0 + round(seconds * SECOND), text=text))
    writer.close()
    return path


@pytest.fixture
def recorded(tmp_path: Path) -> Recording:
    """An agent that was replaced by a container, restarted, and sent something twice; beside it one with a slow clock."""
    late = Log(ref=1, at=T0 + 500_000, line=0, stream="stderr", text="la\x00te")
    return read_recording(
        record(
            tmp_path / "r",
            (0, 1, hello("one", [container(0, 7)])),
            (0, 2, hello("two", [container(0, 7), container(1, 8)])),
            (1, 1, batch(1, T0 + SECOND, 0)),
            (1.5, 2, batch(1, T0 - 3 * SECOND, 0, 1)),
            (1.5, 2, '{"type":"unheard-of"}'),
            (2, 1, Inventory(at=T0, upserts=(container(3, 9),))),
            (2, 1, batch(2, T0 + 2 * SECOND, 0, 3)),
            (2.5, 1, batch(2, T0 + 2 * SECOND, 0, 3)),
            (3, 3, hello("one", [container(1, 7, "api")], epoch=1)),
            (3, 3, batch(1, T0 + 3 * SECOND, 1, 5, logs=(late,))),
        )
    )


def test_agents_are_told_apart_by_their_machines(recorded: Recording) -> None:
    """Reconnects, restarts and resent batches make no other agent and no other row."""
    one, two = recorded.agents
    assert (one.hello.machine_id, two.hello.machine_id) == ("one", "two")
    assert [batch.due_us for batch in one.batches] == [0, SECOND, 2 * SECOND]
    assert [[row.ref for row in batch.metrics] for batch in one.batches] == [[0], [0, 1], [0]]
    assert [container.name for container in one.containers] == ["api-7", "web-9"]
    assert recorded.left_out == 1 + 1
    assert recorded.slack_us == 4.5 * SECOND


def test_copies_have_names_of_their_own(recorded: Recording) -> None:
    """No host, machine or container of a copy is that of another copy, of another seed, or the recorded one."""
    hosts = [ReplayHost(recorded, seed=seed, agent=agent, t0_us=START) for seed in (1, 2) for agent in range(1, 7)]
    ids = [host.docker_id(ref) for host in hosts for ref in host.lives.refs(0, 0)]

    assert len({host.machine_id for host in hosts} | {"one", "two"}) == 14
    assert len({host.host_id for host in hosts}) == 6
    assert len({*ids, *(f"{number:064x}" for number in (7, 8, 9))}) == len(ids) + 3
    assert [container.id for container in hosts[0].inventory((1, 0), 5)] == [ids[1], ids[0]]
    assert hosts[0].handling("x").refusal == "a replayed agent carries out no commands"


def test_the_first_copy_keeps_the_recordings_time(recorded: Recording) -> None:
    """Batches are due when they came, shifted as one; rows keep their distance, a slow clock stays slow."""
    one, two = (ReplayHost(recorded, seed=1, agent=agent, t0_us=START) for agent in (1, 2))
    assert [one.due(tick) for tick in range(3)] == [START, START + SECOND, START + 2 * SECOND]
    assert one.at(1) == START + SECOND
    assert two.due(0) == START + SECOND // 2
    assert two.at(0) == START - 4 * SECOND
    assert one.logs(2)[0].at == START - SECOND // 2
    assert all(row.at is None for row in one.metrics(1))


def test_rounds_follow_one_another_without_a_shared_time(recorded: Recording) -> None:
    """A period later everything comes again; a container never has two rows at one time."""
    for agent in (1, 2, 5):
        host = ReplayHost(recorded, seed=1, agent=agent, t0_us=START)
        count = len(recorded.agents[(agent - 1) % 2].batches)
        assert host.due(count) == host.due(0) + recorded.period_us
        rows, _ = host.stored(lambda ref: ref + 1, range(5 * count))
        keys = [(row["container_id"], row["at"]) for row in rows]
        assert len(set(keys)) == len(keys) > 4 * count
        dues = [host.due(tick) for tick in range(5 * count)]
        assert dues == sorted(dues)
        for tick, due in enumerate(dues):
            assert host.first_tick_at(due) == tick
            assert host.first_tick_at(due + 1) == tick + 1
        assert host.first_tick_at(0) == 0


def ledger_of(recorded: Recording, path: Path, digest: str = "") -> LedgerReader:
    """The ledger of a fleet that sent a recording twice, the first agent 5 batches and the third 4."""
    writer = LedgerWriter(
        path,
        Header(
            seed=1, org="acme", agents=4, first_agent=1, containers=2, log_lines=1, interval_us=recorded.slack_us,
            t0_us=START, profiles={}, churn_ticks=0, pool_digest="",
            replayed=Replayed(path=str(recorded.path), digest=digest or recorded.digest),
        ),
    )  # fmt: skip
    for agent, produced in ((1, 5), (3, 4)):
        writer.add(Map(agent=agent, epoch=0, seq=1, tick=0))
        writer.flush(1, [(agent, 0, produced, produced, produced)])
    writer.close(2)
    with LedgerReader(path) as reader:
        reader.poll()
        return reader


def test_the_verifier_makes_the_rows_again(recorded: Recording, tmp_path: Path) -> None:
    """Of every batch that the ledger tells of, in stored form, however time is cut."""
    expected = ExpectedRows(ledger_of(recorded, tmp_path / "ledger"))
    metrics, logs = expected.metrics(0, 2**62), expected.logs(0, 2**62)
    host = ReplayHost(recorded, seed=1, agent=1, t0_us=START)
    keys = [container_id("acme", "host-00001", host.docker_id(ref)) for ref in (0, 1)]
    first = sorted(
        Sample(keys[row.ref], host.at(tick), None if row.cpu is None else pytest.approx(row.cpu), row.mem, row.rx, None)  # type: ignore[arg-type]
        for tick in range(5)
        for row in host.metrics(tick)
    )  # fmt: skip

    assert [row for row, _ in metrics if row.container_id in keys] == first
    assert len(metrics) == 4 + 3 + 4 + 1
    assert [row.text for row, _ in logs] == ["la\ufffdte"] * 2
    cuts = range(START - 10 * SECOND, START + 20 * SECOND, 333_333)
    parts = [row for since in cuts for row in expected.metrics(since, since + 333_333)]
    assert sorted(parts, key=lambda part: part[0][:2]) == metrics
    assert sum(len(expected.logs(since, since + 333_333)) for since in cuts) == len(logs)


def test_another_recording_is_noticed(recorded: Recording, tmp_path: Path) -> None:
    """One that changed, or is gone, cannot verify anything."""
    with pytest.raises(LedgerError, match=r"digest = [0-9a-f]{64}: expected other, as in the ledger"):
        ExpectedRows(ledger_of(recorded, tmp_path / "a", "other"))
    reader = ledger_of(recorded, tmp_path / "b")
    recorded.path.unlink()
    with pytest.raises(LedgerError, match=r"the ledger is of a recording: .* cannot be read"):
        ExpectedRows(reader)


def test_a_recording_without_a_batch_is_refused(tmp_path: Path) -> None:
    """There is nothing to send."""
    path = record(tmp_path / "r", (0, 1, hello("one", [])), (1, 2, batch(1, T0, 0)))
    with pytest.raises(RecordingError, match="no agent sent a batch in it: expected one at least"):
        read_recording(path)


def test_what_a_recording_decides_cannot_be_asked_for(recorded: Recording) -> None:
    """The number of copies is at least one."""
    assert recorded.plan_fields(3, {})["agents"] == 6
    with pytest.raises(PlanError, match="times = 0: expected at least 1"):
        recorded.plan_fields(0, {})
    with pytest.raises(PlanError, match="containers = 4: expected nothing: --replay sends what was recorded"):
        recorded.plan_fields(1, {"containers": 4})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--replay", "/nowhere"], "/nowhere: cannot be read: No such file or directory"),
        (["--replay", "{}", "--times", "0"], "times = 0: expected at least 1"),
        (["--replay", "{}", "--interval", "2s"], "interval = 2s: expected nothing: --replay sends"),
        (["--replay", "{}", "--continue", "x"], "expected nothing beside --continue"),
        (["--times", "3"], "times = 3: expected --replay beside it"),
        (["--describe", "--replay", "/nowhere"], "/nowhere: cannot be read: No such file or directory"),
        (["--describe", "--continue", "/nowhere"], "continue = /nowhere: expected the ledger of a backfill"),
        (["--describe", "--replay", "{}", "--scenario", "x"], "scenario = x: expected neither --continue nor --replay"),
    ],
)
def test_the_command_says_what_is_wrong(recorded: Recording, arguments: list[str], words: str) -> None:
    """Before anything is dialled."""
    given = [argument.format(recorded.path) for argument in arguments]
    done = CliRunner().invoke(app, ["simulate", "--jwt-secret", "x" * 32, *given])

    assert words in done.output
    assert done.exit_code == 2


def test_faults_are_held_to_the_fleet_and_the_end_of_the_replay(recorded: Recording) -> None:
    """Its own agents and its own length, not the defaults of options that a recording decides."""
    given = ["simulate", "--describe", "--replay", str(recorded.path), "--times", "100"]
    told = CliRunner().invoke(app, [*given, "--fault", "disconnect:at=1s,agents=200", "--json"])
    many = CliRunner().invoke(app, [*given, "--fault", "disconnect:at=1s,agents=201"])
    late = CliRunner().invoke(app, [*given, "--fault", "disconnect:at=1h,agents=1"])

    assert told.exit_code == 0, told.output
    assert (many.exit_code, late.exit_code) == (2, 2)
    assert "agents: expected at most the fleet's 200" in many.output
    assert "at: must lie inside the duration of" in late.output


def test_a_replay_is_described_by_its_recording(recorded: Recording) -> None:
    """Hosts, rows and bytes are those of the copies' frames, and no default fleet is told of."""
    given = ["simulate", "--describe", "--replay", str(recorded.path), "--times", "50", "--json"]
    done = CliRunner().invoke(app, given)
    told = json.loads(done.output)
    sizes = [
        len(encode(Batch(seq=tick + 1, oldest=tick + 1, at=h.at(tick), metrics=h.metrics(tick), logs=h.logs(tick))))
        for h in (ReplayHost(recorded, seed=1, agent=agent, t0_us=T0) for agent in (1, 2))
        for tick in range(h.round_ticks)
    ]

    assert (told["agents"], told["times"], told["containers"]) == (100, 50, 50 * 4)
    assert (told["round_messages"], told["round_samples"], told["round_log_lines"]) == (50 * 4, 50 * 6, 50)
    assert told["samples_per_day"] == round(50 * 6 * 86_400 / told["round_seconds"])
    assert told["bytes_per_second"] == pytest.approx(50 * sum(sizes) / told["round_seconds"])
    lines = describe_replay(recorded, agents=100).lines()
    assert lines[0] == f"recording   {recorded.path}: 2 agents, each sent 50 times"


def test_the_times_of_a_recorded_agent_are_held_once(recorded: Recording) -> None:
    """A thousand copies share them: what a host takes does not grow with the recording."""
    first, copy = (ReplayHost(recorded, seed=1, agent=agent, t0_us=START) for agent in (1, 3))
    held = [{id(getattr(host, name)) for name in ("_dues", "_batches")} for host in (first, copy)]

    assert held[0] == held[1]


async def test_the_command_sends_each_recorded_batch_so_many_times(recorded: Recording, tmp_path: Path) -> None:
    """Without a duration it ends by itself, a ramp and a period after its start, with nothing left out or sent twice."""
    report = tmp_path / "report.json"
    async with fake_server() as server:
        given = ["--url", address(server), "--replay", str(recorded.path), "--times", "3", "--ramp", "1s"]
        async with simulate(*given, "--report", str(report)) as process:
            _, _, errors = await ended(process)
    told = json.loads(report.read_text())

    assert "Traceback" not in errors
    assert (told["agents"], told["batches"]["acked"]) == (6, 3 * 4)
    assert told["rows"] == {"metrics": 3 * 6, "logs": 3 * 1}


def expected_of(path: Path) -> list[tuple[Sample, Status]]:
    """The samples of a ledger that is whole."""
    with LedgerReader(path) as reader:
        reader.poll()
        return ExpectedRows(reader).metrics(0, 2**62)


async def test_each_copy_is_sent_whole_whatever_the_ramp_and_the_processes(recorded: Recording, tmp_path: Path) -> None:
    """Two copies are twice the recorded rows though hosts begin late; processes send them too, and their ledgers say so."""
    ledger = tmp_path / "ledger.jsonl"
    fields = recorded.plan_fields(2, {}) | {"replay_once": True, "ramp_us": 1_200_000}
    fields["duration_us"] = recorded.period_us + fields["ramp_us"]
    async with fake_server() as server:
        alone = Fleet(plan_for(server.url, **fields))
        await alone.run(asyncio.Event())
        expected = rows_of(server, alone.t0_us)
    async with fake_server() as server:
        fleet = Processes(plan_for(server.url, **fields), 2, ledger, lambda _: None)
        await fleet.run(asyncio.Event())
        whole = add_reports(fleet.reports)
        found = rows_of(server, whole["started_us"])

    assert fleet.failures == []
    assert found == expected
    counts = alone.counts
    assert (counts.batches_acked, counts.metrics_produced, counts.logs_produced) == (2 * 4, 2 * 6, 2 * 1)
    assert whole["batches"]["acked"] == 2 * 4
    sent_us = [row[1] for row in found if isinstance(row[-1], Metric)]
    told_us = [row.at - whole["started_us"] for path in ledger_files(ledger, 2) for row, _ in expected_of(path)]
    assert Counter(sent_us) == Counter(told_us)
