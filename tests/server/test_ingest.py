"""Ingest: order, replay, gaps, window, memory, and what of a batch is stored and shown."""

from typing import Any

import pytest

from server import ingest as ingest_module
from server.counters import Counters
from server.dirty_minutes import DirtyMinutes
from server.errors import PeerError
from server.ingest import Ingest
from server.protocol.close_codes import CloseCode
from server.protocol.codec import BadRow, Decoded
from server.protocol.error_codes import ErrorCode, RejectReason
from server.protocol.messages import About, Batch, Log, Metric, Pulse, Rejected
from server.registry import Registry
from server.rows import log_line_number, metric_head, pack_log, pack_metric, pack_time, row_key
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
    make_quotas,
    make_registry,
)

NOW = 1_800_000_000 * SECOND_US
EARLIEST = NOW - 86_340 * SECOND_US
LATEST = NOW + 60 * SECOND_US


class Rig:
    """Ingest between an agent, a lane that writes down and a live view that writes down."""

    def __init__(self, budget_bytes: int = 10**9, **limits: int) -> None:
        self.counters = Counters()
        self.lane = RecordingLane()
        self.live = RecordingLive()
        self.budget = Budget(budget_bytes)
        self.registry: Registry = make_registry(self.counters)
        self.ingest: Ingest = make_ingest(
            self.counters, [self.lane], self.live, budget=self.budget, registry=self.registry,
            dirty_minutes=DirtyMinutes(), **limits,
        )  # fmt: skip
        self.agent: Peer = connect(self.registry, self.ingest, hello(container(0), container(1)))

    def send(self, *metrics: Metric, **fields: Any) -> None:
        """The agent's next batch, at NOW unless it says otherwise."""
        self.agent.batch(*metrics, **{"at": NOW} | fields)

    def offered(self) -> list[int]:
        """Numbers of the batches that the lane got."""
        return [batch.seq for batch in self.lane.batches]

    def keys(self) -> list[tuple[int, int]]:
        """Ref and time of every metric row that the lane got."""
        refs = {known.id: ref for ref, known in self.agent.session.record.containers.items()}
        rows = [row for batch in self.lane.batches for row in batch.metric_rows]
        return [(refs[container_id], at) for container_id, at in map(row_key, rows)]

    def refusal(self, **fields: Any) -> PeerError:
        """The error with which the next batch is refused."""
        with pytest.raises(PeerError) as caught:
            self.send(Metric(ref=0), **fields)
        return caught.value


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is NOW."""
    monkeypatch.setattr(ingest_module, "now_us", lambda: NOW)


@pytest.fixture
async def rig() -> Rig:
    """An agent with two containers, everything watched."""
    return Rig()


class TestOrder:
    """Numbers of batches."""

    async def test_batches_go_to_their_lane_in_order(self, rig: Rig) -> None:
        """Batches are offered as they came; the ack comes with the commit, cumulative, and once."""
        for _ in range(3):
            rig.send()
        assert rig.offered() == [1, 2, 3]
        assert rig.agent.socket.frames == []

        rig.lane.commit()

        assert rig.agent.socket.messages == [{"type": "ack", "seq": 3}]
        assert rig.counters.batches_accepted == 3

    async def test_a_replay_that_is_pending_waits_for_the_original(self, rig: Rig) -> None:
        """A batch sent again before its commit is dropped unanswered: the original's ack covers it."""
        rig.send(Metric(ref=0))
        rig.send(Metric(ref=0), seq=1)

        assert rig.offered() == [1]
        assert rig.agent.socket.frames == []
        assert rig.counters.batches_replayed == 1

    async def test_a_replay_that_is_committed_is_acknowledged_again(self, rig: Rig) -> None:
        """A batch sent again after its commit is dropped, and the ack repeated: the first one was lost."""
        rig.send(Metric(ref=0))
        rig.lane.commit()
        rig.send(Metric(ref=0), seq=1)

        assert rig.offered() == []
        assert rig.agent.socket.messages == [{"type": "ack", "seq": 1}] * 2

    async def test_a_declared_gap_is_taken_and_counted(self, rig: Rig) -> None:
        """Raising `oldest` over numbers declares them dropped: the batch after them is taken."""
        rig.send()
        rig.send(seq=5, oldest=5)

        assert rig.offered() == [1, 5]
        assert rig.counters.batches_declared_dropped == 3

    @pytest.mark.parametrize(("seq", "oldest", "expected"), [(3, 1, 2), (5, 4, 4), (2**63 - 1, 2, 2)])
    async def test_an_undeclared_gap_asks_for_a_resync(self, rig: Rig, seq: int, oldest: int, expected: int) -> None:
        """A number that skips others which `oldest` does not declare ends the connection with 4003, and nothing is taken."""
        rig.send()

        error = rig.refusal(seq=seq, oldest=oldest)

        assert (error.error.code, error.close_code) == (ErrorCode.SEQ_GAP, CloseCode.RESYNC_REQUIRED)
        assert str(error) == f"seq = {seq}: expected {expected}"
        assert error.error.about == About(type="batch", seq=seq)
        assert rig.offered() == [1]
        assert rig.counters.batches_declared_dropped == 0

    async def test_oldest_lies_not_above_seq(self, rig: Rig) -> None:
        """A batch cannot be older than the oldest that is held."""
        error = rig.refusal(seq=1, oldest=2)

        assert (error.error.code, error.close_code) == (ErrorCode.BAD_REQUEST, CloseCode.BAD_REQUEST)
        assert str(error) == "oldest = 2: expected at most seq = 1"

    async def test_draining_takes_nothing(self, rig: Rig) -> None:
        """While draining, batches are neither taken nor answered: the agent keeps them for the next server."""
        rig.ingest.draining = True

        rig.send(Metric(ref=0))
        rig.send(seq=9)

        assert rig.offered() == []
        assert rig.agent.socket.frames == []


