"""Rows made anew from a ledger are what a fleet sent, in stored form."""

import asyncio
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from server.protocol.canonical import LOG_TEXT_BYTES, clean_log_text, float32
from server.protocol.identity import container_id
from server.protocol.messages import Action, ActionKind, Batch, Hello, Inventory
from simulator import expected_samples
from simulator.expected import (
    ExpectedLog,
    ExpectedRows,
    hosts_of,
    one_line_per_key,
    pool_digest,
)
from simulator.expected_samples import ExpectedSamples, one_per_key
from simulator.fleet import Fleet
from simulator.host import FakeHost
from simulator.ledger import (
    STATUSES,
    ClockRecord,
    Dropped,
    Header,
    InputRecord,
    LedgerError,
    LedgerReader,
    LedgerWriter,
    Map,
    RejectedMore,
    RejectedRecord,
    Status,
)
from simulator.loglines import LogLines
from simulator.names import Names
from simulator.plan import Plan
from simulator.samples import SAMPLE, Sample, in_tuples
from tests.support.fake_server import SECRET, FakeServer, Peer, fake_server

EVER = 2**62
MIX = {"web": 2, "database": 1, "worker": 1}
DIGEST = pool_digest(LogLines(5), Names(5))


def header(**changes: object) -> Header:
    """A ledger's header; t0 is 10^15 us."""
    values = {
        "seed": 5, "org": "acme", "agents": 2, "first_agent": 1, "containers": 3, "log_lines": 4, "interval_us": 1_000_000,
        "t0_us": 10**15, "profiles": MIX, "churn_ticks": 0, "pool_digest": DIGEST,
    }  # fmt: skip
    return Header(**(values | changes))  # type: ignore[arg-type]


def ledger_of(
    path: Path,
    *records: Map | ClockRecord | InputRecord | Dropped | RejectedRecord | RejectedMore,
    agents: tuple[tuple[int, int, int, int, int], ...],
    fleet: int = 2,
    **changes: object,
) -> LedgerReader:
    """A finished ledger, read."""
    writer = LedgerWriter(path, header(agents=fleet, **changes))
    for record in records:
        writer.add(record)
    writer.flush(1, agents)
    writer.close(2)
    with LedgerReader(path) as reader:
        reader.poll()
        return reader


def stored_form(org: str, peer: Peer) -> tuple[dict[tuple[int, int], Sample], dict[tuple[int, int, int], ExpectedLog]]:
    """What a right server stores of one connection's frames; written without the code under test."""
    host, ids = str(peer.claims["sub"]), dict[int, int]()
    metrics, logs = {}, {}
    for batch in peer.messages:
        if isinstance(batch, Hello | Inventory):
            containers = batch.containers if isinstance(batch, Hello) else batch.upserts
            ids |= {container.ref: container_id(org, host, container.id) for container in containers}
        if not isinstance(batch, Batch):
            continue
        for metric in batch.metrics:
            cpu = None if metric.cpu is None else float32(metric.cpu)
            row = Sample(ids[metric.ref], batch.at, cpu, metric.mem, metric.rx, metric.tx)
            metrics[row[:2]] = row
        for log in batch.logs:
            data, cut = clean_log_text(log.text, 2000)
            line = ExpectedLog(
                ids[log.ref], log.at, log.line, log.stream, data.decode(), log.partial, log.truncated or cut
            )
            logs[line[:3]] = line
    return metrics, logs


async def run_fleet(server: FakeServer, ledger: Path, **changes: object) -> Fleet:
    """Run a small fleet to its end."""
    values: dict[str, object] = {
        "url": server.url, "secret": SECRET, "org": "acme", "agents": 3, "containers": 4, "log_lines": 40, "seed": 5,
        "interval_us": 100_000, "ramp_us": 200_000, "duration_us": 2_000_000,
    }  # fmt: skip
    fleet = Fleet(Plan(**(values | changes)), ledger)  # type: ignore[arg-type]
    await fleet.run(asyncio.Event())
    return fleet


