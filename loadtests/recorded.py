"""What simulated users measured, and the file by which a Locust process hands it to the runner.

This module imports neither Locust nor gevent: the runner reads with it what Locust wrote.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from loadtests.measure import Latency, now_us
from loadtests.timed import Timed
from simulator.intervals import Interval, Intervals

_log = logging.getLogger(__name__)

FAILURES: dict[str, str] = {
    "bad_frame": "a frame is no message of the protocol",
    "time_back": "a container's time went back",
    "duplicate_line": "a log line came twice",
    "foreign": "a frame or an answer is about something that was not asked for, or is another organisation's",
    "not_proven": "what is another organisation's was neither refused nor shown",
    "no_snapshot": "a topic was not answered",
    "not_paused": "a topic that was paused went on",
    "lost_line": "a stored log line neither came nor stood in a gap",
    "lost_sample": "a stored sample did not come, and no newer one took its place",
    "undeclared_sample": "a stored sample neither came nor stood in a gap, though a newer one came",
    "error": "the server answered with an error",
    "silent": "no echo of a heartbeat within 10 s",
    "refused": "the live socket did not open",
    "closed": "the server closed the live socket",
    "http": "a request failed",
    "bad_answer": "an answer of the API has not the form that it promises",
    "not_denied": "an attempt that must be denied was not",
    "not_replayed": "a repeated Idempotency-Key was not answered with the same action",
    "action_disagrees": "the live topic and the API tell different outcomes of an action",
    "action_untold": "the live topic did not tell the outcome of an action",
    "action_unknown": "an action's outcome did not become known in time",
    "chart_shape": "a chart's arrays differ in length, or have too many points",
    "chart_empty": "a chart of a running container has no value",
    "log_order": "downloaded log lines are out of order, twice, or outside the time that was asked for",
    "audit_order": "audit entries are not newest first, or one came twice",
}
"""What can go wrong for a simulated user, and how Locust shows it."""

LIVE_VIOLATIONS = (
    "bad_frame", "time_back", "duplicate_line", "no_snapshot", "not_paused", "lost_line", "lost_sample",
    "undeclared_sample",
)  # fmt: skip
"""Failures on the live socket that no outage explains: the server broke a promise."""

API_VIOLATIONS = (
    "bad_answer", "not_denied", "not_replayed", "action_disagrees", "action_untold", "chart_shape", "chart_empty",
    "log_order", "audit_order",
)  # fmt: skip
"""The same for the API."""

LIVE_ERRORS = ("error", "silent", "refused", "closed", "not_proven")
"""Failures of browsers that an outage explains, and nothing else does."""

API_ERRORS = ("http", "action_unknown")
"""The same for the API."""

CHART_RANGES = ("15m", "1h", "6h", "24h")
"""The ranges of a chart; each has a latency of its own."""

MOST_EARLY = 0.01
"""Share of a latency's values that may lie below 1 us."""

FIRST_DETAILS = 20
"""Failures of each kind that are logged with their detail; Locust and the file count the rest."""


class ClockEstimate(Struct, frozen=True, kw_only=True):
    """How far the server's clock is ahead of ours, by the shortest round trip of all browsers."""

    offset_us: int
    error_us: int
    """Half that round trip."""


class Recorded(Struct, kw_only=True):
    """What a Locust process measured, as its file holds it."""

    version: int = 5
    started_at_us: int
    ended_at_us: int = 0
    """0: the test still goes on, or was cut off."""
    latencies: dict[str, str] = {}
    """By the names of the catalogue: HDR histograms in microseconds, base64; told in milliseconds."""
    intervals: dict[str, list[Interval]] = {}
    """The same, by the time at which something was meant to happen; once the test has ended."""
    clamped: int = 0
    """Latencies below 1 us or above an hour."""
    visits: int = 0
    messages: int = 0
    """Messages that browsers received, of every type."""
    gaps: int = 0
    dropped_lines: int = 0
    """Log lines that the gaps told of."""
    dropped_samples: int = 0
    """Samples that gaps told of."""
    checked: int = 0
    """Times that a browser held what came against what is stored."""
    held: int = 0
    """Stored samples that were held against what came."""
    overtaken: int = 0
    """Of those, samples that never came, because a newer one did."""
    slow_closed: int = 0
    """Browsers that read too slowly and were closed for it."""
    clock: ClockEstimate | None = None
    """None: no heartbeat was echoed."""
    trespasses: int = 0
    """Attempts to see another organisation's that were refused as they must be."""
    foreign: int = 0
    """Frames and answers about what was not asked for: a leak between organisations shows here."""
    answers: int = 0
    """Good answers of the API, to whatever user."""
    downloaded_lines: int = 0
    downloaded_bytes: int = 0
    """Of log downloads, as they came."""
    skipped: int = 0
    """Turns that users were too late for, because what came before took too long."""
    failures: dict[str, int] = {}
    """By kind, as in `FAILURES`."""
    first_failures: dict[str, str] = {}
    """The first of each kind in full, what and where."""
    closes: dict[str, int] = {}
    """Closes by the server, by code."""


