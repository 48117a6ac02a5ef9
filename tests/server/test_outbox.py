"""The outbox of one subscriber: newest metrics, lines in order with exact gaps, and an end to patience."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.counters import Counters
from server.outbox import Outbox
from server.protocol.close_codes import CloseCode
from server.protocol.codec import encode
from server.protocol.messages import Metrics, Sample
from tests.support.sockets import ScriptedSocket

PassSeconds = Callable[[float], None]


class Rig:
    """An outbox over a socket that takes nothing, unless told."""

    def __init__(self, limit_bytes: int = 1000, limit_seconds: float = 5.0, takes: int | None = 0) -> None:
        self.socket = ScriptedSocket(takes=takes)
        self.counters = Counters()
        self.outbox = Outbox(self.socket, self.counters, limit_bytes=limit_bytes, limit_seconds=limit_seconds)

    def closed(self) -> tuple[CloseCode, str] | None:
        """How the socket was closed, if it was."""
        return self.socket.closed

    def take(self, frames: int | None = None) -> list[bytes]:
        """Let the socket take some frames, or all; returns those it took."""
        before = len(self.socket.frames)
        self.socket.takes = frames
        self.outbox.on_writable()
        self.socket.takes = 0
        return self.socket.frames[before:]


def gap(dropped: int, topic: str = "logs:1") -> bytes:
    """A gap as it is sent."""
    return b'{"type":"gap","topic":"%s","dropped":%d}' % (topic.encode(), dropped)


class TestOrder:
    """Frames of a socket that keeps up, and of one that comes back."""

    async def test_who_keeps_up_gets_each_frame_at_once(self) -> None:
        """Nothing waits while the socket takes frames."""
        rig = Rig(takes=None)
        rig.outbox.push(b"a")
        rig.outbox.push_metrics("host:1", b"b")
        rig.outbox.push_lines("logs:1", b"c", 1)

        assert rig.socket.frames == [b"a", b"b", b"c"]
        assert rig.outbox.waiting_bytes == 0
        assert rig.counters.live_frames_sent == 3

    async def test_what_waits_leaves_in_order(self) -> None:
        """Frames leave as they came, as many as the socket takes, and nothing overtakes what waits."""
        rig = Rig()
        for frame in (b"a", b"bb", b"c"):
            rig.outbox.push(frame)
        assert rig.outbox.waiting_bytes == 4

        assert rig.take(1) == [b"a"]
        rig.socket.takes = None
        rig.outbox.push(b"d")
        assert rig.socket.frames == [b"a"]
        assert rig.take() == [b"bb", b"c", b"d"]
        assert rig.outbox.waiting_bytes == 0


class TestMetrics:
    """Only the newest of a series."""

    async def test_the_newest_takes_the_place_of_the_one_that_waits(self) -> None:
        """A series has one frame waiting, the newest, where its first one stood; the others are counted."""
        rig = Rig()
        rig.outbox.push_metrics("host:1", b"one")
        rig.outbox.push(b"event")
        rig.outbox.push_metrics("host:2", b"other")
        rig.outbox.push_metrics("host:1", b"second")
        rig.outbox.push_metrics("host:1", b"third!")

        assert rig.outbox.waiting_bytes == len(b"third!") + len(b"event") + len(b"other")
        assert rig.take() == [b"third!", b"event", b"other"]
        assert rig.counters.live_metrics_conflated == 2
        assert rig.outbox.waiting_bytes == 0

    async def test_a_newer_frame_keeps_the_containers_that_it_lacks(self) -> None:
        """Of each container the newest sample waits, in whichever of a host's frames it came."""
        rig = Rig()

        def push(at: int, *containers: str) -> None:
            samples = tuple(Sample(container=name, at=at) for name in containers)
            rig.outbox.push_metrics("host:1", encode(Metrics(topic="host:1", samples=samples)), samples)

        push(1, "a", "b", "c")
        push(2, "b")
        push(3, "c", "d")

        waiting = rig.outbox.waiting_bytes
        told, frame = rig.take()
        assert len(frame) == waiting - 100
        assert told == gap(2, "host:1")
        found = {sample["container"]: sample["at"] for sample in rig.socket.messages[1]["samples"]}
        assert found == {"a": 1, "b": 2, "c": 3, "d": 3}
        assert rig.counters.live_metrics_conflated == 2

    async def test_a_series_waits_again_after_it_left(self) -> None:
        """Once its frame is out the next one of a series queues behind what waits."""
        rig = Rig()
        rig.outbox.push_metrics("host:1", b"one")
        rig.outbox.push(b"event")
        assert rig.take(1) == [b"one"]

        rig.outbox.push_metrics("host:1", b"two")

        assert rig.take() == [b"event", b"two"]
        assert rig.counters.live_metrics_conflated == 0

    async def test_past_the_bound_a_new_series_is_left_out(self) -> None:
        """A sample that does not fit is dropped and counted; the next one comes anyway."""
        rig = Rig(limit_bytes=10)
        rig.outbox.push(b"x" * 8)
        rig.outbox.push_metrics("host:1", b"abc")

        assert rig.outbox.waiting_bytes == 8
        assert rig.counters.live_metrics_conflated == 1
        assert rig.closed() is None

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("pmw"), st.integers(1, 4)), max_size=60))
    def test_every_sample_arrives_or_is_counted_before_a_newer_one(self, steps: list[tuple[str, int]]) -> None:
        """Whatever the reader does: before each sample a gap has told exactly how many are missing since the one before."""

        async def play() -> list[dict[str, Any]]:
            rig = Rig(limit_bytes=300)
            number = 0

            def push(count: int) -> None:
                nonlocal number
                for _ in range(count):
                    samples = (Sample(container="1", at=number),)
                    frame = encode(Metrics(topic="container:1", samples=samples))
                    rig.outbox.push_metrics("container:1", frame, samples)
                    number += 1

            for kind, count in steps:
                if kind == "m":
                    push(count)
                elif kind == "p" and rig.outbox.waiting_bytes < 200:
                    rig.outbox.push(b'{"event":%d}' % 10**60)
                elif kind == "w":
                    rig.take(count)
            rig.take()
            assert (rig.outbox.waiting_bytes, rig.closed()) == (0, None)
            rig.socket.takes = None
            push(1)
            return rig.socket.messages

        expected = 0
        for message in asyncio.run(play()):
            if message.get("type") == "gap":
                expected += message["dropped"]
            elif message.get("type") == "metrics":
                assert message["samples"][0]["at"] == expected
                expected += 1

    async def test_samples_that_came_late_are_told_at_once_or_with_the_others(self) -> None:
        """A gap of its own where the reader keeps up; added to the one that waits where it does not."""
        rig = Rig(takes=None)
        rig.outbox.push_gap("container:1", 2)
        assert rig.socket.frames == [gap(2, "container:1")]

        rig.socket.takes = 0
        for dropped in (3, 4):
            rig.outbox.push_gap("container:1", dropped)
        assert rig.take() == [gap(7, "container:1")]


