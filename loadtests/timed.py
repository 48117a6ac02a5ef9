"""Latencies by the time at which something was meant to happen: a run's moments, and its phases."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec import Struct

from loadtests.measure import Latency
from simulator.intervals import Interval


class Window(NamedTuple):
    """A part of a run, in Unix microseconds."""

    from_us: int
    until_us: int


class Moment(Struct, frozen=True, kw_only=True):
    """What was meant to happen in one interval, and how long it took."""

    at_us: int
    """Begin of the interval, in Unix microseconds."""
    width_us: int
    count: int
    p50: float
    """In milliseconds, as the others."""
    p99: float
    max: float


class Timed:
    """The intervals of one latency, of one process or of several."""

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        self._intervals = sorted(intervals, key=lambda interval: interval.at_us)

    def moments(self) -> list[Moment]:
        """Statistics of each interval, oldest first.

        Raises:
            ValueError: a histogram cannot be read.
        """
        width_us = max((interval.width_us for interval in self._intervals), default=1)
        parts: dict[int, list[str]] = {}
        for interval in self._intervals:
            parts.setdefault(interval.at_us // width_us, []).append(interval.hdr)
        found = []
        for number, encoded in parts.items():
            statistics = Latency.decode(encoded).statistics()
            if statistics:
                found.append(
                    Moment(
                        at_us=number * width_us, width_us=width_us, count=int(statistics["count"]),
                        p50=statistics["p50"], p99=statistics["p99"], max=statistics["max"],
                    )
                )  # fmt: skip
        return found

    def between(self, windows: Sequence[Window], *, whole: bool = True) -> Latency:
        """Everything that was meant to happen within the windows.

        Args:
            windows: the parts of the run.
            whole: only intervals that lie in them from begin to end; else each that touches one.

        Raises:
            ValueError: a histogram cannot be read.
        """
        return Latency.decode(
            interval.hdr
            for interval in self._intervals
            if any(_within(interval, window, whole=whole) for window in windows)
        )


def _within(interval: Interval, window: Window, *, whole: bool) -> bool:
    ends_us = interval.at_us + interval.width_us
    if whole:
        return window.from_us <= interval.at_us and ends_us <= window.until_us
    return interval.at_us < window.until_us and window.from_us < ends_us
