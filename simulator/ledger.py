"""What a fleet did, on disk while it does it: from this file and the seed the verifier knows which rows must be stored.

One file per process, JSON lines, only ever appended to, written every 250 ms. The first line is the header, each other
one of the records below. A `progress` line closes each write: everything that happened up to its `at_us` stands above
it. A reader may follow a growing file; a half-written last line waits for its other half.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from server.protocol.canonical import LOG_TEXT_BYTES
from server.protocol.error_codes import RejectReason
from server.protocol.messages import ActionKind

VERSION = 2
_READ_BYTES = 1 << 20


def ledger_files(path: Path, processes: int) -> tuple[Path, ...]:
    """The ledgers of a fleet: the file itself, or one per process: `ledger-1.jsonl`, `ledger-2.jsonl`, ..."""
    if processes == 1:
        return (path,)
    return tuple(path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, processes + 1))


class LedgerError(Exception):
    """A ledger that cannot be read: no header, another version, or a line that is no record."""


class _Record(msgspec.Struct, tag_field="type", frozen=True):
    """Base of all lines: the tag is written as `type`."""


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """The recording of which a fleet sends copies."""

    path: str
    """Absolute."""
    digest: str
    """SHA-256 of the file, hexadecimal."""


class Ramp(msgspec.Struct, frozen=True, kw_only=True):
    """When the agents of a fleet begin, one after the other. It is that of the whole fleet: a ledger may be of a shard."""

    us: int
    agents: int
    first_agent: int

    def start_us(self, number: int) -> int:
        """How long after the fleet's start an agent begins."""
        return self.us * (number - self.first_agent) // self.agents


class Header(_Record, tag="header", frozen=True, kw_only=True):
    """First line: what the rows are a function of."""

    version: int = VERSION
    seed: int
    org: str
    organisations: int = 1
    """To which the agents belong in turn."""
    agents: int
    first_agent: int
    containers: int
    log_lines: int
    interval_us: int
    t0_us: int
    profiles: dict[str, int]
    """Weights of what the containers do."""
    churn_ticks: int
    """Ticks in which each container is re-created once; 0: it never is."""
    pool_digest: str
    """Of the words that Faker gave; another Faker may give others."""
    backfilled: bool = False
    """The rows were written to the database as history; `end` then says up to when."""
    replayed: Replayed | None = None
    """The rows are those of a recording; then the interval is at least how far they lie from their batch's time."""
    ramp: Ramp | None = None
    """With a recording: each host's timeline begins at its moment of it; None: all begin at once."""
    continues_us: int | None = None
    """Where on the same timeline this fleet took over from a history; None: it began the timeline."""
    clock_ahead_us: tuple[int, int] = (0, 0)
    """How far the clock of an agent may be ahead at least (below 0: behind) and at most."""


class Limits(_Record, tag="limits", frozen=True, kw_only=True):
    """A server's limit that is not the protocol's default; it holds for the whole run."""

    log_text_bytes: int


class Map(_Record, tag="map", frozen=True, kw_only=True):
    """From this seq on, the agent's seq and tick rise together, until the next such line of the agent."""

    agent: int
    epoch: int
    seq: int
    tick: int | None
    """None: these batches are of no tick and hold no rows."""


class ClockRecord(_Record, tag="clock", frozen=True, kw_only=True):
    """From this tick on, the agent's clock, and so the time of its rows, is ahead by so much."""

    agent: int
    tick: int
    ahead_us: int


class InputRecord(_Record, tag="input", frozen=True, kw_only=True):
    """A command that an agent carried out after `tick`."""

    agent: int
    tick: int
    ref: int
    kind: ActionKind


class Executed(_Record, tag="executed", frozen=True, kw_only=True):
    """A command that an agent carried out, whether it changed something or not; once per time that it did."""

    agent: int
    action_id: str


class Dropped(_Record, tag="dropped", frozen=True, kw_only=True):
    """Batches that the agent gave up: `first` to `last`, of which those up to `sent` had been sent at least once."""

    agent: int
    epoch: int
    first: int
    last: int
    sent: int


class RejectedRecord(_Record, tag="rejected", frozen=True, kw_only=True):
    """A row that an ack named as not stored."""

    agent: int
    epoch: int
    seq: int
    row: str
    ref: int | None
    at: int | None
    line: int | None
    reason: str


class RejectedMore(_Record, tag="rejected_more", frozen=True, kw_only=True):
    """Rows of the batches `first` to `last` that an ack only counted, per reason."""

    agent: int
    epoch: int
    first: int
    last: int
    counts: dict[str, int]