class TestUnreadable:
    """Batches of which only the number could be read."""

    async def test_the_expected_one_is_passed_over(self, rig: Rig) -> None:
        """It is acknowledged in its turn with the reason, and the batches behind it are taken."""
        rig.send()
        rig.ingest.skip(rig.agent.session, 2, "at = -1: Expected `int` >= 0")
        rig.send(seq=3)
        assert rig.offered() == [1, 2, 3]

        rig.lane.commit()

        rejected = {"seq": 2, "row": "batch", "reason": "invalid_row", "detail": "at = -1: Expected `int` >= 0"}
        assert rig.agent.socket.messages == [{"type": "ack", "seq": 3, "rejected": [rejected]}]
        assert rig.counters.rows_rejected == {RejectReason.INVALID_ROW: 1}
        assert rig.agent.session.progress.outstanding_batches == 0

    @pytest.mark.parametrize("seq", [0, 1, 3, -1, 2**63 - 1])
    async def test_any_other_is_not(self, rig: Rig, seq: int) -> None:
        """A number that was received already, or skips others, changes nothing."""
        rig.send()

        rig.ingest.skip(rig.agent.session, seq, "")

        assert rig.offered() == [1]
        assert rig.agent.session.progress.received == 1

    async def test_draining_passes_over_nothing(self, rig: Rig) -> None:
        """While draining nothing is acknowledged that the next server should answer."""
        rig.ingest.draining = True

        rig.ingest.skip(rig.agent.session, 1, "")

        assert rig.offered() == []


