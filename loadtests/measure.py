"""What a run measures, and in which unit: the one place that turns microseconds into what people read.

Latencies are recorded in microseconds in HDR histograms, from the time at which something was meant to happen, and told
in milliseconds. This module imports neither Locust nor gevent, so that the runner can read what Locust wrote.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence

from hdrh.histogram import HdrHistogram

from simulator.hdr import mean_value

LOWEST_US = 1
HIGHEST_US = 3_600_000_000
DIGITS = 3
"""Of every latency histogram, in all processes: only equal ones can be added up."""

_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9}
_SERIES_POINTS = 7_200
"""Two hours of seconds; there are about seventy series."""


class Latency:
    """Latencies in an HDR histogram, precise to three digits from one microsecond to one hour."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
        self.clamped = 0
        """Values outside the range, kept at its nearest end. Below 1 us: sent before its time, or two clocks disagree."""

    @classmethod
    def decode(cls, encoded: Iterable[str]) -> "Latency":
        """Add up histograms as `encode` writes them.

        Raises:
            ValueError: one of them cannot be read.
        """
        latency = cls()
        for text in encoded:
            try:
                latency._histogram.decode_and_add(text)
            except Exception as error:  # hdrh raises a class per cause, without a common base, and zlib.error
                raise ValueError(f"not a latency histogram: {error!r}") from error
        return latency

    def encode(self) -> str:
        """The histogram in HDR's compressed V2 form, base64."""
        return str(self._histogram.encode().decode())

    def record_us(self, microseconds: int, count: int = 1) -> None:
        """Record a latency in microseconds, so many times."""
        kept = min(max(microseconds, LOWEST_US), HIGHEST_US)
        self.clamped += count if kept != microseconds else 0
        if count:
            self._histogram.record_value(kept, count)

    @property
    def early(self) -> int:
        """Of all, also of those that `decode` added up, how many took no time that could be: they ended as they began."""
        return int(self._histogram.get_count_at_value(LOWEST_US))

    def percentiles(self) -> list[tuple[float, float]]:
        """The whole distribution: percentile and milliseconds, denser towards the maximum; empty without samples.

        The last is the maximum, half a sample below 100: a few samples tell nothing of the 99.9th percentile.
        """
        if not self.count:
            return []
        found, step = [], 50.0
        percentile = 0.0
        while 100.0 - percentile > 50.0 / self.count:
            found.append((percentile, self._histogram.get_value_at_percentile(percentile) / 1000))
            if percentile >= 100.0 - step:
                step /= 2
            percentile += step / 5
        return [*found, (100.0 - 50.0 / self.count, self._histogram.get_max_value() / 1000)]

    @property
    def count(self) -> int:
        """How many were recorded."""
        return int(self._histogram.get_total_count())

    def statistics(self) -> dict[str, float]:
        """Percentiles, max and mean in milliseconds, and the count; empty without samples."""
        if not self.count:
            return {}
        percentiles = self._histogram.get_percentile_to_value_dict(list(_PERCENTILES.values()))
        found = {name: percentiles[percentile] / 1000 for name, percentile in _PERCENTILES.items()}
        return found | {
            "max": self._histogram.get_max_value() / 1000,
            "mean": mean_value(self._histogram) / 1000,
            "count": float(self.count),
        }


Point = tuple[int, float]
"""Unix microseconds, and a value."""


class _Group:
    """Points one after the other, of which the smallest and the largest are kept."""

    __slots__ = ("count", "ends", "total")

    def __init__(self, ends: Sequence[Point], count: int, total: float) -> None:
        self.ends = ends
        """In the order of their times. One or two; a group of two keeps both."""
        self.count = count
        self.total = total

    def __add__(self, later: "_Group") -> "_Group":
        ends = [*self.ends, *later.ends]
        places = range(len(ends))
        least, most = min(places, key=lambda i: (ends[i][1], i)), max(places, key=lambda i: (ends[i][1], i))
        return _Group([ends[i] for i in sorted({least, most})], self.count + later.count, self.total + later.total)


