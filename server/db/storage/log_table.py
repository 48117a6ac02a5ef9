"""One container's log lines in table `container_log`: what a strategy inherits that keeps them there, however it is stored."""

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from server.db.storage.base import CopyTarget, LogRow, PrunedLogs
from server.db.storage.slices import narrowed
from server.db.storage.times import EPOCH, to_datetime, to_micros
from server.reads import LogFilter, LogPlace
from server.rows import LINE_OVERHEAD_BYTES, LOG_COLUMNS, STREAMS

_MAX_LINE = 2**31 - 1
_PRUNE_LINES = 10_000
"""Lines per DELETE: bounds a statement's time and locks."""

LOG_DDL = """
    CREATE TABLE container_log (
        container_id bigint NOT NULL,
        timestamp timestamptz NOT NULL,
        line integer NOT NULL,
        stream smallint NOT NULL,
        partial boolean NOT NULL,
        truncated boolean NOT NULL,
        text text NOT NULL,
        PRIMARY KEY (container_id, timestamp, line)
    )
"""
LOG_TYPES = ("bigint", "timestamp with time zone", "integer", "smallint", "boolean", "boolean", "text")
"""Of the columns in their order, as Postgres names them."""

_OUT = """
    SELECT container_id, timestamp, line, stream, partial, truncated, text
    FROM container_log WHERE timestamp >= $1 AND timestamp < $2
"""

_LOG_PAGE = """
    SELECT container_id, timestamp, line, stream,
           CASE WHEN ($8::smallint IS NULL OR stream = $8) AND ($9::text IS NULL OR strpos(text, $9) > 0) THEN text END,
           partial, truncated
    FROM (
        SELECT next.*, sum(octet_length(text) + $7) OVER (ORDER BY timestamp, line) - octet_length(text) - $7 AS before
        FROM (
            SELECT container_id, timestamp, line, stream, text, partial, truncated FROM container_log
            WHERE container_id = $1 AND timestamp >= $2 AND (timestamp, line) > ($2, $3) AND timestamp < $4
            ORDER BY timestamp, line LIMIT $5
        ) next
    ) counted
    WHERE before < $6 ORDER BY timestamp, line
"""
"""What does not match comes without its text: its place tells how far the page went."""


class LogTable:
    """Reads and prunes along the primary key (container_id, timestamp, line).

    Conditions on (timestamp, line) have one on the time alone beside them: by that Postgres leaves out ranges of the table.
    """

    logs = CopyTarget("container_log", LOG_COLUMNS, LOG_COLUMNS[:3])

    async def copy_logs(
        self,
        connection: asyncpg.Connection,
        since: int,
        until: int,
        take: Callable[[bytes], Coroutine[Any, Any, None]],
        container_ids: Sequence[int] | None = None,
    ) -> None:
        """All lines of a time range, or those of some containers, as they lie there."""
        query, values = narrowed(_OUT, since, until, container_ids)
        await connection.copy_from_query(query, *values, output=take, format="binary")

    async def tail_logs(
        self,
        connection: asyncpg.Connection,
        container_id: int,
        lines: int,
        most_bytes: int,
        after: LogPlace | None = None,
    ) -> Sequence[LogRow]:
        """The last lines of a container that fit, oldest first; with `after` = (at, line) only what follows it."""
        at, line = after or (0, -1)
        rows = await connection.fetch(
            """
            SELECT * FROM (
                SELECT last.*, sum(octet_length(text) + $6) OVER (ORDER BY timestamp DESC, line DESC) AS bytes FROM (
                    SELECT container_id, timestamp, line, stream, text, partial, truncated FROM container_log
                    WHERE container_id = $1 AND timestamp >= $2 AND (timestamp, line) > ($2, $3)
                    ORDER BY timestamp DESC, line DESC LIMIT $4
                ) last
            ) counted
            WHERE bytes <= $5 ORDER BY timestamp DESC, line DESC
            """,
            container_id,
            to_datetime(at),
            line,
            lines,
            most_bytes,
            LINE_OVERHEAD_BYTES,
        )
        return [log_row(row) for row in reversed(rows)]

    async def count_logs(self, connection: asyncpg.Connection, container_id: int, after: LogPlace) -> int:
        """How many lines of a container follow `after` = (at, line)."""
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM container_log"
                " WHERE container_id = $1 AND timestamp >= $2 AND (timestamp, line) > ($2, $3)",
                container_id,
                to_datetime(after[0]),
                after[1],
            )
        )

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
        """Of the next lines of a container those that match, and the place of the last one looked at."""
        rows = await connection.fetch(
            _LOG_PAGE,
            container_id,
            to_datetime(after[0]),
            after[1],
            to_datetime(until),
            lines,
            most_bytes,
            LINE_OVERHEAD_BYTES,
            None if wanted.stream is None else STREAMS.index(wanted.stream),
            wanted.contains,
        )
        end = (to_micros(rows[-1]["timestamp"]), rows[-1]["line"]) if rows else None
        return [log_row(row) for row in rows if row[4] is not None], end

    async def prune_container_logs(self, connection: asyncpg.Connection, container_id: int, until: int) -> PrunedLogs:
        """Remove the oldest lines of one container, 10 000 a statement."""
        lines = size = 0
        after: tuple[datetime, int] = (EPOCH, -1)
        while True:
            last = await connection.fetchrow(
                "SELECT timestamp, line FROM container_log WHERE container_id = $1 AND timestamp >= $2"
                " AND (timestamp, line) > ($2, $3) AND timestamp <= $4 ORDER BY timestamp, line OFFSET $5 LIMIT 1",
                container_id,
                *after,
                to_datetime(until),
                _PRUNE_LINES - 1,
            )
            place = (to_datetime(until), _MAX_LINE) if last is None else (last["timestamp"], last["line"])
            [removed] = await connection.fetch(
                """
                WITH gone AS (
                    DELETE FROM container_log
                    WHERE container_id = $1 AND timestamp >= $2 AND timestamp <= $4
                          AND (timestamp, line) > ($2, $3) AND (timestamp, line) <= ($4, $5)
                    RETURNING octet_length(text) + $6 AS bytes
                )
                SELECT count(*) AS lines, coalesce(sum(bytes), 0)::bigint AS bytes FROM gone
                """,
                container_id,
                *after,
                *place,
                LINE_OVERHEAD_BYTES,
            )
            lines, size = lines + removed["lines"], size + removed["bytes"]
            if last is None:
                return PrunedLogs(lines, size)
            after = place

    async def container_log_bytes(
        self, connection: asyncpg.Connection, container_id: int, bounds: Sequence[int]
    ) -> Sequence[int]:
        """Bytes of a container's lines between rising times."""
        rows = await connection.fetch(
            """
            SELECT width_bucket(timestamp, $2::timestamptz[]) AS part, sum(octet_length(text) + $3)::bigint AS bytes
            FROM container_log WHERE container_id = $1 GROUP BY part
            """,
            container_id,
            [to_datetime(bound + 1) for bound in bounds],  # width_bucket counts bounds <= at
            LINE_OVERHEAD_BYTES,
        )
        found = {row["part"]: row["bytes"] for row in rows}
        return [found.get(part, 0) for part in range(len(bounds) + 1)]


def log_row(row: Any) -> LogRow:
    """A record of (container_id, timestamp, line, stream, text, partial, truncated)."""
    return LogRow(row[0], to_micros(row[1]), row[2], STREAMS[row[3]], row[4], row[5], row[6])
