"""The ledger: what was written is read back, also while it grows."""

import json
from pathlib import Path

import msgspec
import pytest

from simulator.ledger import (
    Dropped,
    Executed,
    Header,
    InputRecord,
    LedgerError,
    LedgerReader,
    LedgerWriter,
    Limits,
    Map,
    Record,
    RejectedMore,
    RejectedRecord,
    Status,
)

HEADER = Header(
    seed=5,
    org="acme",
    agents=2,
    first_agent=1,
    containers=3,
    log_lines=2,
    interval_us=1_000_000,
    t0_us=7,
    profiles={"web": 1},
    churn_ticks=0,
    pool_digest="d",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is not there yet."""
    return tmp_path / "ledger.jsonl"


def written(path: Path, *records: Record, agents: tuple[tuple[int, int, int, int, int], ...] = ()) -> LedgerReader:
    """A finished ledger, read."""
    writer = LedgerWriter(path, HEADER)
    for record in records:
        writer.add(record)
    writer.flush(1000, agents)
    writer.close(2000)
    reader = LedgerReader(path)
    reader.poll()
    reader.close()
    return reader


def rejected(seq: int, row: str, reason: str) -> RejectedRecord:
    """A row that was not stored."""
    return RejectedRecord(agent=1, epoch=0, seq=seq, row=row, ref=0, at=1, line=None, reason=reason)


def statuses(reader: LedgerReader, since_tick: int = 0, until_tick: int = 1000) -> list[tuple[int, int, Status]]:
    """(tick, seq, status) of the batches of agent 1."""
    return [
        (batch.tick, batch.seq, batch.status) for batch in reader.courses[1, 0].batches(since_tick, until_tick)
    ]  # fmt: skip


def test_a_ledger_comes_back_as_it_was_written(path: Path) -> None:
    """Header, maps, inputs, limits, progress and end survive the file."""
    reader = written(
        path,
        Map(agent=1, epoch=0, seq=1, tick=4),
        InputRecord(agent=1, tick=6, ref=2, kind="restart"),
        Executed(agent=1, action_id="a"),
        Executed(agent=2, action_id="a"),
        Limits(log_text_bytes=99),
        agents=((1, 0, 5, 4, 3),),
    )

    assert reader.header == HEADER
    assert reader.log_text_bytes == 99
    assert reader.inputs == {1: [InputRecord(agent=1, tick=6, ref=2, kind="restart")]}
    assert reader.executed == {"a": 2}
    assert reader.ended
    assert reader.progress_us == 2000
    assert [len(list(reader.courses_of(agent))) for agent in (1, 2)] == [1, 0]


def test_each_line_is_an_object_with_its_type(path: Path) -> None:
    """The file is plain JSON lines that any tool reads."""
    written(path, Map(agent=1, epoch=0, seq=1, tick=4), agents=((1, 0, 1, 1, 0),))

    lines = [json.loads(line) for line in path.read_text().splitlines()]

    assert [line["type"] for line in lines] == ["header", "map", "progress", "end"]
    assert lines[1] == {"type": "map", "agent": 1, "epoch": 0, "seq": 1, "tick": 4}
    assert lines[2] == {"type": "progress", "at_us": 1000, "agents": [[1, 0, 1, 1, 0]]}


def test_acked_must_be_there_and_sent_may_be(path: Path) -> None:
    """Up to the acked seq batches are acked, those sent after it are unknown, and those never sent must not be there."""
    reader = written(path, Map(agent=1, epoch=0, seq=1, tick=10), agents=((1, 0, 4, 3, 2),))

    assert statuses(reader) == [
        (10, 1, Status.ACKED),
        (11, 2, Status.ACKED),
        (12, 3, Status.UNKNOWN),
        (13, 4, Status.UNSENT),
    ]


def test_a_slice_of_ticks_crosses_skipped_ones(path: Path) -> None:
    """Where ticks were skipped a new map begins; the slice holds exactly the ticks asked for that were produced."""
    reader = written(
        path,
        Map(agent=1, epoch=0, seq=1, tick=0),
        Map(agent=1, epoch=0, seq=4, tick=7),
        agents=((1, 0, 6, 6, 6),),
    )

    assert [tick for tick, _, _ in statuses(reader)] == [0, 1, 2, 7, 8, 9]
    assert [(tick, seq) for tick, seq, _ in statuses(reader, 2, 9)] == [(2, 3), (7, 4), (8, 5)]
    assert statuses(reader, 3, 7) == []


def test_a_map_ahead_of_its_progress_adds_nothing(path: Path) -> None:
    """A map whose batch is not in a progress yet yields no batch."""
    reader = written(
        path, Map(agent=1, epoch=0, seq=1, tick=0), Map(agent=1, epoch=0, seq=3, tick=9), agents=((1, 0, 2, 2, 2),)
    )

    assert [tick for tick, _, _ in statuses(reader)] == [0, 1]


def test_dropped_batches_are_not_acked_by_a_later_ack(path: Path) -> None:
    """Dropped after sending: unknown. Dropped before: must not be there. An ack that passes them says nothing."""
    reader = written(
        path,
        Map(agent=1, epoch=0, seq=1, tick=0),
        Dropped(agent=1, epoch=0, first=2, last=4, sent=3),
        agents=((1, 0, 6, 6, 6),),
    )

    assert [status for _, _, status in statuses(reader)] == [
        Status.ACKED, Status.UNKNOWN, Status.UNKNOWN, Status.UNSENT, Status.ACKED, Status.ACKED,
    ]  # fmt: skip


def test_named_rows_are_exceptions_of_their_batch(path: Path) -> None:
    """A rejected row must not be there; a conflicting duplicate's key is, with other values."""
    reader = written(
        path,
        Map(agent=1, epoch=0, seq=1, tick=0),
        rejected(2, "metrics[1]", "too_old"),
        rejected(2, "logs[0]", "conflicting_duplicate"),
        agents=((1, 0, 2, 2, 2),),
    )
    first, second = reader.courses[1, 0].batches(0, 10)

    assert first.named == {}
    assert second.status == Status.ACKED
    assert second.named == {"metrics[1]": Status.REJECTED, "logs[0]": Status.CONFLICTED}


def test_rows_that_were_only_counted_make_their_batches_uncertain(path: Path) -> None:
    """Where an ack counts rejected rows without naming them, any row of its batches may be missing."""
    reader = written(
        path,
        Map(agent=1, epoch=0, seq=1, tick=0),
        RejectedMore(agent=1, epoch=0, first=2, last=3, counts={"too_old": 9}),
        agents=((1, 0, 4, 4, 4),),
    )

    assert [status for _, _, status in statuses(reader)] == [
        Status.ACKED, Status.UNKNOWN, Status.UNKNOWN, Status.ACKED,
    ]  # fmt: skip


def test_a_reader_follows_a_growing_file(path: Path) -> None:
    """Each poll takes in what was flushed since, and tells whether there was anything."""
    reader = LedgerReader(path)
    assert not reader.poll()

    writer = LedgerWriter(path, HEADER)
    assert not reader.poll()
    writer.add(Map(agent=1, epoch=0, seq=1, tick=0))
    writer.flush(100, [(1, 0, 1, 1, 0)])
    assert reader.poll()
    assert reader.progress_us == 100
    assert [status for _, _, status in statuses(reader)] == [Status.UNKNOWN]
    assert not reader.poll()

    writer.flush(200, [(1, 0, 2, 2, 1)])
    assert reader.poll()
    assert [status for _, _, status in statuses(reader)] == [Status.ACKED, Status.UNKNOWN]
    ended = [reader.ended]
    writer.close(300)
    assert reader.poll()
    ended.append(reader.ended)
    assert ended == [False, True]
    reader.close()


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_half_written_line_waits_for_its_other_half(path: Path, cut: int) -> None:
    """A line without its end is not read yet, nor lost."""
    writer = LedgerWriter(path, HEADER)
    writer.add(Map(agent=1, epoch=0, seq=1, tick=0))
    writer.flush(100, [(1, 0, 1, 1, 1)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with LedgerReader(path) as reader:
        reader.poll()
        before = reader.progress_us

        path.write_bytes(whole)
        assert reader.poll()
        assert (before, reader.progress_us) == (0, 100)
        assert statuses(reader) == [(0, 1, Status.ACKED)]
    writer.close(200)


def test_a_ledger_is_never_written_over(path: Path) -> None:
    """A file that exists is an error, and keeps its content."""
    path.write_text("precious")

    with pytest.raises(FileExistsError):
        LedgerWriter(path, HEADER)
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"type":"end","at_us":1}\n', ":1: type = end: expected header"),
        ('{"type":"header"}\n', ":1: .*version|:1: .*missing"),
        ("not json\n", ":1: .*expected a record of a ledger"),
        ('{"type":"what"}\n', ":1: .*expected a record of a ledger"),
    ],
)
def test_what_is_no_ledger_is_an_error(path: Path, content: str, message: str) -> None:
    """The error names file and line."""
    path.write_text(content)

    with LedgerReader(path) as reader, pytest.raises(LedgerError, match=message):
        reader.poll()


def test_another_version_is_an_error(path: Path) -> None:
    """A ledger of a later layout is not guessed at."""
    writer = LedgerWriter(path, msgspec.structs.replace(HEADER, version=1))
    writer.close(1)

    with LedgerReader(path) as reader, pytest.raises(LedgerError, match="version = 1: expected 2"):
        reader.poll()


def test_closing_twice_writes_one_end(path: Path) -> None:
    """A second close does nothing."""
    writer = LedgerWriter(path, HEADER)
    writer.close(1)
    writer.close(2)

    assert path.read_text().count('"end"') == 1
