"""Latencies by the time at which something was meant to happen: which second was slow, and how slow.

Coarser than the histogram of the whole run: values are kept to one part in 128, and a run of more than `MOST` seconds has
intervals of 2, 4, 8 ... seconds. So memory is bounded, however long a run is.
"""

from collections import defaultdict

from hdrh.histogram import HdrHistogram
from msgspec import Struct

MOST = 300
"""Intervals that are kept apart; past them two neighbours become one."""
_FIRST_WIDTH_US = 1_000_000
_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 2
_KEPT_BITS = 8


class Interval(Struct, frozen=True, kw_only=True):
    """One interval, as files hold it."""

    at_us: int
    """Its begin in Unix microseconds."""
    width_us: int
    hdr: str
    """HDR histogram in microseconds, two digits, base64 V2."""


class Intervals:
    """Counts latencies by interval."""

    __slots__ = ("_counts", "_width_us")

    def __init__(self) -> None:
        self._width_us = _FIRST_WIDTH_US
        self._counts: dict[int, defaultdict[int, int]] = {}

    def record(self, microseconds: int, due_us: int) -> None:
        """Record a latency of something that was meant to happen at a time in Unix microseconds."""
        if not _LOWEST_US <= microseconds <= _HIGHEST_US:
            microseconds = _LOWEST_US if microseconds < _LOWEST_US else _HIGHEST_US
        dropped_bits = microseconds.bit_length() - _KEPT_BITS
        key = microseconds >> dropped_bits << dropped_bits if dropped_bits > 0 else microseconds
        number = due_us // self._width_us
        counts = self._counts.get(number)
        if counts is None:
            counts = self._begin(due_us)
        counts[key] += 1

    def encoded(self) -> list[Interval]:
        """What was recorded, oldest first."""
        found = []
        for number, counts in sorted(self._counts.items()):
            histogram = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
            for microseconds, count in counts.items():
                histogram.record_value(microseconds, count)
            found.append(
                Interval(at_us=number * self._width_us, width_us=self._width_us, hdr=histogram.encode().decode())
            )
        return found

    def _begin(self, due_us: int) -> defaultdict[int, int]:
        """The counts of a time that has none yet."""
        while len(self._counts) >= MOST:
            self._widen()
        return self._counts.setdefault(due_us // self._width_us, defaultdict(int))

    def _widen(self) -> None:
        self._width_us *= 2
        wider: dict[int, defaultdict[int, int]] = {}
        for number, counts in self._counts.items():
            into = wider.setdefault(number // 2, defaultdict(int))
            for key, count in counts.items():
                into[key] += count
        self._counts = wider