class Progress(_Record, tag="progress", frozen=True, kw_only=True):
    """Up to `at_us` everything is in the file.

    `agents` holds [agent, epoch, produced, sent, acked] of those that changed; the last three are seqs, and everything
    from 1 to them was produced, sent at least once, acknowledged.
    """

    at_us: int
    agents: tuple[tuple[int, int, int, int, int], ...] = ()


class End(_Record, tag="end", frozen=True, kw_only=True):
    """The fleet stopped in order; nothing follows."""

    at_us: int


Record = (
    Header
    | Limits
    | Map
    | ClockRecord
    | InputRecord
    | Executed
    | Dropped
    | RejectedRecord
    | RejectedMore
    | Progress
    | End
)


class LedgerWriter:
    """Writes a ledger. `flush` makes one write call; between two flushes records wait in memory.

    Args:
        path: a file that must not exist yet; its directory must.
        header: the first line.

    Raises:
        OSError: the file exists or cannot be written; `flush` may raise it too.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._file = path.open("xb", buffering=0)
        self._pending: list[bytes] = []
        self.add(header)

    def add(self, record: Record) -> None:
        """Queue a record for the next flush."""
        self._pending.append(self._encode(record))

    def flush(self, at_us: int, agents: Iterable[tuple[int, int, int, int, int]] = ()) -> None:
        """Write what is queued, and the progress behind it."""
        self.add(Progress(at_us=at_us, agents=tuple(agents)))
        self._write()

    def close(self, at_us: int) -> None:
        """Write the last line and close the file. Safe to call twice."""
        if self._file.closed:
            return
        try:
            self.add(End(at_us=at_us))
            self._write()
        finally:
            self._file.close()

    def _write(self) -> None:
        data = memoryview(b"\n".join((*self._pending, b"")))
        self._pending.clear()
        while data:  # an unbuffered write may be short
            data = data[self._file.write(data) :]


class Status(StrEnum):
    """What the storage must hold of a row."""

    ACKED = "acked"
    """Acknowledged: it must be stored, with these values."""
    UNKNOWN = "unknown"
    """It may be stored, then with these values: sent and not acknowledged, or counted among the rejected unnamed."""
    CONFLICTED = "conflicted"
    """Rejected as a conflicting duplicate: its key is stored, with other values."""
    REJECTED = "rejected"
    """Rejected for another reason: it must not be stored."""
    UNSENT = "unsent"
    """Never sent so far, or dropped before it was: it must not be stored."""


STATUSES = tuple(Status)
"""A status' place here stands for it where rows are arrays."""
_ACKED, _UNKNOWN, _UNSENT = (STATUSES.index(status) for status in (Status.ACKED, Status.UNKNOWN, Status.UNSENT))


class ProducedBatch(NamedTuple):
    """A batch of an agent, and what the storage must hold of its rows, unless `named` says otherwise."""

    tick: int
    seq: int
    status: Status
    named: dict[str, Status]
    """Rows that an ack named, by their place in the batch (`metrics[3]`): rejected or conflicted. Empty for most."""


@dataclass(slots=True)
class Course:
    """What one agent did in one epoch."""

    produced: int = 0
    sent: int = 0
    acked: int = 0
    maps: list[Map] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    rejected: dict[int, dict[str, Status]] = field(default_factory=dict)
    uncertain: list[RejectedMore] = field(default_factory=list)

    def batches(self, since_tick: int, until_tick: int) -> Iterator[ProducedBatch]:
        """The batches produced for the ticks from `since_tick` up to, not including, `until_tick`, in order."""
        for ticks, first_seq in self.stretches(since_tick, until_tick):
            for place, status in enumerate(self.statuses(first_seq, len(ticks)).tolist()):
                seq = first_seq + place
                yield ProducedBatch(ticks[place], seq, STATUSES[status], self.rejected.get(seq, {}))

    def stretches(self, since_tick: int, until_tick: int) -> Iterator[tuple[range, int]]:
        """The same, as ranges of ticks without a gap, each with the seq of its first batch."""
        for i, start in enumerate(self.maps):
            if start.tick is None:
                continue
            end_seq = self.maps[i + 1].seq if i + 1 < len(self.maps) else self.produced + 1
            shift = start.tick - start.seq
            first = max(start.seq, since_tick - shift)
            end = min(end_seq, self.produced + 1, until_tick - shift)
            if first < end:
                yield range(first + shift, end + shift), first

    def statuses(self, first: int, count: int) -> NDArray[np.uint8]:
        """What the storage must hold of `count` batches from the seq `first` on, their named rows aside.

        All of them must have been produced. Returns places in `STATUSES`.
        """
        found = np.full(count, _ACKED, np.uint8)
        found[max(0, self.acked + 1 - first) :] = _UNKNOWN
        for some in self.uncertain:
            found[max(0, some.first - first) : max(0, some.last + 1 - first)] = _UNKNOWN
        found[max(0, self.sent + 1 - first) :] = _UNSENT
        for gone in reversed(self.dropped):  # the first one that names a batch has the say
            found[max(0, gone.first - first) : max(0, gone.last + 1 - first)] = _UNSENT
            # An ack that passes a dropped batch says nothing about it.
            found[max(0, gone.first - first) : max(0, gone.sent + 1 - first)] = _UNKNOWN
        return found

    def is_troubled(self, first: int, count: int) -> bool:
        """Whether some of `count` batches from the seq `first` on were dropped, or rows of them rejected."""
        last = first + count - 1
        return (
            any(some.first <= last and some.last >= first for some in self.dropped)
            or any(some.first <= last and some.last >= first for some in self.uncertain)
            or any(first <= seq <= last for seq in self.rejected)
        )