LATENCIES = (
    "live_latency_ms", "log_latency_ms", "slow_live_latency_ms", "action_round_trip_ms", "log_download_ms",
    *(f"chart_query_{name}_ms" for name in CHART_RANGES),
)  # fmt: skip
"""What Locust processes measure, by the names of the catalogue."""


class Measurements:
    """Gathers what the simulated users of this process measure, and tells Locust of it."""

    def __init__(self, fire: Callable[..., None], measured_from_us: int = 0, *, one_clock: bool = False) -> None:
        """Begin.

        Args:
            fire: Locust's `environment.events.request.fire`.
            measured_from_us: Unix microseconds: what was meant to happen before is in the intervals only.
            one_clock: whether the agents have our clock, by which the times of samples and lines are then told.
        """
        self.one_clock = one_clock
        self._fire = fire
        self._measured_from_us = measured_from_us
        self._latencies = {name: Latency() for name in LATENCIES}
        self._intervals = {name: Intervals() for name in LATENCIES}
        self._recorded = Recorded(started_at_us=now_us())

    def visit(self) -> None:
        """A browser opened a live socket."""
        self._recorded.visits += 1

    def message(self, kind: str, size_bytes: int, latencies_us: Iterable[int] = (), *, slow: bool = False) -> None:
        """A message came, with the latencies of its new samples or lines in microseconds.

        Every one goes into the histogram; Locust gets one request per message, with the longest.

        Args:
            kind: its type.
            size_bytes: of its text.
            latencies_us: of what is new in it.
            slow: whether its browser is slow on purpose: it tells nothing of the others' latency.
        """
        self._recorded.messages += 1
        name = "log_latency_ms" if kind == "logs" else "live_latency_ms"
        name = "slow_live_latency_ms" if slow else name
        latency, intervals, now = self._latencies[name], self._intervals[name], now_us()
        longest_us = -1
        for microseconds in latencies_us:
            if now - microseconds >= self._measured_from_us:
                latency.record_us(microseconds)
            intervals.record(microseconds, now - microseconds)
            longest_us = max(longest_us, microseconds)
        self._fire(
            request_type="WS", name=f"{kind} slow" if slow else kind, response_length=size_bytes, exception=None, context={},
            response_time=None if longest_us < 0 else longest_us / 1000,
        )  # fmt: skip

    def took(self, name: str, since_us: int) -> None:
        """Something of `LATENCIES` ended now, well or not, that was meant to begin at a time in Unix microseconds."""
        microseconds = now_us() - since_us
        if since_us >= self._measured_from_us:
            self._latencies[name].record_us(microseconds)
        self._intervals[name].record(microseconds, since_us)

    def answered(self) -> None:
        """The API gave a good answer."""
        self._recorded.answers += 1

    def downloaded(self, lines: int, size_bytes: int) -> None:
        """A log was downloaded."""
        self._recorded.downloaded_lines += lines
        self._recorded.downloaded_bytes += size_bytes

    def skipped(self, turns: int) -> None:
        """A user was so late that it left these turns out."""
        self._recorded.skipped += turns

    def gap(self, dropped: int, *, of_lines: bool) -> None:
        """The server told of log lines, or samples, that it left out for us."""
        if of_lines:
            self._recorded.gaps += 1
            self._recorded.dropped_lines += dropped
        else:
            self._recorded.dropped_samples += dropped

    def checked(self, held: int, overtaken: int) -> None:
        """A browser held what came against what is stored: so many samples, of which newer ones overtook some."""
        self._recorded.checked += 1
        self._recorded.held += held
        self._recorded.overtaken += overtaken

    def trespassed(self, attempts: int) -> None:
        """A browser tried so many times to see another organisation's, and was refused."""
        self._recorded.trespasses += attempts

    def slow_closed(self, code: int) -> None:
        """A browser was closed for reading too slowly: that is how the server tells it that it misses something."""
        self._recorded.slow_closed += 1
        self._count_close(code)

    def clock(self, round_trip_us: int, offset_us: int) -> None:
        """An echo told how far the server's clock is ahead of ours."""
        error_us = (round_trip_us + 1) // 2
        if self._recorded.clock is None or error_us < self._recorded.clock.error_us:
            self._recorded.clock = ClockEstimate(offset_us=offset_us, error_us=error_us)

    def closed(self, code: int, reason: str) -> None:
        """The server closed the live socket."""
        self._count_close(code)
        self.failure("closed", f"{code} {reason}")

    def _count_close(self, code: int) -> None:
        key = str(code)
        self._recorded.closes[key] = self._recorded.closes.get(key, 0) + 1

    def failure(self, kind: str, detail: str, *, medium: str = "WS") -> None:
        """Something of `FAILURES` happened; `medium` is how Locust files it."""
        count = self._recorded.failures.get(kind, 0) + 1
        self._recorded.failures[kind] = count
        self._recorded.first_failures.setdefault(kind, detail[:500])
        self._recorded.foreign += kind == "foreign"
        if count <= FIRST_DETAILS:
            _log.warning("%s: %s", FAILURES[kind], detail[:500])
        # Locust keeps every distinct text for ever, so it gets the kind's and not the detail.
        self._fire(
            request_type=medium, name=kind, response_time=None, response_length=0, context={},
            exception=UserFailureError(FAILURES[kind]),
        )  # fmt: skip

    def write(self, path: Path, *, ended: bool = True) -> None:
        """Write everything so far to `path`, whole or not at all.

        Args:
            path: of the file.
            ended: whether the test is over; else the intervals, which take a while, are left out.

        Raises:
            OSError: it cannot be written.
        """
        self._recorded.ended_at_us = now_us() if ended else 0
        if ended:
            self._recorded.intervals = {name: intervals.encoded() for name, intervals in self._intervals.items()}
        self._recorded.latencies = {name: latency.encode() for name, latency in self._latencies.items()}
        self._recorded.clamped = sum(latency.clamped for latency in self._latencies.values())
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(msgspec.json.encode(self._recorded))
        temporary.replace(path)


