"""What a storage strategy is: it owns the tables of samples and log lines, and every statement that names them.

The writer feeds a COPY target without knowing which strategy it is; the verifier and the charts read through the same
interface. Fixed tables (hosts, containers, tickets ...) belong to the migrations.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import asyncpg


class MetricRow(NamedTuple):
    """A stored sample. Times in Unix microseconds, memory and network in bytes, CPU in percent (100 = one core)."""

    container_id: int
    at: int
    cpu: float | None
    mem: int | None
    rx: int | None
    tx: int | None


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
class Pruned:
    """What one pruning removed."""

    metrics: int
    logs: int


class Storage(Protocol):
    """A strategy. Every method takes the connection it shall work on; none keeps one."""

    name: str
    metrics: CopyTarget
    logs: CopyTarget

    async def create(self, connection: asyncpg.Connection) -> None:
        """Create what is missing. Safe to call at each start."""

    async def prune(self, connection: asyncpg.Connection, before: int) -> Pruned:
        """Remove samples and lines older than `before` (Unix microseconds), in bounded steps."""

    def read_metrics(
        self, connection: asyncpg.Connection, since: int, until: int
    ) -> AsyncIterator[Sequence[MetricRow]]:
        """All samples with since <= at < until (Unix microseconds), of every container, in blocks, ordered by key."""

    def read_logs(self, connection: asyncpg.Connection, since: int, until: int) -> AsyncIterator[Sequence[LogRow]]:
        """All lines with since <= at < until, in blocks, ordered by key."""

    async def tail_logs(
        self,
        connection: asyncpg.Connection,
        container_id: int,
        lines: int,
        most_bytes: int,
        after: tuple[int, int] | None = None,
    ) -> Sequence[LogRow]:
        """The last lines of a container, oldest first; with `after` = (at, line) only what follows it.

        At most `lines`, and at most `most_bytes` of text with `LINE_OVERHEAD_BYTES` a line, counted from the newest.
        """

    async def count_logs(self, connection: asyncpg.Connection, container_id: int, after: tuple[int, int]) -> int:
        """How many lines of a container follow `after` = (at, line)."""

    async def sizes(self, connection: asyncpg.Connection) -> Sequence[TableSize]:
        """How much each table holds now."""
