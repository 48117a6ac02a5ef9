"""Reads for the API and the live view: containers, charts, log tails and downloads. Always within one organisation."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg

from server.db.pool import ReadPool
from server.db.storage.base import NOT_ROLLED, LogRow, Rolled, Storage
from server.db.storage.times import to_micros
from server.errors import DatabaseDownError
from server.protocol.messages import ContainerState, LogLine, LogStream
from server.reads import Chart, ContainerFilter, ContainerPlace, LogFilter, LogPage, LogPlace, StoredContainer

MAX_CHART_CONTAINERS = 100
"""Containers of one series that a chart joins, the newest: a container that is re-created without end has more."""
LOG_PAGE_LINES = 2_000
LOG_PAGE_BYTES = 1024 * 1024
"""Of one statement of a download: bounds its time, and what is in memory for a reader."""

_CONTAINER = """
    SELECT c.*, c.protected OR EXISTS (
        SELECT FROM protection p WHERE (p.org, p.host, p.series) = (c.org, c.host, c.series)
    ) AS effectively_protected
    FROM container c
"""
_FAILING = (asyncpg.OperatorInterventionError, asyncpg.InsufficientResourcesError)
"""SQLSTATE classes 57 and 53: shut down, cancelled, out of memory or connections. Ask again."""


class History:
    """What the database knows. What changed a moment ago is written behind, within about a second.

    Args:
        rolled: says which minutes charts may take from the rollup.
    """

    def __init__(self, pool: ReadPool, storage: Storage, rolled: Callable[[], Rolled] = lambda: NOT_ROLLED) -> None:
        self._pool = pool
        self._storage = storage
        self._rolled = rolled

    async def host_containers(self, org: str, host: str) -> list[StoredContainer]:
        """Containers of a host by name, those gone left out."""
        async with self._connection(org) as connection:
            rows = await connection.fetch(
                f"{_CONTAINER} WHERE c.org = $1 AND c.host = $2 AND c.removed_at IS NULL ORDER BY c.name", org, host
            )
        return [_container(row) for row in rows]

    async def container(self, org: str, container_id: int) -> StoredContainer | None:
        """A container, even if it is gone; None: the organisation has none such, or not any more."""
        async with self._connection(org) as connection:
            row = await connection.fetchrow(f"{_CONTAINER} WHERE c.container_id = $1 AND c.org = $2", container_id, org)
        return None if row is None else _container(row)

    async def containers(
        self, org: str, wanted: ContainerFilter, *, after: ContainerPlace | None, limit: int
    ) -> list[StoredContainer]:
        """Containers that match by (host, series, id), after a place."""
        conditions, values = _conditions(org, wanted)
        if after is not None:
            conditions.append(f"(c.host, c.series, c.container_id) > (${len(values) + 1}, ${len(values) + 2},"
                              f" ${len(values) + 3})")  # fmt: skip
            values += after
        async with self._connection(org) as connection:
            rows = await connection.fetch(
                f"{_CONTAINER} WHERE {' AND '.join(conditions)}"
                f" ORDER BY c.host, c.series, c.container_id LIMIT ${len(values) + 1}",
                *values,
                limit,
            )
        return [_container(row) for row in rows]

    async def chart(
        self, org: str, container_id: int, *, since: int, until: int, step_us: int, series: bool
    ) -> Chart | None:
        """The samples of a container, or of every container of its series, by steps of time; None: there is none such.

        `since` and `until` are multiples of the step.
        """
        async with self._connection(org) as connection:
            row = await connection.fetchrow(
                "SELECT org, host, series FROM container WHERE container_id = $1 AND org = $2", container_id, org
            )
            if row is None:
                return None
            containers = [container_id]
            if series:
                found = await connection.fetch(
                    "SELECT container_id FROM container WHERE (org, host, series) = ($1, $2, $3)"
                    " ORDER BY first_seen DESC LIMIT $4",
                    *row,
                    MAX_CHART_CONTAINERS,
                )
                containers = [record["container_id"] for record in found]
            buckets = await self._storage.chart(connection, containers, since, until, step_us, self._rolled())
        return Chart(series=row["series"], containers=len(containers), buckets=buckets)

    async def owns_container(self, org: str, container_id: int) -> bool:
        """Whether the organisation has, or had within the retention, this container."""
        async with self._connection(org) as connection:
            found = await connection.fetchval(
                "SELECT 1 FROM container WHERE container_id = $1 AND org = $2", container_id, org
            )
        return found is not None

    async def tail(self, org: str, container_id: int, lines: int, most_bytes: int) -> list[LogLine]:
        """The last lines of a container that fit into `most_bytes`, oldest first."""
        async with self._connection(org) as connection:
            return _lines(await self._storage.tail_logs(connection, container_id, lines, most_bytes))

    async def lines_after(
        self, org: str, container_id: int, after: LogPlace, limit: int, most_bytes: int
    ) -> tuple[list[LogLine], int]:
        """The last `limit` lines after (at, line) that fit into `most_bytes`, and how many before those were left out."""
        async with self._connection(org) as connection, connection.transaction(isolation="repeatable_read"):
            rows = await self._storage.tail_logs(connection, container_id, limit, most_bytes, after)
            skipped = await self._storage.count_logs(connection, container_id, after) - len(rows)
        return _lines(rows), skipped

    async def log_page(self, org: str, container_id: int, after: LogPlace, until: int, wanted: LogFilter) -> LogPage:
        """The next lines that match, after a place and before a time: a statement that is bounded in rows and bytes.

        A page may be empty though lines follow that match: it was looked at, `end` says how far.
        """
        async with self._connection(org) as connection:
            rows, end = await self._storage.page_logs(
                connection, container_id, after, until, LOG_PAGE_LINES, LOG_PAGE_BYTES, wanted
            )
        return LogPage(_lines(rows), end)

    @asynccontextmanager
    async def _connection(self, org: str) -> AsyncIterator[asyncpg.Connection]:
        try:
            async with self._pool.acquire(org) as connection:
                yield connection
        except _FAILING as error:
            raise DatabaseDownError(f"{type(error).__name__}: {error}") from error


def _conditions(org: str, wanted: ContainerFilter) -> tuple[list[str], list[Any]]:
    """Only what was asked for: a statement that says `$1 IS NULL OR` gets a plan without the index."""
    conditions, values = ["c.org = $1"], [org]
    for column in ("host", "series", "state", "image"):
        if (value := getattr(wanted, column)) is not None:
            values.append(value)
            conditions.append(f"c.{column} = ${len(values)}")
    if wanted.q is not None:
        values.append(wanted.q)
        parts = (f"position(lower(${len(values)}) in lower(c.{column})) > 0" for column in ("name", "image", "series"))
        conditions.append(f"({' OR '.join(parts)})")
    for key, value in wanted.labels:
        values.append(json.dumps({key: value}))
        conditions.append(f"c.labels @> ${len(values)}::jsonb")
    if not wanted.include_removed:
        conditions.append("c.removed_at IS NULL")
    return conditions, values


def _container(row: asyncpg.Record) -> StoredContainer:
    return StoredContainer(
        id=str(row["container_id"]), host=row["host"], docker_id=row["docker_id"], name=row["name"],
        series=row["series"], image=row["image"], state=cast("ContainerState", row["state"]),
        protected=row["effectively_protected"], memory_limit_bytes=row["memory_limit_bytes"],
        labels=json.loads(row["labels"]), removed_at=row["removed_at"] and to_micros(row["removed_at"]),
    )  # fmt: skip


def _lines(rows: Sequence[LogRow]) -> list[LogLine]:
    return [
        LogLine(
            at=row.at, line=row.line, stream=cast("LogStream", row.stream), text=row.text, partial=row.partial,
            truncated=row.truncated,
        )
        for row in rows
    ]  # fmt: skip