class TestWindow:
    """How much may be on its way."""

    async def test_batches(self) -> None:
        """As many batches as the window holds are taken; one more ends the connection with 4013."""
        rig = Rig(window_batches=2)
        rig.send()
        rig.send()

        error = rig.refusal()

        assert (error.error.code, error.close_code) == (ErrorCode.WINDOW_EXCEEDED, CloseCode.RATE_LIMITED)
        assert rig.offered() == [1, 2]
        rig.lane.commit()
        rig.send(seq=3)
        assert rig.offered() == [3]

    async def test_bytes_up_to_the_last_one(self) -> None:
        """Two frames that fill the window to the byte are taken; with one byte less the second is refused."""
        probe = Rig()
        probe.send()
        frame_bytes = probe.agent.session.progress.outstanding_bytes

        exact = Rig(window_bytes=2 * frame_bytes)
        exact.send()
        exact.send()
        assert exact.offered() == [1, 2]

        tight = Rig(window_bytes=2 * frame_bytes - 1)
        tight.send()
        assert tight.refusal().error.code == ErrorCode.WINDOW_EXCEEDED

    async def test_a_frame_larger_than_the_window_passes_alone(self) -> None:
        """One batch may always be on its way, however large; a second one not beside it."""
        rig = Rig(window_bytes=100)
        rig.send(logs=(Log(ref=0, at=NOW, line=0, stream="stdout", text="x" * 1000),))
        assert rig.offered() == [1]

        assert rig.refusal().error.code == ErrorCode.WINDOW_EXCEEDED

    async def test_a_replay_takes_no_window(self) -> None:
        """Batches sent again are dropped before the window is looked at."""
        rig = Rig(window_batches=1)
        rig.send()
        rig.send(seq=1)

        assert rig.agent.session.progress.outstanding_batches == 1


class TestBudget:
    """Memory of all agents together."""

    async def test_everything_counts(self, rig: Rig) -> None:
        """A pending batch counts its rows, its text, its rejected rows and its bookkeeping; the ack frees them."""
        text = "x" * 10_000
        rig.send(Metric(ref=0), Metric(ref=9), logs=(Log(ref=0, at=NOW, line=0, stream="stdout", text=text),))
        (batch,) = rig.lane.batches

        assert rig.budget.used_bytes == batch.memory_bytes > len(text) + len(batch.metric_rows[0]) + 400

    async def test_many_rejected_rows_cost_memory_too(self, rig: Rig) -> None:
        """A frame full of rows that are not stored is not free."""
        rig.send(*[Metric(ref=9)] * 1000)

        assert rig.budget.used_bytes > 1000 * 300

    async def test_a_full_budget_sends_the_agent_away(self) -> None:
        """Without memory left the batch is refused with 1013 and nothing of it counted; the same one is taken later."""
        rig = Rig(budget_bytes=1000)
        others = make_quotas().of("others")
        assert rig.budget.take(others, 1000, 0)

        error = rig.refusal()

        assert (error.error.code, error.close_code) == (ErrorCode.UNAVAILABLE, CloseCode.TRY_AGAIN_LATER)
        assert rig.offered() == []
        assert rig.budget.used_bytes == 1000
        assert rig.agent.session.progress.received == 0
        rig.budget.give(others, 1000)
        rig.agent = connect(rig.registry, rig.ingest, hello(container(0), connection=2, next_seq=2))
        rig.send(Metric(ref=0), seq=1)
        assert rig.keys() == [(0, NOW)]

    def test_take_and_give(self) -> None:
        """What fits to the byte is taken; what does not changes nothing."""
        budget, organisation = Budget(10), make_quotas().of("o")

        assert budget.take(organisation, 10, 0)
        assert not budget.take(organisation, 1, 0)
        budget.give(organisation, 4)
        assert budget.take(organisation, 4, 0)
        assert budget.used_bytes == organisation.ingest_bytes == 10

    def test_an_organisation_gets_its_share(self) -> None:
        """One organisation fills its share to the byte and no further; another finds the rest."""
        budget, quotas = Budget(10, share=0.6), make_quotas()

        assert budget.take(quotas.of("a"), 6, 0)
        assert not budget.take(quotas.of("a"), 1, 0)
        assert budget.take(quotas.of("b"), 4, 0)
        assert not budget.take(quotas.of("b"), 1, 0)  # its share is free, the budget is not