async def test_expected_rows_are_the_rows_that_were_sent(tmp_path: Path) -> None:
    """Every row of every frame, and no other, comes back row by row: restarts, cuts of long lines and NUL included."""

    async def script(peer: Peer) -> None:
        await peer.welcome(log_text_bytes=2000)
        for number, kind in enumerate(("restart", "stop", "start")):
            await peer.next(Batch)
            expires_at = server.now_us() + 60_000_000
            action = Action(action_id=f"{peer.number}/{number}", ref=1, kind=kind, expires_at=expires_at)  # type: ignore[arg-type]
            await peer.send(action)
            for _ in range(4):
                await peer.next(Batch)
        await peer.ack_all()

    async with fake_server(script) as server:
        fleet = await run_fleet(server, tmp_path / "ledger")
        sent_metrics: dict[tuple[int, int], Sample] = {}
        sent_logs: dict[tuple[int, int, int], ExpectedLog] = {}
        for peer in server.peers:
            metrics, logs = stored_form("acme", peer)
            sent_metrics |= metrics
            sent_logs |= logs

    with LedgerReader(tmp_path / "ledger") as reader:
        reader.poll()
        expected = ExpectedRows(reader)
        metrics_again, logs_again = expected.metrics(0, EVER), expected.logs(0, EVER)
    assert fleet.counts.actions_executed == 9
    assert len(sent_metrics) > 100
    assert [row for row, _ in metrics_again] == [sent_metrics[key] for key in sorted(sent_metrics)]
    assert [row for row, _ in logs_again] == [sent_logs[key] for key in sorted(sent_logs)]
    assert {status for _, status in (*metrics_again, *logs_again)} == {Status.ACKED}
    assert any(row.truncated for row, _ in logs_again)
    assert any("\ufffd" in row.text for row, _ in logs_again)
    assert reader.log_text_bytes == 2000


