"""The clock of a host: right, unless a fault sets it."""

import sys
from collections.abc import Iterator


class HostClock:
    """How far a host's clock is ahead, by tick. What it says is the time of the host's rows; ticks are due as ever."""

    __slots__ = ("_changes",)

    def __init__(self) -> None:
        self._changes: list[tuple[int, int]] = [(0, 0)]

    def set(self, first_tick: int, ahead_us: int) -> None:
        """From this tick on it is ahead by so much (below 0: behind). Changes come in their order."""
        self._changes.append((first_tick, ahead_us))

    def ahead_us(self, tick: int) -> int:
        """How far it is ahead at a tick, in microseconds."""
        if len(self._changes) == 1:  # of nearly every host
            return 0
        return next(ahead_us for first, ahead_us in reversed(self._changes) if first <= tick)

    @property
    def newest_us(self) -> int:
        """How far it is ahead now."""
        return self._changes[-1][1]

    def runs(self) -> Iterator[tuple[range, int]]:
        """The ticks between two changes, and how far it is ahead in them; the last run has no end."""
        firsts = [first for first, _ in self._changes]
        for (first, ahead_us), end in zip(self._changes, [*firsts[1:], sys.maxsize], strict=True):
            yield range(first, end), ahead_us
