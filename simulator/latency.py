"""Times kept as a High Dynamic Range histogram would: microseconds inside, milliseconds outside."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from hdrh.histogram import HdrHistogram

from simulator.hdr import mean_value
from simulator.intervals import Interval, Intervals

_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3
_KEPT_BITS = 11
"""What three digits take: a histogram counts values together that have these leading bits in common."""
_SO_FAR_BITS = 8
_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9}

Buckets = Mapping[int, int]
"""How many values there were, by their leading bits, in microseconds."""


class Latency:
    """One kind of duration, over the run and over the last while.

    Two values are recorded per batch, and the histogram's own way of counting, in Python, costs ten times what a dictionary
    does. So values are counted here by their leading bits, and the histogram is made of the counts when somebody asks.
    There are no more of them than the histogram has buckets (about 24 000).

    Attributes:
        clamped: values that lay outside 1 us to 1 h and were recorded as the nearer end.
    """

    __slots__ = ("_counts", "_intervals", "_taken", "clamped")

    def __init__(self) -> None:
        self._counts: defaultdict[int, int] = defaultdict(int)
        self._intervals = Intervals()
        self._taken: dict[int, int] = {}
        self.clamped = 0

    def record(self, microseconds: int, due_us: int | None = None, *, counts: bool = True) -> None:
        """Record one value.

        Args:
            microseconds: the value.
            due_us: when it was meant to happen, in Unix microseconds, if that is known.
            counts: else it stands in the intervals only, as what belongs to a warm-up does.
        """
        if due_us is not None:
            self._intervals.record(microseconds, due_us)
        if not counts:
            return
        if not _LOWEST_US <= microseconds <= _HIGHEST_US:
            self.clamped += 1
            microseconds = _LOWEST_US if microseconds < _LOWEST_US else _HIGHEST_US
        dropped_bits = microseconds.bit_length() - _KEPT_BITS
        self._counts[microseconds >> dropped_bits << dropped_bits if dropped_bits > 0 else microseconds] += 1

    def take_recent(self) -> Buckets:
        """What was recorded since the last call."""
        taken, self._taken = self._taken, dict(self._counts)
        return {value: new for value, count in self._taken.items() if (new := count - taken.get(value, 0))}

    @property
    def p99_ms(self) -> float:
        """The 99th percentile of the run in milliseconds; 0 without values."""
        return float(self._histogram().get_value_at_percentile(99.0)) / 1000 if self._counts else 0.0

    def intervals(self) -> list[Interval]:
        """The values whose intended time is known, by that time."""
        return self._intervals.encoded()

    def summary(self) -> dict[str, float | int | str]:
        """Count, percentiles, maximum and mean in milliseconds, and the histogram itself (`hdr`, base64 V2, in us)."""
        return _summary(self._histogram(), self.clamped)

    def _histogram(self) -> HdrHistogram:
        histogram = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        for microseconds, count in self._counts.items():
            histogram.record_value(microseconds, count)
        return histogram


class SoFar:
    """Everything since the start, gathered from one while after the other, for who asks every second.

    Precise to 1 part in 128: the whole precision would take 10 ms each time.
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: defaultdict[int, int] = defaultdict(int)

    def add(self, recent: Buckets) -> None:
        """Add what came since the last call."""
        for microseconds, count in recent.items():
            dropped_bits = microseconds.bit_length() - _SO_FAR_BITS
            self._counts[microseconds >> dropped_bits << dropped_bits if dropped_bits > 0 else microseconds] += count

    def statistics_ms(self) -> dict[str, float]:
        """Percentiles, maximum and mean in milliseconds, and the count; empty without values."""
        total = sum(self._counts.values())
        if not total:
            return {}
        ordered = sorted(self._counts.items())
        found: dict[str, float] = {}
        wanted, seen = list(_PERCENTILES.items()), 0
        for microseconds, count in ordered:
            seen += count
            while wanted and seen >= max(1, int(total * wanted[0][1] / 100 + 0.5)):
                found[wanted.pop(0)[0]] = microseconds / 1000
        found["max"] = ordered[-1][0] / 1000
        found["mean"] = round(sum(microseconds * count for microseconds, count in ordered) / total / 1000, 3)
        found["count"] = float(total)
        return found


def percentile_ms(recent: Buckets, percent: float) -> float | None:
    """A percentile in milliseconds, to three digits; None without values."""
    rank = sum(recent.values()) * percent / 100
    for microseconds in sorted(recent):
        rank -= recent[microseconds]
        if rank <= 0:
            return microseconds / 1000
    return None


def add_buckets(several: Sequence[Buckets]) -> Buckets:
    """What several of them hold together."""
    total: defaultdict[int, int] = defaultdict(int)
    for recent in several:
        for microseconds, count in recent.items():
            total[microseconds] += count
    return total


def add_summaries(summaries: Sequence[Mapping[str, Any]]) -> dict[str, float | int | str]:
    """The summary of all values of several summaries. Nothing is lost: their histograms have the same buckets.

    Raises:
        KeyError: one of them is no summary.
    """
    histogram = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
    for summary in summaries:
        histogram.decode_and_add(summary["hdr"])
    return _summary(histogram, sum(summary["clamped"] for summary in summaries))


def _summary(histogram: HdrHistogram, clamped: int) -> dict[str, float | int | str]:
    found: dict[str, float | int | str] = {"count": int(histogram.get_total_count())}
    if found["count"]:
        for name, value in histogram.get_percentile_to_value_dict(list(_PERCENTILES.values())).items():
            found[next(key for key, percentile in _PERCENTILES.items() if percentile == name)] = value / 1000
        found["max"] = histogram.get_max_value() / 1000
        found["mean"] = round(mean_value(histogram) / 1000, 3)
    found["clamped"] = clamped
    found["hdr"] = histogram.encode().decode()
    return found
