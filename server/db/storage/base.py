"""What a storage strategy is: it owns the tables of samples and log lines, and every statement that names them.

The writer feeds a COPY target without knowing which strategy it is; the verifier and the charts read through the same
interface, and nobody else names those tables. Fixed tables (hosts, containers, tickets ...) belong to the migrations.
"""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import asyncpg

from server.db.storage.pace import Pace
from server.reads import ChartBucket, LogFilter, LogPlace

METRICS_OUT_COLUMNS = (
    "container_id", "timestamp", "cpu_percent", "memory_bytes", "network_rx_bytes", "network_tx_bytes", "nulls",
)  # fmt: skip
"""What `Storage.copy_metrics` hands out: a null value as 0, and in `nulls` (smallint) a bit for each, the lowest for CPU."""


class LogRow(NamedTuple):
    """A stored log line."""

    container_id: int
    at: int
    line: int
    stream: str
    text: str
    partial: bool
    truncated: bool


@dataclass(frozen=True, slots=True)
class CopyTarget:
    """A table that takes COPY in binary: its name and the columns in the order of `server.rows`."""

    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    """The columns of the identity, a prefix of `columns`."""


RANGE_MARK = "seatrial range of "
"""Before the name of its table: the comment of a range that we made, attached or not."""


@dataclass(frozen=True, slots=True)
class TableSize:
    """How much one table holds. Bytes on disk; counts are the statistics collector's."""

    table: str
    table_bytes: int
    index_bytes: int
    live_rows: int
    dead_rows: int
    inserted_rows: int
    """Rows inserted since the statistics were reset."""
    oldest_at: int | None
    """Time of the oldest row in Unix microseconds; None: empty."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which times rows have, in microseconds: from `now` back to the retention, and a little ahead."""

    now: int
    """Unix time."""
    retention_us: int
    ahead_us: int
    """How far after `now` a row may lie before `prepare` is called again."""


class Rolled(NamedTuple):
    """Minutes that the rollup has, of every container: from `since` up to `until`, in Unix microseconds."""

    since: int
    until: int


NOT_ROLLED = Rolled(0, 0)
"""The rollup has nothing that can be relied on."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a strategy says of itself: how it keeps the rows, and whether the index that is written to stays in memory."""

    ranges: int
    """Ranges of time that each table consists of; 0: it is one."""
    range_seconds: float
    """Width of the next range; 0: there are none."""
    hot_index_bytes: int
    """Indexes that new rows go into, as large as they get."""
    hot_index_limit_bytes: int
    """A quarter of shared_buffers: up to there an insert finds the index's pages in memory."""
    advised_shared_buffers_bytes: int
    """What shared_buffers would have to be for `hot_index_bytes`; 0: what there is suffices."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one pruning removed, in rows. Of a large range that was dropped it is what the statistics collector counted."""

    metrics: int
    logs: int


@dataclass(frozen=True, slots=True)
class PrunedLogs:
    """What was removed of one container's log: lines, and their bytes with `LINE_OVERHEAD_BYTES` each."""

    lines: int
    bytes: int


def longest_gap_us(step_us: int) -> int:
    """The longest pause between two samples over which a chart of this step still tells a rate.

    Three steps, so that a point is not lost where an agent skips a beat; at least a minute, so that fine charts of slow
    agents have rates at all. Past it the increase is known, but not when it came: no rate is better than a smeared one.
    """
    return max(3 * step_us, 60_000_000)