async def test_expected_rows_are_those_of_a_fleet_that_comes_and_goes(tmp_path: Path) -> None:
    """Re-created and crash-looping containers come back row by row, each under the key that inventory gave it first."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.ack_all()

    async with fake_server(script) as server:
        await run_fleet(
            server, tmp_path / "ledger", profiles={"web": 1, "crash-looping": 1}, churn_per_hour=9000.0, log_lines=3
        )
        sent_metrics: dict[tuple[int, int], Sample] = {}
        sent_logs: dict[tuple[int, int, int], ExpectedLog] = {}
        for peer in server.peers:
            metrics, logs = stored_form("acme", peer)
            sent_metrics |= metrics
            sent_logs |= logs

    with LedgerReader(tmp_path / "ledger") as reader:
        reader.poll()
        expected = ExpectedRows(reader)
        metrics_again, logs_again = expected.metrics(0, EVER), expected.logs(0, EVER)
    keys = {row.container_id for row, _ in metrics_again}
    assert len(keys) > 3 * 4  # more than there are at any time
    assert [row for row, _ in metrics_again] == [sent_metrics[key] for key in sorted(sent_metrics)]
    assert [row for row, _ in logs_again] == [sent_logs[key] for key in sorted(sent_logs)]
    places = {expected.container(key) for key in keys}
    assert {place[1] for place in places if place} > {0, 1, 2, 3}


def test_slices_add_up_to_the_whole(tmp_path: Path) -> None:
    """Cutting time anywhere loses no row and doubles none."""
    reader = ledger_of(
        tmp_path / "l",
        Map(agent=1, epoch=0, seq=1, tick=0),
        Map(agent=2, epoch=0, seq=1, tick=2),
        Map(agent=2, epoch=0, seq=9, tick=15),
        agents=((1, 0, 30, 30, 30), (2, 0, 20, 20, 20)),
    )
    expected = ExpectedRows(reader)
    # Some cuts anywhere, and one right behind each line: a tick's lines do not all share its time.
    lines_end = [row.at + 1 for row, _ in expected.logs(0, EVER)]
    bounds = sorted({0, *range(10**15 + 123_457, 10**15 + 40_000_000, 777_777), *lines_end, EVER})
    pairs = list(pairwise(bounds))

    metrics = [row for since, until in pairs for row in expected.metrics(since, until)]
    logs = [row for since, until in pairs for row in expected.logs(since, until)]

    assert sorted(metrics) == expected.metrics(0, EVER)
    assert sorted(logs) == expected.logs(0, EVER)
    assert len(metrics) == 3 * 50
    assert len(logs) == 4 * 50
    assert all(since <= row.at < until for since, until in pairs for row, _ in expected.logs(since, until))


def test_statuses_are_those_of_the_batch_unless_a_row_was_named(tmp_path: Path) -> None:
    """Acked, unknown, unsent, rejected and conflicted rows are told apart."""
    reader = ledger_of(
        tmp_path / "l",
        Map(agent=1, epoch=0, seq=1, tick=0),
        Dropped(agent=1, epoch=0, first=3, last=3, sent=2),
        RejectedRecord(agent=1, epoch=0, seq=2, row="metrics[1]", ref=1, at=None, line=None, reason="too_old"),
        RejectedRecord(agent=1, epoch=0, seq=2, row="logs[3]", ref=1, at=None, line=0, reason="conflicting_duplicate"),
        agents=((1, 0, 5, 5, 4),),
    )
    expected = ExpectedRows(reader)
    by_time: dict[int, list[Status]] = {}
    for row, status in expected.metrics(0, EVER):
        by_time.setdefault(row.at, []).append(status)

    in_order = [sorted(by_time[at]) for at in sorted(by_time)]
    assert in_order == [
        [Status.ACKED] * 3,
        [Status.ACKED, Status.ACKED, Status.REJECTED],
        [Status.UNSENT] * 3,
        [Status.ACKED] * 3,
        [Status.UNKNOWN] * 3,
    ]
    assert [status for _, status in expected.logs(0, EVER)].count(Status.CONFLICTED) == 1


def test_a_growing_ledger_shows_in_later_answers(tmp_path: Path) -> None:
    """Rows and commands that came after the first answer are in the next one."""
    writer = LedgerWriter(tmp_path / "l", header(agents=1))
    writer.add(Map(agent=1, epoch=0, seq=1, tick=0))
    writer.flush(1, [(1, 0, 2, 2, 2)])
    with LedgerReader(tmp_path / "l") as reader:
        reader.poll()
        expected = ExpectedRows(reader)
        assert len(expected.metrics(0, EVER)) == 6

        writer.add(InputRecord(agent=1, tick=1, ref=0, kind="stop"))
        writer.flush(2, [(1, 0, 4, 4, 4)])
        writer.close(3)
        reader.poll()
        assert len(expected.metrics(0, EVER)) == 6 + 4


@pytest.mark.parametrize("churn_ticks", [0, 11])
def test_samples_of_many_hosts_are_those_of_each(
    tmp_path: Path, churn_ticks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts of whom there is little to tell are made together, the others one by one: both say the same, in any slice."""
    monkeypatch.setattr(expected_samples, "_BLOCK_CONTAINERS", 15)  # groups of five hosts
    monkeypatch.setattr(expected_samples, "_BLOCK_SAMPLES", 15 * 7)  # of seven ticks at once
    commands: tuple[tuple[int, ActionKind], ...] = () if churn_ticks else ((9, "stop"), (14, "start"))
    ledger = ledger_of(
        tmp_path / "l",
        *(Map(agent=agent, epoch=0, seq=1, tick=agent % 4) for agent in range(1, 13)),
        *(InputRecord(agent=2, tick=tick, ref=1, kind=kind) for tick, kind in commands),
        Map(agent=3, epoch=0, seq=8, tick=20),
        Dropped(agent=4, epoch=0, first=3, last=5, sent=2),
        ClockRecord(agent=5, tick=5, ahead_us=-5_000_000),
        RejectedRecord(agent=6, epoch=0, seq=2, row="metrics[1]", ref=1, at=None, line=None, reason="too_old"),
        Map(agent=7, epoch=1, seq=1, tick=40),
        RejectedMore(agent=8, epoch=0, first=4, last=9, counts={"too_old": 2}),
        agents=(*((agent, 0, 30 + agent, 25 + agent, 18) for agent in range(1, 12)), (7, 1, 5, 5, 5)),
        fleet=12, churn_ticks=churn_ticks, profiles={"web": 2, "crash-looping": 1},
    )  # fmt: skip
    acked = {(agent, 0): 10 + agent for agent in range(1, 12)}
    together, apart = ExpectedRows(ledger), ExpectedRows(ledger)

    for since, until in (
        (0, EVER),
        (10**15 + 3_500_000, 10**15 + 24_700_000),
        (10**15 + 20_000_000, 10**15 + 21_000_000),
    ):
        every = together.samples(since, until, acked)
        each = [apart.samples(since, until, acked, only=agent) for agent in range(1, 13)]
        found = _by_key(every)
        assert found == _by_key(ExpectedSamples(*(np.concatenate(column) for column in zip(*each, strict=True))))
        assert len(found) > 20


def _by_key(found: ExpectedSamples) -> list[tuple[Sample, bool, int]]:
    columns = in_tuples(found.rows), found.required.tolist(), found.status.tolist()
    return sorted(zip(*columns, strict=True), key=lambda row: row[0][:2])


