"""Times kept as a High Dynamic Range histogram would: microseconds inside, milliseconds outside."""

from collections import defaultdict

from hdrh.histogram import HdrHistogram

_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3
_KEPT_BITS = 11
"""What three digits take: a histogram counts values together that have these leading bits in common."""
_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9}
_MAX_RECENT = 10_000


class Latency:
    """One kind of duration, over the run and over the last while.

    Two values are recorded per batch, and the histogram's own way of counting, in Python, costs ten times what a dictionary
    does. So values are counted here by their leading bits, and the histogram is made of the counts when somebody asks.
    There are no more of them than the histogram has buckets (about 24 000).

    Attributes:
        clamped: values that lay outside 1 us to 1 h and were recorded as the nearer end.
    """

    __slots__ = ("_counts", "_recent", "clamped")

    def __init__(self) -> None:
        self._counts: defaultdict[int, int] = defaultdict(int)
        self._recent: list[int] = []
        self.clamped = 0

    def record(self, microseconds: int) -> None:
        """Record one value in microseconds."""
        if not _LOWEST_US <= microseconds <= _HIGHEST_US:
            self.clamped += 1
            microseconds = _LOWEST_US if microseconds < _LOWEST_US else _HIGHEST_US
        dropped_bits = microseconds.bit_length() - _KEPT_BITS
        self._counts[microseconds >> dropped_bits << dropped_bits if dropped_bits > 0 else microseconds] += 1
        if len(self._recent) < _MAX_RECENT:
            self._recent.append(microseconds)

    def take_recent_ms(self) -> dict[str, float]:
        """Median and 99th percentile in milliseconds since the last call, of its first 10 000 values; empty: none."""
        recent = sorted(self._recent)
        self._recent.clear()
        if not recent:
            return {}
        return {
            "p50": recent[len(recent) // 2] / 1000,
            "p99": recent[min(len(recent) * 99 // 100, len(recent) - 1)] / 1000,
        }

    @property
    def p99_ms(self) -> float:
        """The 99th percentile of the run in milliseconds; 0 without values."""
        return float(self._histogram().get_value_at_percentile(99.0)) / 1000 if self._counts else 0.0

    def summary(self) -> dict[str, float | int | str]:
        """Count, percentiles, maximum and mean in milliseconds, and the histogram itself (`hdr`, base64 V2, in us)."""
        histogram = self._histogram()
        found: dict[str, float | int | str] = {"count": int(histogram.get_total_count())}
        if found["count"]:
            for name, value in histogram.get_percentile_to_value_dict(list(_PERCENTILES.values())).items():
                found[next(key for key, percentile in _PERCENTILES.items() if percentile == name)] = value / 1000
            found["max"] = histogram.get_max_value() / 1000
            found["mean"] = round(histogram.get_mean_value() / 1000, 3)
        found["clamped"] = self.clamped
        found["hdr"] = histogram.encode().decode()
        return found

    def _histogram(self) -> HdrHistogram:
        histogram = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        for microseconds, count in self._counts.items():
            histogram.record_value(microseconds, count)
        return histogram