class TestRows:
    """Which rows of a batch are stored, and what is said of the others."""

    async def test_rows_are_packed_as_the_lane_needs_them(self, rig: Rig) -> None:
        """A sample takes the batch's time or its own; a line keeps its key; the positions are those in the frame."""
        line = Log(ref=1, at=NOW, line=3, stream="stderr", text="a\x00b", partial=True)
        rig.send(Metric(ref=0, cpu=1.5, mem=2), Metric(ref=1, at=NOW - 5), logs=(line,))
        (batch,) = rig.lane.batches
        zero, one = (rig.agent.session.record.containers[ref].id for ref in (0, 1))

        assert batch.metric_rows == [
            pack_metric(metric_head(zero), pack_time(NOW), 1.5, 2, None, None),
            pack_metric(metric_head(one), pack_time(NOW - 5), None, None, None, None),
        ]
        assert batch.log_rows == [pack_log(one, NOW, 3, "stderr", "a\ufffdb".encode(), partial=True, truncated=False)]
        assert (list(batch.metric_positions), list(batch.log_positions)) == ([0, 1], [0])

    async def test_each_refused_row_is_named(self, rig: Rig) -> None:
        """A row of an unknown container, too old, in the future or not rising is rejected by name; the others are stored."""
        rig.send(
            Metric(ref=0, at=EARLIEST),
            Metric(ref=7),
            Metric(ref=0, at=EARLIEST - 1),
            Metric(ref=0, at=LATEST + 1),
            Metric(ref=0, at=EARLIEST),
            Metric(ref=0, at=LATEST),
        )
        (batch,) = rig.lane.batches

        assert rig.keys() == [(0, EARLIEST), (0, LATEST)]
        assert list(batch.metric_positions) == [0, 5]
        assert batch.rejected == [
            Rejected(seq=1, row="metrics[1]", reason="unknown_ref", ref=7, at=NOW),
            Rejected(
                seq=1, row="metrics[2]", reason="too_old", ref=0, at=EARLIEST - 1,
                detail=f"at = {EARLIEST - 1}: expected at least {EARLIEST}",
            ),
            Rejected(
                seq=1, row="metrics[3]", reason="in_future", ref=0, at=LATEST + 1,
                detail=f"at = {LATEST + 1}: expected at most {LATEST}",
            ),
            Rejected(
                seq=1, row="metrics[4]", reason="not_rising", ref=0, at=EARLIEST,
                detail=f"at = {EARLIEST}: expected more than {EARLIEST}",
            ),
        ]  # fmt: skip
        assert rig.counters.rows_rejected == {
            RejectReason.UNKNOWN_REF: 1, RejectReason.TOO_OLD: 1, RejectReason.IN_FUTURE: 1, RejectReason.NOT_RISING: 1,
        }  # fmt: skip

    async def test_refused_lines_are_named_with_their_ordinal(self, rig: Rig) -> None:
        """The same for log lines, but that their times need not rise."""
        times = [(7, NOW), (0, EARLIEST - 1), (0, LATEST + 1), (0, NOW), (0, NOW - 1)]
        rig.send(logs=tuple(
            Log(ref=ref, at=at, line=i, stream="stdout", text="") for i, (ref, at) in enumerate(times)
        ))  # fmt: skip
        (batch,) = rig.lane.batches

        assert [(row.row, row.reason, row.ref, row.at, row.line) for row in batch.rejected] == [
            ("logs[0]", "unknown_ref", 7, NOW, 0),
            ("logs[1]", "too_old", 0, EARLIEST - 1, 1),
            ("logs[2]", "in_future", 0, LATEST + 1, 2),
        ]
        assert [log_line_number(row) for row in batch.log_rows] == [3, 4]
        assert list(batch.log_positions) == [3, 4]

    async def test_unreadable_rows_are_rejected_and_shift_no_position(self, rig: Rig) -> None:
        """Rows that the codec left out are rejected as invalid; those behind them keep their place in the frame."""
        batch = Batch(seq=1, oldest=1, at=NOW, metrics=(Metric(ref=0), Metric(ref=9)))
        bad = BadRow("metrics[0]", "mem = -1: Expected `int` >= 0", ref=1, at=5)

        rig.ingest.accept(rig.agent.session, Decoded(batch, (bad,), {"metrics": (1, 2)}), batch, 10)

        (pending,) = rig.lane.batches
        assert list(pending.metric_positions) == [1]
        assert [(row.row, row.reason, row.ref, row.at, row.detail) for row in pending.rejected] == [
            ("metrics[0]", "invalid_row", 1, 5, "mem = -1: Expected `int` >= 0"),
            ("metrics[2]", "unknown_ref", 9, NOW, ""),
        ]

    async def test_a_long_line_is_cut_and_marked(self) -> None:
        """Text past the limit is cut at a character, and the row says so."""
        rig = Rig(log_text_bytes=64)
        rig.send(logs=(Log(ref=0, at=NOW, line=0, stream="stdout", text="é" * 40),))
        zero = rig.agent.session.record.containers[0].id

        assert rig.lane.batches[0].log_rows == [
            pack_log(zero, NOW, 0, "stdout", ("é" * 32).encode(), partial=False, truncated=True)
        ]