def test_what_happens_between_two_answers_shows_in_the_second(tmp_path: Path) -> None:
    """Hosts that were made together before: one gets a command, the clock of another is set, a third begins anew."""
    writer = LedgerWriter(tmp_path / "l", header(agents=4))
    for agent in range(1, 5):
        writer.add(Map(agent=agent, epoch=0, seq=1, tick=0))
    writer.flush(1, [(agent, 0, 10, 10, 10) for agent in range(1, 5)])
    with LedgerReader(tmp_path / "l") as reader:
        reader.poll()
        expected = ExpectedRows(reader)
        assert len(expected.samples(0, EVER).rows) == 4 * 10 * 3

        writer.add(InputRecord(agent=1, tick=11, ref=0, kind="stop"))
        writer.add(ClockRecord(agent=2, tick=12, ahead_us=3_000_000))
        writer.add(Map(agent=3, epoch=1, seq=1, tick=10))
        writer.flush(2, [(1, 0, 20, 20, 20), (2, 0, 20, 20, 20), (3, 1, 10, 10, 10), (4, 0, 20, 20, 20)])
        writer.close(3)
        reader.poll()
        again, anew = expected.samples(0, EVER), ExpectedRows(reader).samples(0, EVER)
        assert len(again.rows) == 4 * 20 * 3 - 8
        assert _by_key(again) == _by_key(anew)
        each = [ExpectedRows(reader).samples(0, EVER, only=agent) for agent in range(1, 5)]
        assert _by_key(again) == sorted((row for one in each for row in _by_key(one)), key=lambda row: row[0][:2])


def test_containers_are_found_by_their_key(tmp_path: Path) -> None:
    """A key of the fleet leads back to agent and ref; a foreign one to nothing."""
    reader = ledger_of(tmp_path / "l", Map(agent=2, epoch=0, seq=1, tick=0), agents=((2, 0, 1, 1, 1),))
    expected = ExpectedRows(reader)
    keys = [row.container_id for row, _ in expected.metrics(0, EVER)]

    assert sorted(found for key in keys if (found := expected.container(key))) == [(2, 0), (2, 1), (2, 2)]
    assert expected.container(123) is None


def test_another_fakers_words_are_noticed(tmp_path: Path) -> None:
    """A ledger whose words this Faker cannot make is an error, not a thousand altered rows."""
    LedgerWriter(tmp_path / "l", header(pool_digest="other")).close(1)

    with LedgerReader(tmp_path / "l") as reader:
        with pytest.raises(LedgerError, match="no header yet"):
            ExpectedRows(reader)
        reader.poll()
        with pytest.raises(LedgerError, match=r"pool_digest = other: expected .* another version of Faker"):
            ExpectedRows(reader)


def test_long_lines_are_cut_at_the_protocols_limit(tmp_path: Path) -> None:
    """Without a word of the server the default limit holds."""
    reader = ledger_of(tmp_path / "l", Map(agent=1, epoch=0, seq=1, tick=0), agents=((1, 0, 900, 900, 900),))

    lines = [row for row, _ in ExpectedRows(reader).logs(0, EVER)]

    cut = [row for row in lines if row.truncated]
    assert cut
    assert all(LOG_TEXT_BYTES - 3 <= len(row.text.encode()) <= LOG_TEXT_BYTES for row in cut)
    assert all("\x00" not in row.text for row in lines)


