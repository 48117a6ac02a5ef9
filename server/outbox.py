"""What waits for one subscriber, bounded, with a policy for each kind.

Metrics: the newest sample of a series replaces the one that waits, and an explicit gap before it tells of the others. Log
lines: dropped past the bound, with a gap where they stood. Everything else must not be lost: it has a bound of its own, so
that metrics and lines do not take its place, and past that the subscriber is too slow and is closed with 4008.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from server.counters import Counters
from server.protocol.close_codes import CloseCode
from server.protocol.codec import encode
from server.protocol.messages import Gap, Metrics, Sample
from server.sockets import Socket

_GAP_BYTES = 100


@dataclass(slots=True)
class _GapMark:
    """A hole in a topic's lines or samples, at its place in the order."""

    topic: str
    dropped: int


class _Kept(NamedTuple):
    """A frame that must not be lost."""

    frame: bytes


class _Newest(NamedTuple):
    """The metrics of a topic that wait."""

    frame: bytes
    samples: Sequence[Sample]


class Outbox:
    """Frames for one socket, in order, but for metrics that a newer one replaced."""

    def __init__(self, socket: Socket, counters: Counters, *, limit_bytes: int, limit_seconds: float) -> None:
        self._socket = socket
        self._counters = counters
        self._limit_bytes = limit_bytes
        self._limit_seconds = limit_seconds
        self._waiting: deque[_Kept | bytes | _GapMark | str] = deque()
        """Frames kept, frames of lines, gaps, and keys of `_newest` at the place of the first frame of that topic."""
        self._newest: dict[str, _Newest] = {}
        self._gaps: dict[str, _GapMark] = {}
        """The gap that still grows, per topic: the last that waits of a log, the first that waits of samples."""
        self.waiting_bytes = 0
        """Of all that waits: at most twice the limit, a gap for each topic, and what newer samples add to frames that wait."""
        self._kept_bytes = 0
        self._stalled_since: float | None = None
        self.closed = False

    def push(self, frame: bytes) -> None:
        """Send what must not be lost."""
        if self._sent_at_once(frame):
            return
        if self._kept_bytes + len(frame) > self._limit_bytes:
            self.fail(f"more than {self._limit_bytes} bytes were waiting")
            return
        self._kept_bytes += len(frame)
        self._append(_Kept(frame), len(frame))

    def push_metrics(self, topic: str, frame: bytes, samples: Sequence[Sample] = ()) -> None:
        """Send the frame of these samples; while it waits newer ones of its topic take their place.

        A newer frame need not hold every container of the older one: those that it lacks keep their sample. What was
        replaced, or had no room, stands in a gap that the reader gets before anything newer of the topic.
        """
        if self._sent_at_once(frame):
            return
        old = self._newest.get(topic)
        if old is not None:
            self._counters.live_metrics_conflated += 1
            named = {sample.container for sample in samples}
            kept = [sample for sample in old.samples if sample.container not in named]
            self._leave_out(topic, len(old.samples) - len(kept))
            if kept:
                samples = (*kept, *samples)
                frame = encode(Metrics(topic=topic, samples=samples))
            self.waiting_bytes += len(frame) - len(old.frame)
            self._newest[topic] = _Newest(frame, samples)
        elif self.waiting_bytes + len(frame) > self._limit_bytes:
            self._counters.live_metrics_conflated += 1
            self._leave_out(topic, len(samples))
        else:
            self._newest[topic] = _Newest(frame, samples)
            self._append(topic, len(frame))

    def push_lines(self, topic: str, frame: bytes, lines: int) -> None:
        """Send log lines; past the bound they become a gap."""
        gap = self._gaps.get(topic)
        if gap is None and self._sent_at_once(frame):
            return
        if self.waiting_bytes + len(frame) <= self._limit_bytes:
            self._gaps.pop(topic, None)
            self._append(frame, len(frame))
            return
        self._counters.live_lines_dropped += lines
        self._leave_out(topic, lines)

    def push_gap(self, topic: str, dropped: int) -> None:
        """Tell of samples that never become a frame: they came when newer ones were out."""
        if topic not in self._gaps and self._sent_at_once(encode(Gap(topic=topic, dropped=dropped))):
            return
        self._leave_out(topic, dropped)

    def discard(self, topic: str) -> None:
        """Drop the metrics of a topic that wait: a snapshot follows that is newer, or nobody wants them any more.

        A gap that waits grows no more: what is left out from now on belongs behind the snapshot.
        """
        self._gaps.pop(topic, None)
        old = self._newest.pop(topic, None)
        if old is not None:
            self._counters.live_metrics_conflated += 1
            self._waiting.remove(topic)
            self.waiting_bytes -= len(old.frame)

    def on_writable(self) -> None:
        """The socket takes frames again."""
        while self._waiting:
            item = self._waiting[0]
            if isinstance(item, _GapMark):
                frame = encode(Gap(topic=item.topic, dropped=item.dropped))
                size = _GAP_BYTES
            elif isinstance(item, str):
                frame = self._newest[item].frame
                size = len(frame)
            else:
                frame = item.frame if isinstance(item, _Kept) else item
                size = len(frame)
            if not self._socket.try_send(frame):
                return
            self._counters.live_frames_sent += 1
            # Something left: the reader reads, however slowly.
            self._stalled_since = asyncio.get_running_loop().time()
            self._waiting.popleft()
            self.waiting_bytes -= size
            self._forget(item)
        if not self._waiting:
            self._stalled_since = None

    def tick(self) -> None:
        """Once a second: give up on a reader that took nothing for too long."""
        self.on_writable()
        since = self._stalled_since
        if since is not None and asyncio.get_running_loop().time() - since > self._limit_seconds:
            self.fail(f"nothing was read for {self._limit_seconds:g} s")

    def fail(self, reason: str) -> None:
        """Close as a slow consumer and free what waited."""
        if self.closed:
            return
        self.clear()
        self._socket.close(CloseCode.SLOW_CONSUMER, reason)

    def clear(self) -> None:
        """Free everything; later pushes do nothing."""
        self.closed = True
        self._waiting.clear()
        self._newest.clear()
        self._gaps.clear()
        self.waiting_bytes = self._kept_bytes = 0

    def _sent_at_once(self, frame: bytes) -> bool:
        if self.closed:
            return True
        if self._waiting:
            return False
        if self._socket.try_send(frame):
            self._counters.live_frames_sent += 1
            return True
        return False

    def _forget(self, item: _Kept | bytes | _GapMark | str) -> None:
        if isinstance(item, str):
            del self._newest[item]
        elif isinstance(item, _Kept):
            self._kept_bytes -= len(item.frame)
        elif isinstance(item, _GapMark) and self._gaps.get(item.topic) is item:
            del self._gaps[item.topic]

    def _leave_out(self, topic: str, dropped: int) -> None:
        """Count what a topic loses into its gap."""
        if not dropped:
            return  # a summary of the fleet holds no samples
        gap = self._gaps.get(topic)
        if gap is not None:
            gap.dropped += dropped
            return
        gap = self._gaps[topic] = _GapMark(topic, dropped)
        if topic in self._newest:
            # Before the frame that overtook: a connection may end between the two.
            self._waiting.insert(self._waiting.index(topic), gap)
            self.waiting_bytes += _GAP_BYTES
        else:
            self._append(gap, _GAP_BYTES)

    def _append(self, item: _Kept | bytes | _GapMark | str, size: int) -> None:
        if self._stalled_since is None:
            self._stalled_since = asyncio.get_running_loop().time()
        self._waiting.append(item)
        self.waiting_bytes += size