class TestLines:
    """Never out of order, and what is missing is told where it is missing."""

    async def test_a_gap_stands_where_the_lines_were(self) -> None:
        """Lines past the bound are counted exactly into one gap between those before and those after."""
        rig = Rig(limit_bytes=150)
        first, fourth = b"1" * 120, b"4" * 30
        rig.outbox.push_lines("logs:1", first, 9)
        rig.outbox.push_lines("logs:1", b"2" * 40, 5)
        rig.outbox.push_lines("logs:1", b"3" * 40, 7)
        assert rig.take(1) == [first]
        rig.outbox.push_lines("logs:1", fourth, 1)

        assert rig.take() == [gap(12), fourth]
        assert rig.counters.live_lines_dropped == 12
        assert rig.outbox.waiting_bytes == 0

    async def test_topics_have_gaps_of_their_own(self) -> None:
        """Each topic's gap names it, in the order in which they began."""
        rig = Rig(limit_bytes=5)
        rig.outbox.push(b"event")
        rig.outbox.push_lines("logs:1", b"a", 1)
        rig.outbox.push_lines("logs:2", b"b", 2)
        rig.outbox.push_lines("logs:1", b"c", 3)

        assert rig.take() == [b"event", gap(4), gap(2, "logs:2")]
        assert rig.outbox.waiting_bytes == 0

    async def test_a_short_line_does_not_slip_past_a_gap(self) -> None:
        """While a gap is being sent nothing of its topic is sent at once."""
        rig = Rig(limit_bytes=5)
        rig.outbox.push(b"event")
        rig.outbox.push_lines("logs:1", b"x" * 6, 1)
        rig.socket.takes = None

        rig.outbox.push_lines("logs:1", b"y", 1)

        assert rig.socket.frames == []
        rig.outbox.on_writable()
        assert rig.socket.frames == [b"event", gap(2)]

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("pw"), st.integers(1, 4)), max_size=60))
    def test_every_line_arrives_or_is_counted_in_its_place(self, steps: list[tuple[str, int]]) -> None:
        """Whatever the reader does: lines arrive in order, and each gap is exactly as long as what is missing there."""

        async def play() -> list[dict[str, Any]]:
            rig = Rig(limit_bytes=150)
            number = 0
            for kind, count in steps:
                if kind == "p":
                    numbers = list(range(number, number + count))
                    number += count
                    rig.outbox.push_lines("logs:1", b'{"lines":%s}' % str(numbers).encode(), count)
                    assert rig.outbox.waiting_bytes <= 150 + 2 * 100
                else:
                    rig.take(count)
            rig.take()
            assert rig.outbox.waiting_bytes == 0
            assert rig.closed() is None
            return [*rig.socket.messages, {"lines": [number]}]

        expected = 0
        for message in asyncio.run(play()):
            if "dropped" in message:
                expected += message["dropped"]
            else:
                assert message["lines"][0] == expected
                expected = message["lines"][-1] + 1