class Storage(Protocol):
    """A strategy. Every method takes the connection it shall work on; none keeps one."""

    name: str
    metrics: CopyTarget
    logs: CopyTarget

    async def create(self, connection: asyncpg.Connection) -> None:
        """Create what is missing. Safe to call at each start.

        Raises:
            StartupError: the tables are there and not this strategy's, or the role lacks a right.
        """

    async def prepare(self, connection: asyncpg.Connection, window: Window) -> Outlook:
        """Make ready for the rows to come: before the first one, and then at each interval, before `prune`."""

    async def make_room(self, connection: asyncpg.Connection, since: int, until: int) -> None:
        """Create what rows with since <= at <= until (Unix microseconds) need beside the tables: partitions.

        A lane calls it when Postgres has no place for a row, and then stores the same rows again.

        Raises:
            asyncpg.PostgresError: it could not be done now, by a lock that was not to be had for example.
        """

    async def prune(self, connection: asyncpg.Connection, before: int, pace: Pace) -> Pruned:
        """Remove samples and lines older than `before` (Unix microseconds), in bounded steps that keep the pace.

        A strategy of ranges removes a range when all of it is older.
        """

    async def copy_metrics(
        self,
        connection: asyncpg.Connection,
        since: int,
        until: int,
        take: Callable[[bytes], Coroutine[Any, Any, None]],
        container_ids: Sequence[int] | None = None,
    ) -> None:
        """Hand out all samples with since <= at < until, in no order, as the pieces of one binary COPY.

        Its columns are `METRICS_OUT_COLUMNS`, none of them null: so every row is equally wide. With `container_ids` only
        those of these containers.
        """

    async def copy_logs(
        self,
        connection: asyncpg.Connection,
        since: int,
        until: int,
        take: Callable[[bytes], Coroutine[Any, Any, None]],
        container_ids: Sequence[int] | None = None,
    ) -> None:
        """Hand out all lines with since <= at < until, in no order, as the pieces of one binary COPY of `logs.columns`.

        With `container_ids` only those of these containers.
        """

    async def tail_logs(
        self,
        connection: asyncpg.Connection,
        container_id: int,
        lines: int,
        most_bytes: int,
        after: LogPlace | None = None,
    ) -> Sequence[LogRow]:
        """The last lines of a container, oldest first; with `after` = (at, line) only what follows it.

        At most `lines`, and at most `most_bytes` of text with `LINE_OVERHEAD_BYTES` a line, counted from the newest.
        """

    async def count_logs(self, connection: asyncpg.Connection, container_id: int, after: LogPlace) -> int:
        """How many lines of a container follow `after` = (at, line)."""

    async def page_logs(
        self,
        connection: asyncpg.Connection,
        container_id: int,
        after: LogPlace,
        until: int,
        lines: int,
        most_bytes: int,
        wanted: LogFilter,
    ) -> tuple[Sequence[LogRow], LogPlace | None]:
        """Of the next lines of a container after (at, line) and before `until` those that match, oldest first.

        At most `lines` are looked at, and at most `most_bytes` of text with `LINE_OVERHEAD_BYTES` a line, but always one.
        The place is that of the last one looked at; None: there was none.
        """

    async def roll_up(
        self, connection: asyncpg.Connection, container_ids: Sequence[int], since: int, until: int
    ) -> int:
        """Compute the minutes from `since` to `until` (Unix microseconds, whole minutes) of some containers anew.

        From their samples into table `metric_minute`, in one statement; returns how many have samples. Minutes before
        `rollup_progress.pruned_until` stay as they are: their samples may be gone.
        """

    async def chart(
        self,
        connection: asyncpg.Connection,
        container_ids: Sequence[int],
        since: int,
        until: int,
        step_us: int,
        rolled: Rolled = NOT_ROLLED,
    ) -> Sequence[ChartBucket]:
        """Samples with since <= at < until of some containers together, by steps aligned to the epoch; none is empty.

        Mean and maximum are over all samples of a bucket that have the value. A rate is what the counters of all containers
        rose by, divided by the seconds it took:

        - a sample and the one before it of the same container make a pair, which belongs to the later one's bucket;
        - a counter that fell was reset: it rose by its new value;
        - no pair: a container's first sample, a null on either side, or more than `longest_gap_us(step_us)` in between;
        - the sample before `since` counts as the one before, so a bucket says the same in every chart of its step.

        A step of whole minutes is read from the rollup where `rolled` says that it is computed; it says the same.
        """

    async def prune_container_logs(self, connection: asyncpg.Connection, container_id: int, until: int) -> PrunedLogs:
        """Remove the lines of one container with at <= until (Unix microseconds), in bounded steps."""

    async def container_log_bytes(
        self, connection: asyncpg.Connection, container_id: int, bounds: Sequence[int]
    ) -> Sequence[int]:
        """Bytes of a container's lines (with `LINE_OVERHEAD_BYTES` each) between rising times: one number more than bounds.

        The first counts at <= bounds[0], the next bounds[0] < at <= bounds[1], the last at > bounds[-1]. Reads all of them.
        """

    async def sizes(self, connection: asyncpg.Connection) -> Sequence[TableSize]:
        """How much each table holds now."""