def test_a_clock_that_was_set_back_gives_one_row_of_each_key(tmp_path: Path) -> None:
    """Rows of two ticks with the same time: the one that was acknowledged is expected, whichever came first."""
    clocks = ClockRecord(agent=1, tick=5, ahead_us=5_000_000), ClockRecord(agent=1, tick=10, ahead_us=0)
    rejected = [
        RejectedRecord(agent=1, epoch=0, seq=11, row=f"metrics[{i}]", ref=i, at=0, line=None, reason="not_rising")
        for i in range(3)
    ]
    ledger = ledger_of(
        tmp_path / "ledger", Map(agent=1, epoch=0, seq=1, tick=0), *clocks, *rejected, agents=((1, 0, 15, 15, 15),)
    )
    expected = ExpectedRows(ledger)
    rows = expected.metrics(0, EVER)

    keys = [row[:2] for row, _ in rows]
    # Ticks 5 to 9 were stamped as 10 to 14 are: 10 keys of 15 ticks, for each of 3 containers.
    assert len(keys) == len(set(keys)) == 30
    assert {status for _, status in rows} == {Status.ACKED}
    fake, ids = expected._host(1)
    (row,) = [row for row, _ in rows if row.at == fake.at(10) and row.container_id == ids[0]]
    assert row.mem == fake.metrics(5)[0].mem


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (("rejected", "acked"), ("acked", 1)),
        (("acked", "conflicted"), ("acked", 0)),
        (("unknown", "conflicted"), ("unknown", 0)),
        (("unknown", "acked"), ("acked", 1)),
        (("unknown", "unknown"), ("conflicted", 0)),
        (("rejected", "unsent"), ("rejected", 0)),
        (("unknown",), ("unknown", 0)),
    ],
)
def test_of_several_rows_the_likeliest_is_expected(statuses: tuple[str, ...], expected: tuple[str, int]) -> None:
    """Only where two may be stored and none must be, any values are good; the same for samples and lines."""
    found = [Status(status) for status in statuses]
    rows = np.zeros(len(found), SAMPLE)
    rows["container_id"], rows["at"], rows["mem"] = 1, 2, range(len(found))
    places = np.array([STATUSES.index(status) for status in found], np.uint8)
    required = np.array([status is Status.ACKED for status in found])
    (neighbour,) = np.array([(1, 3, 0, 7, 0, 0, 0)], SAMPLE)
    samples = one_per_key(
        ExpectedSamples(np.append(rows, neighbour), np.append(places, np.uint8(0)), np.append(required, True))
    )
    lines = one_line_per_key(
        [
            (ExpectedLog(1, 2, 0, "stdout", str(place), False, False), status, status is Status.ACKED)
            for place, status in enumerate(found)
        ]
    )

    assert samples.rows["at"].tolist() == [2, 3]
    assert (STATUSES[samples.status[0]], samples.rows["mem"][0]) == (Status(expected[0]), expected[1])
    assert samples.required.tolist() == ["acked" in statuses, True]
    ((line, status, must),) = lines
    assert (status, line.text, must) == (Status(expected[0]), str(expected[1]), "acked" in statuses)


def test_rows_of_a_slice_are_those_that_the_clock_put_there(tmp_path: Path) -> None:
    """A slice of time is found though the agent's clock went forth and back; slices together are the whole."""
    clocks = ClockRecord(agent=1, tick=5, ahead_us=90_000_000), ClockRecord(agent=1, tick=10, ahead_us=-3_500_000)
    ledger = ledger_of(tmp_path / "ledger", Map(agent=1, epoch=0, seq=1, tick=0), *clocks, agents=((1, 0, 20, 20, 20),))
    expected = ExpectedRows(ledger)
    whole, lines = expected.metrics(0, EVER), expected.logs(0, EVER)
    first, last = whole[0][0].at, max(row.at for row, _ in whole)
    t0 = 10**15

    assert last - t0 > 90_000_000
    for since, until in (
        (t0 - 10**7, t0 + 6 * 10**6),
        (t0 + 6 * 10**6, t0 + 94 * 10**6),
        (t0 + 94 * 10**6, t0 + 10**9),
    ):
        assert expected.metrics(since, until) == [row for row in whole if since <= row[0].at < until]
        assert expected.logs(since, until) == [row for row in lines if since <= row[0].at < until]
    assert len(whole) == 20 * 3
    assert first < last


def test_batches_of_no_tick_have_no_rows(tmp_path: Path) -> None:
    """Seqs of a flood lie between those of two ticks, and nothing is expected of them."""
    maps = (
        Map(agent=1, epoch=0, seq=1, tick=0),
        Map(agent=1, epoch=0, seq=4, tick=None),
        Map(agent=1, epoch=0, seq=9, tick=3),
    )
    ledger = ledger_of(tmp_path / "ledger", *maps, agents=((1, 0, 10, 10, 10),))

    (course,) = ledger.courses_of(1)
    assert [(batch.tick, batch.seq) for batch in course.batches(0, 100)] == [(0, 1), (1, 2), (2, 3), (3, 9), (4, 10)]
    assert len(ExpectedRows(ledger).metrics(0, EVER)) == 5 * 3


def test_rows_of_several_organisations_have_the_keys_of_their_own() -> None:
    """Agents belong to them in turn; the same agent in another organisation would be another container."""
    hosts = hosts_of(header(organisations=2))
    for agent, org in ((1, "acme-1"), (2, "acme-2")):
        known = hosts(agent)
        assert isinstance(known.fake, FakeHost)
        assert known.ids[0] == container_id(org, known.fake.host_id, known.fake.docker_id(0))