class TestPatience:
    """Who does not read is let go."""

    async def test_past_the_bound_the_subscriber_is_closed_and_freed(self) -> None:
        """What must not be lost and does not fit ends the subscriber with 4008; everything that waited is freed."""
        rig = Rig(limit_bytes=10)
        rig.outbox.push(b"x" * 10)
        rig.outbox.push_metrics("host:1", b"")
        assert rig.closed() is None

        rig.outbox.push(b"y")

        assert rig.closed() == (CloseCode.SLOW_CONSUMER, "more than 10 bytes were waiting")
        assert rig.outbox.waiting_bytes == 0
        rig.outbox.push(b"a")
        rig.outbox.push_metrics("host:1", b"b")
        rig.outbox.push_lines("logs:1", b"c", 1)
        assert (rig.take(), rig.outbox.waiting_bytes) == ([], 0)

    async def test_metrics_and_lines_take_nobody_s_place(self) -> None:
        """Where lines fill the outbox, what must not be lost still finds room, up to the bound, and again after it left."""
        rig = Rig(limit_bytes=100)
        rig.outbox.push_lines("logs:1", b"l" * 100, 1)
        rig.outbox.push(b"e" * 60)
        rig.outbox.push_lines("logs:1", b"x", 1)
        assert rig.take() == [b"l" * 100, b"e" * 60, gap(1)]

        rig.outbox.push_lines("logs:1", b"l" * 100, 1)
        rig.outbox.push(b"f" * 60)
        assert rig.closed() is None
        rig.outbox.push(b"g" * 41)

        assert rig.closed() == (CloseCode.SLOW_CONSUMER, "more than 100 bytes were waiting")

    async def test_standing_still_ends_it(self, pass_seconds: PassSeconds) -> None:
        """A subscriber that takes nothing for the limit is closed; until then it is not."""
        rig = Rig(limit_seconds=5)
        rig.outbox.push(b"a")
        pass_seconds(4.5)
        rig.outbox.tick()
        assert rig.closed() is None

        pass_seconds(1)
        rig.outbox.tick()

        assert rig.closed() == (CloseCode.SLOW_CONSUMER, "nothing was read for 5 s")
        assert rig.outbox.waiting_bytes == 0

    async def test_a_slow_reader_that_reads_is_kept(self, pass_seconds: PassSeconds) -> None:
        """One frame within the limit is enough to be waited for again."""
        rig = Rig(limit_seconds=5)
        for _ in range(4):
            rig.outbox.push(b"a")
        for _ in range(3):
            pass_seconds(4)
            assert rig.take(1) == [b"a"]
            rig.outbox.tick()

        assert rig.closed() is None

    async def test_silence_is_not_standing_still(self, pass_seconds: PassSeconds) -> None:
        """A subscriber for which nothing waits is never closed, and its time begins anew with the next frame."""
        rig = Rig(limit_seconds=5)
        rig.outbox.push(b"a")
        rig.take()
        pass_seconds(1000)
        rig.outbox.tick()
        rig.outbox.push(b"b")
        pass_seconds(4)
        rig.outbox.tick()

        assert rig.closed() is None

    async def test_a_tick_sends_what_can_be_sent(self) -> None:
        """A lost wake-up costs a second, not the frame."""
        rig = Rig()
        rig.outbox.push(b"a")
        rig.socket.takes = None

        rig.outbox.tick()

        assert rig.socket.frames == [b"a"]

    @pytest.mark.parametrize("times", [1, 2])
    async def test_clear_frees_without_closing(self, times: int) -> None:
        """A socket that is gone needs no close; clearing twice does no harm."""
        rig = Rig()
        rig.outbox.push(b"a")
        for _ in range(times):
            rig.outbox.clear()

        assert (rig.outbox.waiting_bytes, rig.closed()) == (0, None)
        rig.outbox.fail("late")
        assert rig.closed() is None


async def test_discarded_metrics_are_not_sent_behind_a_newer_snapshot() -> None:
    """What waits of a topic goes, with its bytes; other frames keep their place."""
    rig = Rig()
    rig.outbox.push(b"first")
    rig.outbox.push_metrics("host:1", b"old")
    rig.outbox.push_metrics("host:2", b"other")
    rig.outbox.discard("host:1")
    rig.outbox.discard("host:1")
    rig.outbox.push(b"snapshot")
    rig.outbox.push_metrics("host:1", b"new")

    assert rig.take() == [b"first", b"other", b"snapshot", b"new"]
    assert rig.outbox.waiting_bytes == 0
    assert rig.counters.live_metrics_conflated == 1


async def test_what_is_left_out_behind_a_snapshot_is_told_behind_it() -> None:
    """A gap that waits before a new snapshot does not take in what a slow reader loses of the time after it."""
    rig = Rig()
    rig.outbox.push(b"event")
    for number in range(2):
        rig.outbox.push_metrics("container:1", b"m%d" % number, [Sample(container="1", at=number)])
    rig.outbox.discard("container:1")
    rig.outbox.push(b"snapshot")
    for number in range(2, 5):
        rig.outbox.push_metrics("container:1", b"m%d" % number, [Sample(container="1", at=number)])

    assert rig.take() == [b"event", gap(1, "container:1"), b"snapshot", gap(2, "container:1"), b"m4"]
    assert rig.outbox.waiting_bytes == 0