class TestMergePath:
    """Which batches may have been stored before."""

    async def test_fresh_batches_are_copied(self, rig: Rig) -> None:
        """What was never sent before goes by COPY."""
        rig.send(Metric(ref=0), logs=(Log(ref=0, at=NOW, line=0, stream="stdout", text=""),))

        assert [batch.replay for batch in rig.lane.batches] == [False]

    async def test_what_lies_below_next_seq_is_merged(self, rig: Rig) -> None:
        """Batches that the agent sent on an earlier connection are merged, its new ones copied."""
        rig.agent = connect(rig.registry, rig.ingest, hello(container(0), connection=2, next_seq=3))

        for seq in (1, 2, 3):
            rig.send(seq=seq)

        assert [batch.replay for batch in rig.lane.batches] == [True, True, False]

    async def test_a_replay_need_not_rise(self, rig: Rig) -> None:
        """A batch that may be stored already is not refused for its times: the merge compares it."""
        rig.send(Metric(ref=0))
        rig.lane.commit()
        rig.agent = connect(rig.registry, rig.ingest, hello(container(0), connection=2, next_seq=3))

        rig.send(Metric(ref=0), seq=2)

        assert rig.keys() == [(0, NOW)]
        assert rig.lane.batches[0].rejected == []

    async def test_a_suspect_agent_is_merged(self, rig: Rig) -> None:
        """An agent that produced a duplicate is merged from then on."""
        rig.agent.session.progress.suspect = True

        rig.send(Metric(ref=0))

        assert [batch.replay for batch in rig.lane.batches] == [True]

    @pytest.mark.parametrize(("later_us", "merged"), [(-1, True), (0, True), (1, False)])
    async def test_a_new_epoch_with_older_times_is_merged(self, rig: Rig, later_us: int, merged: bool) -> None:
        """At or below the last sample of an earlier epoch a row may be stored already; above it cannot."""
        rig.send(Metric(ref=0))
        rig.lane.commit()
        rig.agent = connect(rig.registry, rig.ingest, hello(container(0), epoch=OTHER_EPOCH))

        rig.send(Metric(ref=0, at=NOW + later_us))

        assert rig.keys() == [(0, NOW + later_us)]
        assert [batch.replay for batch in rig.lane.batches] == [merged]

    @pytest.mark.parametrize(
        ("at", "line", "merged"), [(NOW - 1, 9, True), (NOW, 4, True), (NOW, 5, True), (NOW, 6, False)]
    )
    async def test_lines_read_again_are_merged(self, rig: Rig, at: int, line: int, merged: bool) -> None:
        """A line at or before the last one of its container may be stored already."""
        rig.send(logs=(Log(ref=0, at=NOW, line=5, stream="stdout", text=""),))
        rig.lane.commit()

        rig.send(logs=(Log(ref=0, at=at, line=line, stream="stdout", text=""),))

        assert [batch.replay for batch in rig.lane.batches] == [merged]


