"""Reads for the API and the live view: hosts, containers, log tails."""

import json
from collections.abc import Sequence
from typing import cast

import asyncpg

from server.db.pool import Database
from server.db.storage.base import LogRow, Storage
from server.db.storage.plain import to_micros
from server.protocol.messages import ContainerState, ContainerStatus, HostStatus, LogLine, LogStream


class History:
    """What the database knows, always within one organisation."""

    def __init__(self, database: Database, storage: Storage) -> None:
        self._database = database
        self._storage = storage

    async def hosts(self, org: str, *, after: str, limit: int) -> list[HostStatus]:
        """Hosts by name, after `after`; who is online only the registry knows."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(
                "SELECT h.*, (SELECT count(*) FROM container c WHERE c.org = h.org AND c.host = h.host"
                " AND c.removed_at IS NULL) AS containers FROM host h WHERE org = $1 AND host > $2 ORDER BY host LIMIT $3",
                org,
                after,
                limit,
            )
        return [
            HostStatus(
                id=row["host"], hostname=row["hostname"], online=False, last_seen=to_micros(row["last_seen"]),
                agent_version=row["agent_version"], cores=row["cores"], containers=row["containers"],
            )
            for row in rows
        ]  # fmt: skip

    async def containers(self, org: str, host: str) -> list[ContainerStatus] | None:
        """Containers of a host by name, those gone left out; None: there is no such host here."""
        async with self._database.acquire() as connection:
            known = await connection.fetchval("SELECT 1 FROM host WHERE org = $1 AND host = $2", org, host)
            rows = await connection.fetch(
                "SELECT * FROM container WHERE org = $1 AND host = $2 AND removed_at IS NULL ORDER BY name", org, host
            )
        return [_container(row) for row in rows] if known else None

    async def owns_container(self, org: str, container_id: int) -> bool:
        """Whether the organisation has, or had within the retention, this container."""
        async with self._database.acquire() as connection:
            found = await connection.fetchval(
                "SELECT 1 FROM container WHERE container_id = $1 AND org = $2", container_id, org
            )
        return found is not None

    async def tail(self, container_id: int, lines: int, most_bytes: int) -> list[LogLine]:
        """The last lines of a container that fit into `most_bytes`, oldest first."""
        async with self._database.acquire() as connection:
            return _lines(await self._storage.tail_logs(connection, container_id, lines, most_bytes))

    async def lines_after(
        self, container_id: int, after: tuple[int, int], limit: int, most_bytes: int
    ) -> tuple[list[LogLine], int]:
        """The last `limit` lines after (at, line) that fit into `most_bytes`, and how many before those were left out."""
        async with self._database.acquire() as connection, connection.transaction(isolation="repeatable_read"):
            rows = await self._storage.tail_logs(connection, container_id, limit, most_bytes, after)
            skipped = await self._storage.count_logs(connection, container_id, after) - len(rows)
        return _lines(rows), skipped


def _container(row: asyncpg.Record) -> ContainerStatus:
    return ContainerStatus(
        id=str(row["container_id"]), host=row["host"], docker_id=row["docker_id"], name=row["name"],
        series=row["series"], image=row["image"], state=cast("ContainerState", row["state"]),
        protected=row["protected"], memory_limit_bytes=row["memory_limit_bytes"], labels=json.loads(row["labels"]),
    )  # fmt: skip


def _lines(rows: Sequence[LogRow]) -> list[LogLine]:
    return [
        LogLine(
            at=row.at, line=row.line, stream=cast("LogStream", row.stream), text=row.text, partial=row.partial,
            truncated=row.truncated,
        )
        for row in rows
    ]  # fmt: skip
