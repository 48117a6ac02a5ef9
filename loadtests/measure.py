"""What a run measures, and in which unit: the one place that turns microseconds into what people read.

Latencies are recorded in microseconds in HDR histograms, from the time at which something was meant to happen, and told
in milliseconds. This module imports neither Locust nor gevent, so that the runner can read what Locust wrote.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
from hdrh.histogram import HdrHistogram
from msgspec import Struct

_log = logging.getLogger(__name__)

LOWEST_US = 1
HIGHEST_US = 3_600_000_000
DIGITS = 3
"""Of every latency histogram, in all processes: only equal ones can be added up."""

_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9}
_SERIES_POINTS = 20_000


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

    def record_us(self, microseconds: int) -> None:
        """Record one latency in microseconds."""
        kept = min(max(microseconds, LOWEST_US), HIGHEST_US)
        self.clamped += kept != microseconds
        self._histogram.record_value(kept)

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
            "mean": self._histogram.get_mean_value() / 1000,
            "count": float(self.count),
        }


class Series:
    """A value over time. The statistics are of every point; of the points themselves a long run keeps every n-th."""

    def __init__(self, points: Iterable[tuple[int, float]] = ()) -> None:
        self.points: list[tuple[int, float]] = []
        self._every = 1
        self._count = 0
        self._sum = 0.0
        self._least = self._most = self._last = 0.0
        for at_us, value in points:
            self.add(at_us, value)

    def add(self, at_us: int, value: float) -> None:
        """Add the value at a time in Unix microseconds."""
        self._least = min(self._least, value) if self._count else value
        self._most = max(self._most, value) if self._count else value
        self._last = value
        self._sum += value
        if self._count % self._every == 0:
            self.points.append((at_us, value))
            if len(self.points) >= _SERIES_POINTS:
                del self.points[1::2]
                self._every *= 2
        self._count += 1

    def statistics(self) -> dict[str, float]:
        """Smallest, largest, mean and last value, in the metric's unit; empty without points."""
        if not self._count:
            return {}
        return {"min": self._least, "max": self._most, "mean": self._sum / self._count, "last": self._last}


