"""Scheduled removal of what is older than the retention, from every table that grows."""

import asyncio
import logging
import time
from datetime import UTC, datetime

import asyncpg

from server.agents import Registry, now_us
from server.counters import Counters
from server.db.pool import Database
from server.db.storage.base import Storage
from server.errors import DatabaseDownError

_log = logging.getLogger("seatrial.retention")


class Retention:
    """Prunes at each interval, on one pool connection, a bounded step at a time."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        registry: Registry,
        counters: Counters,
        *,
        retention_seconds: float,
        interval_seconds: float,
    ) -> None:
        self._database = database
        self._storage = storage
        self._registry = registry
        self._counters = counters
        self._retention_seconds = retention_seconds
        self._interval_seconds = interval_seconds

    async def run(self) -> None:
        """Prune until cancelled; a failed one is logged, and the next comes in its time."""
        while True:
            await asyncio.sleep(self._interval_seconds)
            try:
                await self.prune()
            except (DatabaseDownError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                _log.warning("pruning failed", extra={"error": str(error)})

    async def prune(self) -> None:
        """Remove samples, lines, containers long gone and tickets expired."""
        started = time.monotonic()
        before = now_us() - int(self._retention_seconds * 1e6)
        moment = datetime.fromtimestamp(before / 1e6, UTC)
        async with self._database.acquire() as connection:
            pruned = await self._storage.prune(connection, before)
            # A container's rows are gone with the window: nothing refers to it any more.
            await connection.execute("DELETE FROM container WHERE removed_at < $1", moment)
            await connection.execute("DELETE FROM live_ticket WHERE expires_at < now()")
        self._registry.forget(before / 1e6)
        self._counters.metric_rows_pruned += pruned.metrics
        self._counters.log_rows_pruned += pruned.logs
        self._counters.prune_seconds.observe(time.monotonic() - started)
        _log.debug("pruned", extra={"metrics": pruned.metrics, "logs": pruned.logs})
