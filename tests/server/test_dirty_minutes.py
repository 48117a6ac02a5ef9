"""Marks for the rollup as ingest makes them: one a container and minute, and none fewer than it takes."""

import pytest

from server import ingest as ingest_module
from server.counters import Counters
from server.dirty_minutes import DirtyMinutes
from server.errors import PeerError
from server.protocol.messages import Metric
from server.reads import MINUTE_US
from server.windows import Budget
from tests.support.core import (
    OTHER_EPOCH,
    SECOND_US,
    Peer,
    RecordingLane,
    RecordingLive,
    connect,
    container,
    hello,
    make_ingest,
    make_registry,
)

NOON = 1_800_000_000 * SECOND_US
"""The beginning of a minute."""


class Rig:
    """Agents of two containers each before one lane."""

    def __init__(self) -> None:
        self.dirty, self.lane, self.budget = DirtyMinutes(), RecordingLane(), Budget(10**9)
        self.registry = make_registry(Counters())
        self.ingest = make_ingest(
            Counters(), [self.lane], RecordingLive(), budget=self.budget, registry=self.registry,
            dirty_minutes=self.dirty,
        )  # fmt: skip
        self.agent = self.connect()

    def connect(self, **greeting: object) -> Peer:
        """The agent, or its next connection."""
        return connect(self.registry, self.ingest, hello(container(0), container(1), **greeting))

    def sample(self, *offsets: float, ref: int = 0) -> None:
        """A batch with samples at so many seconds after noon."""
        self.agent.batch(*(Metric(ref=ref, at=NOON + int(s * SECOND_US)) for s in offsets))

    def marks(self) -> list[tuple[int, int]]:
        """Ref, and minutes after noon, of what the lane was given to mark since the last call."""
        found = [(known.info.ref, (minute - NOON) // MINUTE_US) for b in self.lane.batches for known, minute in b.marks]
        self.lane.batches.clear()
        return sorted(found)


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    """It is an hour after noon, and nothing is closed."""
    monkeypatch.setattr(ingest_module, "now_us", lambda: NOON + 60 * MINUTE_US)
    return Rig()


async def test_a_minute_is_marked_once(rig: Rig) -> None:
    """The first sample of each container in each minute brings a mark, the others none."""
    rig.sample(0, 0.5, 59.999999)
    rig.sample(7, ref=1)
    assert rig.marks() == [(0, 0), (1, 0)]
    rig.sample(59.9999999, 60, 61)
    rig.sample(8, 59, ref=1)
    assert rig.marks() == [(0, 1)]
    rig.sample(119, 120, 300)
    assert rig.marks() == [(0, 2), (0, 5)]


async def test_what_may_be_stored_before_marks_anew(rig: Rig) -> None:
    """A batch that is sent again has its marks with it, whatever was marked: it may come long after they were taken."""
    rig.sample(0, 1)
    rig.sample(2)
    rig.marks()
    rig.agent = rig.connect(connection=2, next_seq=3, epoch=OTHER_EPOCH)
    rig.agent.seq = 0
    rig.sample(0, 1)
    rig.sample(2)
    assert rig.marks() == [(0, 0), (0, 0)]
    rig.sample(3)
    assert rig.marks() == []


async def test_a_closed_minute_is_marked_once_a_closing(rig: Rig) -> None:
    """Its marks may be gone: a late sample marks it again. Open minutes keep their marks."""
    rig.sample(0, 60)
    rig.sample(0, ref=1)
    rig.marks()
    assert rig.dirty.close(NOON + MINUTE_US + 5) == NOON + MINUTE_US
    rig.sample(61)
    rig.sample(1, 2, ref=1)
    rig.sample(3, ref=1)
    assert rig.marks() == [(1, 0)]
    assert rig.dirty.close(NOON) == NOON + MINUTE_US  # a clock that moved back opens nothing
    rig.sample(4, ref=1)
    assert rig.marks() == [(1, 0)]
    rig.sample(62)
    assert rig.marks() == []


async def test_a_batch_that_finds_no_memory_leaves_no_mark(rig: Rig) -> None:
    """What was refused may never come again: the next sample of its minute does not rely on it."""
    rig.budget.limit_bytes = 1
    with pytest.raises(PeerError, match="no memory"):
        rig.sample(0)
    rig.budget.limit_bytes = 10**9
    rig.agent = rig.connect(connection=2)
    rig.sample(1)

    assert rig.marks() == [(0, 0)]