class TestLive:
    """What the live view is shown."""

    async def test_samples_and_lines_are_published(self, rig: Rig) -> None:
        """Every stored row is shown as it is stored, a refused one is not."""
        rig.send(
            Metric(ref=0, cpu=1.0, mem=2, rx=3, tx=4), Metric(ref=9),
            logs=(Log(ref=1, at=NOW, line=0, stream="stdout", text="a\x00b"),),
        )  # fmt: skip
        (sample,) = rig.live.samples
        ((name, line),) = rig.live.lines

        assert (sample.at, sample.cpu, sample.mem, sample.rx, sample.tx) == (NOW, 1.0, 2, 3, 4)
        assert (name, line.at, line.text) == ("c1", NOW, "a\ufffdb")

    async def test_nobody_watching_is_shown_nothing(self, rig: Rig) -> None:
        """Without watchers nothing is made for them, but the newest values are kept for who comes."""
        rig.live.watched = False
        rig.send(Metric(ref=0, cpu=1.0, mem=2), logs=(Log(ref=0, at=NOW, line=0, stream="stdout", text=""),))
        known = rig.agent.session.record.containers[0]

        assert (rig.live.samples, rig.live.lines) == ([], [])
        assert (known.live_at, known.newest) == (NOW, Metric(ref=0, cpu=1.0, mem=2))

    async def test_the_view_never_goes_back_in_time(self, rig: Rig) -> None:
        """A backlog that drains after newer values is stored and not shown, whether those came in a pulse or not."""
        rig.agent = connect(rig.registry, rig.ingest, hello(container(0), container(1), connection=2, next_seq=2))
        rig.ingest.pulse(rig.agent.session, Pulse(at=NOW, metrics=(Metric(ref=0, cpu=5.0),)))
        rig.send(Metric(ref=0, at=NOW - 1), Metric(ref=1, at=NOW - 1), seq=1)

        assert [(sample.at, sample.cpu) for sample in rig.live.samples] == [(NOW, 5.0), (NOW - 1, None)]
        assert rig.live.late == ["c0"]
        assert rig.counters.live_samples_late == 1
        assert rig.keys() == [(0, NOW - 1), (1, NOW - 1)]

    async def test_of_several_samples_in_a_batch_the_last_is_shown_and_the_others_are_told(self, rig: Rig) -> None:
        """A view shows a container once for each batch; whoever watches is told how many samples it does not get."""
        rig.send(*(Metric(ref=0, at=NOW + i) for i in range(3)), Metric(ref=1))

        assert [sample.at for sample in rig.live.samples] == [NOW + 2, NOW]
        assert rig.live.late == ["c0", "c0"]

    async def test_without_watchers_nothing_is_late(self, rig: Rig) -> None:
        """What nobody could get is told to nobody and not counted."""
        rig.live.watched = False
        rig.ingest.pulse(rig.agent.session, Pulse(at=NOW, metrics=(Metric(ref=0),)))
        rig.send(Metric(ref=0, at=NOW - 1))

        assert (rig.live.late, rig.counters.live_samples_late) == ([], 0)

    async def test_a_pulse_is_shown_and_not_stored(self, rig: Rig) -> None:
        """A pulse's newer values of known containers are shown; nothing of it is stored, acknowledged or numbered."""
        rig.send(Metric(ref=0))
        rig.live.samples.clear()

        rig.ingest.pulse(
            rig.agent.session,
            Pulse(at=NOW, metrics=(Metric(ref=0), Metric(ref=1), Metric(ref=9), Metric(ref=0, at=LATEST + 1))),
        )

        assert [sample.at for sample in rig.live.samples] == [NOW]
        assert rig.offered() == [1]
        assert rig.agent.session.progress.received == 1

    async def test_a_line_is_shown_once(self, rig: Rig) -> None:
        """A line read again is stored with care and not shown again; the ones after it are."""
        first, second = (Log(ref=0, at=NOW, line=i, stream="stdout", text="") for i in (0, 1))
        rig.send(logs=(first,))
        rig.send(logs=(first, second))

        assert [line.line for _, line in rig.live.lines] == [0, 1]
        assert [len(batch.log_rows) for batch in rig.lane.batches] == [1, 2]

    async def test_a_pulse_does_not_hinder_its_batch(self, rig: Rig) -> None:
        """The batch with the values that a pulse showed is stored like any other."""
        rig.ingest.pulse(rig.agent.session, Pulse(at=NOW, metrics=(Metric(ref=0),)))
        rig.send(Metric(ref=0))

        assert rig.keys() == [(0, NOW)]
        assert rig.lane.batches[0].rejected == []