class LedgerReader:
    """Follows a ledger, also one that still grows. `poll` takes in what was appended since.

    A verifier polls before it reads the storage, to know what must be there, and polls again after it, until
    `progress_us` lies past the read, to know what may be there.

    Attributes:
        header: the first line; None until it was read.
        log_text_bytes: the server's limit of a log line.
        progress_us: Unix microseconds up to which everything is known; 0 at first.
        ended: whether the fleet stopped in order.
        courses: what each (agent, epoch) did.
        inputs: the commands that each agent carried out, in order.
        clocks: the changes of each agent's clock, in order; empty for most.
        executed: how many times each command was carried out, over all agents, by action id.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        self._decode = msgspec.json.Decoder(Record).decode
        self._lines = 0
        self.header: Header | None = None
        self.log_text_bytes = LOG_TEXT_BYTES
        self.progress_us = 0
        self.ended = False
        self.courses: dict[tuple[int, int], Course] = {}
        self.inputs: dict[int, list[InputRecord]] = {}
        self.clocks: dict[int, list[ClockRecord]] = {}
        self.executed: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def poll(self) -> bool:
        """Take in every whole line that was appended since.

        Returns:
            Whether there was any. False also while the file does not exist yet.

        Raises:
            LedgerError: a line is no record, or the file does not begin with a header of this version.
        """
        if self._file is None:
            try:
                self._file = self._path.open("rb")
            except FileNotFoundError:
                return False
        before = self._lines
        while chunk := self._file.read(_READ_BYTES):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                self._take(line)
        return self._lines > before

    def courses_of(self, agent: int) -> Iterator[Course]:
        """What an agent did, epoch by epoch."""
        epoch = 0
        while (course := self.courses.get((agent, epoch))) is not None:
            yield course
            epoch += 1

    def _take(self, line: bytes) -> None:
        self._lines += 1
        try:
            record = self._decode(line)
        except msgspec.DecodeError as error:
            raise LedgerError(f"{self._path}:{self._lines}: {error}: expected a record of a ledger") from None
        if self.header is None:
            self.header = self._checked_header(record)
            return
        match record:
            case Progress():
                self.progress_us = record.at_us
                for agent, epoch, produced, sent, acked in record.agents:
                    course = self._course(agent, epoch)
                    course.produced, course.sent, course.acked = produced, sent, acked
            case Map():
                self._course(record.agent, record.epoch).maps.append(record)
            case InputRecord():
                self.inputs.setdefault(record.agent, []).append(record)
            case ClockRecord():
                self.clocks.setdefault(record.agent, []).append(record)
            case Executed():
                self.executed[record.action_id] += 1
            case Dropped():
                self._course(record.agent, record.epoch).dropped.append(record)
            case RejectedRecord():
                status = Status.CONFLICTED if record.reason == RejectReason.CONFLICTING_DUPLICATE else Status.REJECTED
                rows = self._course(record.agent, record.epoch).rejected.setdefault(record.seq, {})
                rows[record.row] = status
            case RejectedMore():
                self._course(record.agent, record.epoch).uncertain.append(record)
            case Limits():
                self.log_text_bytes = record.log_text_bytes
            case End():
                self.progress_us = record.at_us
                self.ended = True

    def _checked_header(self, record: Record) -> Header:
        if not isinstance(record, Header):
            raise LedgerError(f"{self._path}:1: type = {record.__struct_config__.tag}: expected header")
        if record.version != VERSION:
            raise LedgerError(f"{self._path}:1: version = {record.version}: expected {VERSION}")
        return record

    def _course(self, agent: int, epoch: int) -> Course:
        course = self.courses.get((agent, epoch))
        if course is None:
            course = self.courses[agent, epoch] = Course()
        return course