class UserFailureError(Exception):
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
    charts = [f"chart_query_{name}_ms" for name in CHART_RANGES]
    parts = {name: (name,) for name in LATENCIES} | {"chart_query_ms": tuple(charts)}
    measured: dict[str, Latency | float] = {
        name: Latency.decode(one.latencies[part] for one in every for part in sources if part in one.latencies)
        for name, sources in parts.items()
    }
    return (
        measured
        | _clock(every)
        | {
            "live_checks": float(sum(one.checked for one in every)),
            "live_samples_checked": float(sum(one.held for one in every)),
            "live_samples_dropped": float(sum(one.dropped_samples for one in every)),
            "live_samples_overtaken": float(sum(one.overtaken for one in every)),
            "live_gaps": float(sum(one.gaps for one in every)),
            "live_lines_dropped": float(sum(one.dropped_lines for one in every)),
            "slow_closed": float(sum(one.slow_closed for one in every)),
            "live_messages": float(sum(one.messages for one in every)),
            "live_foreign": float(sum(one.foreign for one in every)),
            "trespasses": float(sum(one.trespasses for one in every)),
            "live_violations": _failures(every, LIVE_VIOLATIONS),
            "api_violations": _failures(every, API_VIOLATIONS),
            "live_errors": _failures(every, LIVE_ERRORS),
            "api_errors": _failures(every, API_ERRORS),
            "log_lines_downloaded": float(sum(one.downloaded_lines for one in every)),
            "turns_skipped": float(sum(one.skipped for one in every)),
        }
    )


def first_violations(recorded: Iterable[Recorded]) -> dict[str, str]:
    """An example for each metric of broken promises that is not 0: the kind of failure, and what and where it was."""
    metrics = {"live_violations": LIVE_VIOLATIONS, "api_violations": API_VIOLATIONS, "live_foreign": ("foreign",)}
    found: dict[str, str] = {}
    for one in recorded:
        for metric, kinds in metrics.items():
            for kind in kinds:
                if kind in one.first_failures:
                    found.setdefault(metric, f"{kind}: {one.first_failures[kind]}")
    return found


def clocks_apart(measured: Mapping[str, Latency | float]) -> list[str]:
    """Why a run says nothing: latencies of the `catalogue` that ended before they began, by two clocks that disagree."""
    return [
        f"{name}: {value.early} of {value.count} values are below 1 us: the clocks disagree"
        for name, value in measured.items()
        if isinstance(value, Latency) and value.early > MOST_EARLY * value.count
    ]


def _clock(every: Iterable[Recorded]) -> dict[str, float]:
    """Of the process whose clock was furthest off; empty: no heartbeat was echoed."""
    clocks = [one.clock for one in every if one.clock is not None]
    if not clocks:
        return {}
    worst = max(clocks, key=lambda clock: abs(clock.offset_us))
    return {"browser_clock_offset_ms": worst.offset_us / 1000, "browser_clock_error_ms": worst.error_us / 1000}


def timed(recorded: Iterable[Recorded]) -> dict[str, Timed]:
    """The latencies of Locust processes by the time at which something was meant to happen."""
    every = list(recorded)
    charts = [f"chart_query_{name}_ms" for name in CHART_RANGES]
    parts = {name: (name,) for name in LATENCIES} | {"chart_query_ms": tuple(charts)}
    return {
        name: Timed(interval for one in every for part in sources for interval in one.intervals.get(part, ()))
        for name, sources in parts.items()
    }


def _failures(every: Iterable[Recorded], kinds: Iterable[str]) -> float:
    return float(sum(one.failures.get(kind, 0) for one in every for kind in kinds))
