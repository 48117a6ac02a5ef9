"""What an agent holds until it is acknowledged: which batches, which of them are on their way, and what had to go.

A batch is a function of its tick, so the spool keeps numbers, not frames: a frame that must be sent again is made
again. Its bytes count as if they were kept, so a simulated agent drops what a real one would drop.
"""

from collections import deque
from typing import NamedTuple

from server.protocol.messages import Window


class DroppedRange(NamedTuple):
    """Batches given up: seqs `first` to `last`; those up to `sent` had been sent at least once."""

    first: int
    last: int
    sent: int


class Spool:
    """The unacknowledged batches of one epoch, in order, bounded in bytes and in ticks.

    Args:
        max_bytes: of all frames held; past it the oldest go.
        max_ticks: age of the oldest batch held.

    Attributes:
        first: lowest seq held; `produced + 1` when none is.
        produced: highest seq given out.
        sent: highest seq ever sent.
        acked: highest seq acknowledged.
        dropped: ranges given up since somebody last took them.
    """

    __slots__ = (
        "_bytes", "_flight", "_flight_bytes", "_held", "_max_bytes", "_max_ticks", "_next", "_poisoned", "acked",
        "dropped", "first", "produced", "sent",
    )  # fmt: skip

    def __init__(self, max_bytes: int, max_ticks: int) -> None:
        self._max_bytes, self._max_ticks = max_bytes, max_ticks
        self._held: deque[tuple[int, int]] = deque()  # tick, bytes of the frame when it was produced
        self._bytes = 0
        self._flight: deque[tuple[int, int]] = deque()  # seq, bytes of the frame as it was sent
        self._flight_bytes = 0
        self._next = 1
        self._poisoned: set[int] = set()
        self.first = 1
        self.produced = self.sent = self.acked = 0
        self.dropped: list[DroppedRange] = []

    def __len__(self) -> int:
        return len(self._held)

    @property
    def next_seq(self) -> int:
        """Seq of the next batch never sent before."""
        return max(self.sent + 1, self.first)

    def add(self, tick: int, frame_bytes: int) -> int:
        """Hold a new batch, and drop the oldest while there are too many bytes or they are too old.

        Returns:
            The batch's seq.
        """
        self.produced += 1
        held = self._held
        held.append((tick, frame_bytes))
        self._bytes += frame_bytes
        while len(held) > 1 and (self._bytes > self._max_bytes or tick - held[0][0] > self._max_ticks):
            self._drop_first()
        return self.produced

    def half_free(self, frame_bytes: int) -> bool:
        """Whether half of the bytes stays free if a frame is held besides."""
        return self._bytes + frame_bytes <= self._max_bytes // 2

    def tick_of(self, seq: int) -> int:
        """The tick of a batch that is held."""
        return self._held[seq - self.first][0]

    def bytes_of(self, seq: int) -> int:
        """The size of a held batch's frame when it was produced; made again it differs by the digits of its `oldest`."""
        return self._held[seq - self.first][1]

    def next_to_send(self) -> int | None:
        """The seq whose turn it is on this connection; None: none is waiting, or it waits for those before it."""
        seq = self._next
        return None if seq > self.produced or seq in self._poisoned else seq

    def fits(self, frame_bytes: int, window: Window) -> bool:
        """Whether a frame may be sent within the window; alone it may be, however large it is."""
        flight = len(self._flight)
        return not flight or (flight < window.batches and self._flight_bytes + frame_bytes <= window.bytes)

    def on_its_way(self, frame_bytes: int) -> bool:
        """Note that the batch of `next_to_send` was sent.

        Returns:
            Whether it had been sent before.
        """
        seq = self._next
        self._flight.append((seq, frame_bytes))
        self._flight_bytes += frame_bytes
        self._next += 1
        if seq <= self.sent:
            return True
        self.sent = seq
        return False

    def ack(self, seq: int) -> list[int]:
        """Let go of everything up to `seq`, which must not lie above `sent`.

        Returns:
            The ticks of the batches that were held, oldest first.
        """
        flight = self._flight
        while flight and flight[0][0] <= seq:
            self._flight_bytes -= flight.popleft()[1]
        ticks = []
        while self.first <= seq and self._held:
            ticks.append(self._let_go())
        self.acked = max(self.acked, seq)
        if self._poisoned:
            self._drop_poisoned()
        return ticks

    def reconnected(self) -> None:
        """A new connection: nothing is on its way, and the lowest batch held is the next to send."""
        self._flight.clear()
        self._flight_bytes = 0
        self._next = self.first

    def poison(self, seq: int) -> None:
        """Never send this batch again: drop it as soon as those below it are settled."""
        if self.first <= seq <= self.produced:
            self._poisoned.add(seq)
            self._drop_poisoned()

    def largest_on_its_way(self) -> int | None:
        """Seq of the largest frame sent on this connection and not acknowledged."""
        return max(self._flight, key=lambda sent: sent[1])[0] if self._flight else None

    def take_dropped(self) -> list[DroppedRange]:
        """The ranges given up since the last call."""
        taken, self.dropped = self.dropped, []
        return taken

    def _drop_poisoned(self) -> None:
        while self.first in self._poisoned:
            self._drop_first()

    def _drop_first(self) -> None:
        seq = self.first
        self._let_go()
        was_sent = seq <= self.sent
        last = self.dropped[-1] if self.dropped else None
        # A range is a part that was sent and a part that was not, in this order; either may be empty.
        if last is not None and last.last == seq - 1 and (last.sent == last.last or not was_sent):
            self.dropped[-1] = DroppedRange(last.first, seq, seq if was_sent else last.sent)
        else:
            self.dropped.append(DroppedRange(seq, seq, seq if was_sent else seq - 1))

    def _let_go(self) -> int:
        """Hold the oldest batch no longer; returns its tick."""
        tick, frame_bytes = self._held.popleft()
        self._bytes -= frame_bytes
        if self._poisoned:
            self._poisoned.discard(self.first)
        self.first += 1
        self._next = max(self._next, self.first)
        return tick
