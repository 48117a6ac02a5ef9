"""What the API reads: plain types, known to the routes that show them and to the database that finds them.

Times in Unix microseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from server.protocol.messages import ContainerState, ContainerStatus, LogLine, LogStream, Micros

MINUTE_US: Final = 60_000_000
"""What the rollup is made of: a chart whose step is a multiple of it may read that."""

ContainerPlace = tuple[str, str, int]
"""Host, series and id: the order of containers, and where a page of them ended."""

LogPlace = tuple[int, int]
"""(at, line): the order of a container's log lines."""


class StoredContainer(ContainerStatus, kw_only=True, frozen=True, omit_defaults=True):
    """A container as it was written last, those gone too until the retention removes them."""

    removed_at: Micros | None = None


@dataclass(frozen=True, slots=True)
class ContainerFilter:
    """Which containers are wanted; None: no matter."""

    q: str | None = None
    """Part of name, image or series, whatever the case."""
    host: str | None = None
    series: str | None = None
    state: ContainerState | None = None
    image: str | None = None
    labels: Sequence[tuple[str, str]] = ()
    include_removed: bool = False


class ChartBucket(NamedTuple):
    """What the samples of one step of time say; None: they say nothing about it."""

    at: int
    samples: int
    cpu_mean: float | None
    cpu_max: float | None
    mem_mean: float | None
    mem_max: int | None
    rx_per_second: float | None
    tx_per_second: float | None


@dataclass(frozen=True, slots=True)
class Chart:
    """The buckets that have samples, in order, of one container or of all of its series."""

    series: str
    containers: int
    """How many went into it."""
    buckets: Sequence[ChartBucket]


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which lines of a container are wanted; None: no matter."""

    stream: LogStream | None = None
    contains: str | None = None
    """Literally so."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some lines in order, and the place up to which they were looked for; None: there was nothing more to look at."""

    lines: Sequence[LogLine]
    end: LogPlace | None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who attempted what on what, why, and how it ended. Times in Unix microseconds."""

    id: int
    at: int
    actor: str
    role: str
    action: str
    target: str
    reason: str
    result: str
    detail: str
    action_id: str | None
    finished_at: int | None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What of the log is wanted; None: no matter. Times in Unix microseconds: since <= at < until."""

    actor: str | None = None
    action: str | None = None
    target: str | None = None
    result: str | None = None
    reason: str | None = None
    since: int | None = None
    until: int | None = None