class ClockOffset:
    """How far the server's clock is ahead of ours, from heartbeats and their echoes.

    The echo with the shortest round trip of the last few tells it best: its error is at most half that round trip. An
    offset within the error is no offset, so on one machine it is exactly 0.
    """

    def __init__(self) -> None:
        self._echoes: deque[tuple[int, int]] = deque(maxlen=8)

    def echo(self, *, sent_us: int, server_us: int, received_us: int) -> None:
        """Learn from an echo: our clock at sending, the server's at answering, ours at receipt, in Unix microseconds."""
        round_trip_us = max(received_us - sent_us, 0)
        self._echoes.append((round_trip_us, server_us - sent_us - round_trip_us // 2))

    @property
    def microseconds(self) -> int:
        """To be added to our clock to get the server's; 0 until an echo came."""
        if not self._echoes:
            return 0
        round_trip_us, offset_us = min(self._echoes)
        return offset_us if abs(offset_us) > (round_trip_us + 1) // 2 else 0


FAILURES: dict[str, str] = {
    "bad_frame": "a frame is no message of the protocol",
    "time_back": "a container's time went back",
    "duplicate_line": "a log line came twice",
    "foreign": "a frame is about something that was not asked for",
    "no_snapshot": "a topic was not answered",
    "error": "the server answered with an error",
    "silent": "no echo of a heartbeat within 10 s",
    "refused": "the live socket did not open",
    "closed": "the server closed the live socket",
    "http": "a request failed",
}
"""What can go wrong for a simulated browser, and how Locust shows it."""

VIOLATIONS = ("bad_frame", "time_back", "duplicate_line", "no_snapshot")
"""Failures that no outage explains: the server broke a promise."""

FIRST_DETAILS = 20
"""Failures of each kind that are logged with their detail; Locust and the file count the rest."""


class Recorded(Struct, kw_only=True):
    """What a Locust process measured, as its file holds it."""

    version: int = 1
    started_at_us: int
    ended_at_us: int = 0
    live_latency_ms: str = ""
    """HDR histogram in microseconds, base64; told in milliseconds."""
    log_latency_ms: str = ""
    clamped: int = 0
    """Latencies below 1 us or above an hour."""
    visits: int = 0
    messages: int = 0
    """Messages that browsers received, of every type."""
    gaps: int = 0
    dropped_lines: int = 0
    """Log lines that the gaps told of."""
    foreign: int = 0
    """Frames about something that was not asked for: a leak between organisations shows here."""
    failures: dict[str, int] = {}
    """By kind, as in `FAILURES`."""
    closes: dict[str, int] = {}
    """Closes by the server, by code."""


class Measurements:
    """Gathers what the simulated browsers of this process measure, and tells Locust of it."""

    def __init__(self, fire: Callable[..., None]) -> None:
        """Begin.

        Args:
            fire: Locust's `environment.events.request.fire`.
        """
        self._fire = fire
        self._live = Latency()
        self._log = Latency()
        self._recorded = Recorded(started_at_us=now_us())

    def visit(self) -> None:
        """A browser opened a live socket."""
        self._recorded.visits += 1

    def message(self, kind: str, size_bytes: int, latencies_us: Iterable[int] = ()) -> None:
        """A message came, with the latencies of its new samples or lines in microseconds.

        Every one goes into the histogram; Locust gets one request per message, with the longest.
        """
        self._recorded.messages += 1
        latency = self._log if kind == "logs" else self._live
        longest_us = -1
        for microseconds in latencies_us:
            latency.record_us(microseconds)
            longest_us = max(longest_us, microseconds)
        self._fire(
            request_type="WS", name=kind, response_length=size_bytes, exception=None, context={},
            response_time=None if longest_us < 0 else longest_us / 1000,
        )  # fmt: skip

    def gap(self, lines: int) -> None:
        """The server told of log lines that it dropped for us."""
        self._recorded.gaps += 1
        self._recorded.dropped_lines += lines

    def closed(self, code: int, reason: str) -> None:
        """The server closed the live socket."""
        key = str(code)
        self._recorded.closes[key] = self._recorded.closes.get(key, 0) + 1
        self.failure("closed", f"{code} {reason}")

    def failure(self, kind: str, detail: str) -> None:
        """Something of `FAILURES` happened."""
        count = self._recorded.failures.get(kind, 0) + 1
        self._recorded.failures[kind] = count
        self._recorded.foreign += kind == "foreign"
        if count <= FIRST_DETAILS:
            _log.warning("%s: %s", FAILURES[kind], detail[:500])
        # Locust keeps every distinct text for ever, so it gets the kind's and not the detail.
        self._fire(
            request_type="WS", name=kind, response_time=None, response_length=0, context={},
            exception=LiveFailureError(FAILURES[kind]),
        )  # fmt: skip

    def write(self, path: Path) -> None:
        """Write everything so far to `path`, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        self._recorded.ended_at_us = now_us()
        self._recorded.live_latency_ms = self._live.encode()
        self._recorded.log_latency_ms = self._log.encode()
        self._recorded.clamped = self._live.clamped + self._log.clamped
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(msgspec.json.encode(self._recorded))
        temporary.replace(path)


class LiveFailureError(Exception):
    """How Locust gets to know of a failure."""


def read_measurements(path: Path) -> Recorded:
    """What a Locust process wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Recorded)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from None


def catalogue(recorded: Iterable[Recorded]) -> dict[str, Latency | float]:
    """What Locust processes measured, added up, by the names of the catalogue.

    Raises:
        ValueError: a histogram cannot be read.
    """
    every = list(recorded)
    return {
        "live_latency_ms": Latency.decode(one.live_latency_ms for one in every if one.live_latency_ms),
        "log_latency_ms": Latency.decode(one.log_latency_ms for one in every if one.log_latency_ms),
        "live_messages": float(sum(one.messages for one in every)),
        "live_foreign": float(sum(one.foreign for one in every)),
        "live_violations": float(sum(one.failures.get(kind, 0) for one in every for kind in VIOLATIONS)),
    }


def now_us() -> int:
    """Our clock in Unix microseconds."""
    return time.time_ns() // 1000
