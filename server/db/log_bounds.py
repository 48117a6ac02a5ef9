"""Does what the counts of `server.log_bounds` ask for: prunes, counts anew, and keeps the counts across restarts."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import groupby

import asyncpg

from server.agents import TrackedContainer
from server.counters import Counters
from server.db.pool import Database
from server.db.storage.base import Storage
from server.db.storage.times import to_datetime, to_micros
from server.errors import DatabaseDownError
from server.log_bounds import LogBounds, Segment
from server.registry import Registry

WORK_EVERY_SECONDS = 1.0
COMMIT_SECONDS = 10.0
"""Time for lines that were received to be stored; past it their container has to wait for the next round."""
_CONTAINERS = 500
"""Containers per statement when counts are written; each has `SEGMENTS` rows or so at most."""

_log = logging.getLogger("seatrial.retention")

Committed = Callable[[int, float], Awaitable[None]]
"""Waits until what was received of a container is stored, at most so many seconds; raises TimeoutError."""


class LogBoundKeeper:
    """One task: what it cannot do now it does in the next round."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        bounds: LogBounds,
        registry: Registry,
        counters: Counters,
        committed: Committed,
    ) -> None:
        self._database = database
        self._storage = storage
        self._bounds = bounds
        self._registry = registry
        self._counters = counters
        self._committed = committed

    async def load(self) -> None:
        """Take up the counts of the process before; the registry is loaded already."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(
                "SELECT container_id, until, bytes FROM log_segment ORDER BY container_id, until"
            )
        for container_id, found in groupby(rows, key=lambda row: row["container_id"]):
            record = self._registry.by_container.get(container_id)
            container = None if record is None else record.by_id.get(container_id)
            self._bounds.load(
                container_id, container, [Segment(to_micros(row["until"]), row["bytes"]) for row in found]
            )

    async def run(self) -> None:
        """Work once a second until cancelled."""
        while True:
            await asyncio.sleep(WORK_EVERY_SECONDS)
            try:
                await self.work()
            except (DatabaseDownError, asyncpg.PostgresError, TimeoutError) as error:
                _log.warning("bounds of logs not kept, will be tried again", extra={"error": str(error)})

    async def work(self) -> None:
        """Everything that is asked for now.

        Raises:
            DatabaseDownError, asyncpg.PostgresError, TimeoutError: the rest is kept for the next time.
        """
        for container_id, until in list(self._bounds.due.items()):
            await self._prune(container_id, until)
        for container in list(self._bounds.uncertain.values()):
            await self._recount(container)
        await self.write()

    async def write(self) -> None:
        """Write the counts that changed.

        Raises:
            DatabaseDownError, asyncpg.PostgresError: the rest is kept for the next time.
        """
        dirty = self._bounds.dirty
        while dirty:
            part = list(dirty.values())[:_CONTAINERS]
            for container in part:
                del dirty[container.id]
            try:
                await self._write(part)
            except BaseException:
                dirty.update({container.id: container for container in part})
                raise

    async def _prune(self, container_id: int, until: int) -> None:
        # What is on its way would be stored behind the DELETE, and never be counted again.
        await self._committed(container_id, COMMIT_SECONDS)
        async with self._database.acquire() as connection:
            pruned = await self._storage.prune_container_logs(connection, container_id, until)
            await connection.execute(
                "DELETE FROM log_segment WHERE container_id = $1 AND until <= $2", container_id, to_datetime(until)
            )
        self._bounds.pruned(container_id, until)
        self._counters.log_rows_pruned += pruned.lines
        self._counters.log_bytes_pruned += pruned.bytes

    async def _recount(self, container: TrackedContainer) -> None:
        bounds = [segment.until for segment in self._bounds.segments(container.id)]
        await self._committed(container.id, COMMIT_SECONDS)
        async with self._database.acquire() as connection:
            sizes = await self._storage.container_log_bytes(connection, container.id, bounds)
        self._bounds.uncertain.pop(container.id, None)
        self._bounds.recounted(container, bounds, sizes)

    async def _write(self, containers: list[TrackedContainer]) -> None:
        rows = [
            (container.id, to_datetime(until), size)
            for container in containers
            for until, size in self._counts(container).items()
        ]
        async with self._database.acquire() as connection, connection.transaction():
            await connection.execute(
                "DELETE FROM log_segment WHERE container_id = ANY($1)", [container.id for container in containers]
            )
            await connection.execute(
                "INSERT INTO log_segment SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::bigint[])",
                *([row[column] for row in rows] for column in range(3)),
            )

    def _counts(self, container: TrackedContainer) -> dict[int, int]:
        """Bytes by time: the segments, and what is open as if it were one."""
        counts = {segment.until: segment.bytes for segment in self._bounds.segments(container.id)}
        if container.log_bytes:
            until = container.last_log[0]
            counts[until] = counts.get(until, 0) + container.log_bytes
        return counts