class Series:
    """A value over time. The statistics are of every point.

    Of the points themselves a long run keeps the smallest and the largest of each group of neighbours, so that no spike
    is lost, with the sum of them all.
    """

    def __init__(self, points: Iterable[Point] = ()) -> None:
        self._groups: list[_Group] = []
        self._width = 2
        """Points of a group."""
        self._count = self._begun = 0
        self._sum = 0.0
        self._least = self._most = self._last = 0.0
        for at_us, value in points:
            self.add(at_us, value)

    def add(self, at_us: int, value: float) -> None:
        """Add the value at a time in Unix microseconds."""
        self._count_all(value, value, value, value, 1)
        added = _Group([(at_us, value)], 1, value)
        if self._groups and self._groups[-1].count < self._width:
            self._groups[-1] += added
            return
        if len(self._groups) >= _SERIES_POINTS // 2:
            earlier, later = self._groups[::2], self._groups[1::2]
            self._groups = [a + b for a, b in zip(earlier, later, strict=False)] + earlier[len(later) :]
            self._width *= 2
        self._groups.append(added)

    def begin(self) -> None:
        """The statistics begin anew: what came so far was a warm-up, and stays among the points only."""
        self._begun = self._count

    @property
    def points(self) -> list[Point]:
        """What is kept of them, in their order."""
        return [point for group in self._groups for point in group.ends]

    @property
    def count(self) -> int:
        """Points that the statistics are of."""
        return self._count - self._begun

    def statistics(self) -> dict[str, float]:
        """Smallest, largest, mean and last value, in the metric's unit; empty without points."""
        count = self._count - self._begun
        if not count:
            return {}
        return {"min": self._least, "max": self._most, "mean": self._sum / count, "last": self._last}

    def between(self, windows: Iterable[tuple[int, int]]) -> "Series":
        """What lies within windows, each from a time to another that is not in it, in Unix microseconds.

        A group that lies across a border counts with those of its kept points that are within.
        """
        wanted = list(windows)
        found = Series()
        for group in self._groups:
            ends = [point for point in group.ends if any(begin <= point[0] < end for begin, end in wanted)]
            if not ends:
                continue
            values = [value for _, value in ends]
            part = group if len(ends) == len(group.ends) else _Group(ends, len(ends), sum(values))
            found._count_all(min(values), max(values), values[-1], part.total, part.count)
            found._groups.append(part)
        return found

    def _count_all(self, least: float, most: float, last: float, total: float, count: int) -> None:
        first = self._count == self._begun
        self._least = least if first else min(self._least, least)
        self._most = most if first else max(self._most, most)
        self._last = last
        self._sum = total if first else self._sum + total
        self._count += count


class ClockOffset:
    """How far the server's clock is ahead of ours, from heartbeats and their echoes.

    The echo with the shortest round trip of the last few tells it best: its error is at most half that round trip. An
    offset within the error is no offset, so on one machine it is exactly 0.
    """

    def __init__(self) -> None:
        self._echoes: deque[tuple[int, int]] = deque(maxlen=8)

    def echo(self, *, sent_us: int, server_us: int, received_us: int) -> tuple[int, int]:
        """Learn from an echo: our clock at sending, the server's at answering, ours at receipt, in Unix microseconds.

        Returns:
            The round trip, and what it alone says of the offset, in microseconds.
        """
        round_trip_us = max(received_us - sent_us, 0)
        told = (round_trip_us, server_us - sent_us - round_trip_us // 2)
        self._echoes.append(told)
        return told

    @property
    def microseconds(self) -> int:
        """To be added to our clock to get the server's; 0 until an echo came."""
        if not self._echoes:
            return 0
        round_trip_us, offset_us = min(self._echoes)
        return offset_us if abs(offset_us) > (round_trip_us + 1) // 2 else 0


def now_us() -> int:
    """Our clock in Unix microseconds."""
    return time.time_ns() // 1000
