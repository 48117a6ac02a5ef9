"""What waits for a subscriber that lags, without a socket."""

import json

from server.counters import Counters
from server.outbox import Outbox
from server.protocol.close_codes import CloseCode
from tests.support.server import eventually


class ScriptedSocket:
    """Takes frames while it is open, and remembers them."""

    def __init__(self) -> None:
        self.reading = True
        self.frames: list[bytes] = []
        self.closed: CloseCode | None = None
        self.round_trip_seconds = 0.0

    def try_send(self, frame: bytes) -> bool:
        """Take a frame, if the peer reads."""
        if self.reading:
            self.frames.append(frame)
        return self.reading

    def close(self, code: CloseCode, reason: str = "") -> None:
        """Remember why."""
        assert reason
        self.closed = code


def outbox(limit_bytes: int = 1000, limit_seconds: float = 1000.0) -> tuple[ScriptedSocket, Outbox, Counters]:
    """An outbox of a socket."""
    socket, counters = ScriptedSocket(), Counters()
    return socket, Outbox(socket, counters, limit_bytes=limit_bytes, limit_seconds=limit_seconds), counters


async def test_a_reader_gets_frames_at_once() -> None:
    """Nothing waits for who reads."""
    socket, box, _ = outbox()
    box.push(b"a")
    box.push_metrics("m", b"b")
    box.push_lines("l", b"c", 1)

    assert socket.frames == [b"a", b"b", b"c"]
    assert box.waiting_bytes == 0


async def test_the_newest_metric_takes_the_place_of_the_one_that_waits() -> None:
    """Per series one frame waits, the newest, at the place of the first."""
    socket, box, counters = outbox()
    socket.reading = False
    box.push_metrics("m", b"old")
    box.push(b"event")
    box.push_metrics("m", b"newer")
    box.push_metrics("n", b"other")
    socket.reading = True
    box.on_writable()

    assert socket.frames == [b"newer", b"event", b"other"]
    assert counters.live_metrics_conflated == 1
    assert box.waiting_bytes == 0


async def test_lines_past_the_bound_become_one_gap_at_their_place() -> None:
    """Lines keep their order; those that did not fit are counted in a gap that stands where they were."""
    socket, box, counters = outbox(limit_bytes=250)
    socket.reading = False
    box.push_lines("l", b"1" * 100, 1)
    box.push_lines("l", b"2" * 200, 2)
    box.push_lines("l", b"3" * 200, 3)
    socket.reading = True
    box.on_writable()
    box.push_lines("l", b"4", 1)

    assert [socket.frames[0], socket.frames[2]] == [b"1" * 100, b"4"]
    assert json.loads(socket.frames[1]) == {"type": "gap", "topic": "l", "dropped": 5}
    assert counters.live_lines_dropped == 5


async def test_what_must_not_be_lost_closes_past_the_bound() -> None:
    """An event that does not fit ends the subscriber, and frees what waited."""
    socket, box, _ = outbox(limit_bytes=10)
    socket.reading = False
    box.push(b"12345678")
    box.push(b"12345678")

    assert socket.closed is CloseCode.SLOW_CONSUMER
    assert (box.waiting_bytes, box.closed) == (0, True)
    box.push(b"more")
    assert box.waiting_bytes == 0


async def test_standing_still_closes() -> None:
    """A subscriber that takes nothing for too long is given up; one with nothing waiting is not."""
    socket, box, _ = outbox(limit_seconds=0.0)
    box.tick()
    assert socket.closed is None
    socket.reading = False
    box.push(b"x")

    def gave_up() -> bool:
        box.tick()
        return box.closed

    await eventually(gave_up, "given up")

    assert [socket.closed] == [CloseCode.SLOW_CONSUMER]
