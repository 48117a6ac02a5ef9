"""Scheduled removal of what is older than its retention, from every table that grows."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import asyncpg

from server.agents import now_us
from server.counters import Counters
from server.db import rollup_progress
from server.db.pool import BROKEN, Database
from server.db.storage.base import Outlook, Storage, Window
from server.db.storage.pace import Pace
from server.db.storage.times import to_datetime
from server.errors import DatabaseDownError
from server.log_bounds import LogBounds
from server.registry import Registry
from server.token_life import MAX_LIFE_SECONDS

_ROWS = 1_000
"""Rows per DELETE: bounds a statement's time and locks."""
_HOSTS = 50
"""Hosts per DELETE: each has up to a thousand containers."""

_INTERVALS_AHEAD = 2
"""Ranges are ready for so many intervals, so that one in which that fails costs nothing."""
_REVOCATION_SECONDS = MAX_LIFE_SECONDS + 86_400
"""Every token that was issued before has expired by then, whatever the clocks."""

_log = logging.getLogger("seatrial.retention")

_OLD = {
    # The rows of a container that is gone went with the window: nothing refers to it any more.
    "container": "removed_at < $1",
    "log_segment": "until < $1",
    "metric_minute": "minute < $1",
    # Their samples went, at least in part: they cannot be computed any more.
    "dirty_minute": "minute < $1",
    "action": "finished_at < $1 AND state NOT IN ('pending', 'sent')",
    "audit": "at < $1 AND result NOT IN ('pending', 'sent')",
    "live_ticket": "expires_at < $1",
    "enrolment": "expires_at < $1",
    "revocation": "revoked_at < $1",
}
"""Which rows of a table are too old, given the moment. An action whose outcome is to come stays, and so does its audit row."""

_OLD_HOSTS = """
    SELECT org, host, last_seen FROM host h
    WHERE last_seen < $1 AND (last_seen > to_timestamp(0) OR first_seen < $1) AND (last_seen, org, host) > ($2, $3, $4)
          AND NOT EXISTS (SELECT FROM enrolment e WHERE (e.org, e.host) = (h.org, h.host))
    ORDER BY last_seen, org, host LIMIT $5
"""
"""One that was invited and never seen is as old as its first invitation; while an invitation is good it may still come."""
_DELETE_HOSTS = """
    WITH gone AS (
        DELETE FROM host h USING unnest($1::text[], $2::text[]) AS old (org, host)
        WHERE (h.org, h.host) = (old.org, old.host) AND h.last_seen < $3 RETURNING h.org, h.host
    ), containers AS (
        DELETE FROM container c USING gone WHERE (c.org, c.host) = (gone.org, gone.host) RETURNING 1
    ), protections AS (
        DELETE FROM protection p USING gone WHERE (p.org, p.host) = (gone.org, gone.host) RETURNING 1
    )
    SELECT (SELECT count(*) FROM gone) AS host, (SELECT count(*) FROM containers) AS container,
           (SELECT count(*) FROM protections) AS protection
"""
"""A host that is seen again meanwhile stays, with all that is its own."""


@dataclass(frozen=True, slots=True)
class Ages:
    """How old things may become, in seconds."""

    samples: float
    """Samples, log lines, their counts, and containers that are gone."""
    rollup: float
    """Minutes of the rollup."""
    actions: float
    audit: float
    hosts: float
    """Since they were seen last."""


class Retention:
    """Prepares the storage and prunes it at each interval, on one pool connection, a bounded step at a time.

    Args:
        future_seconds: how far ahead of our clock a row may lie.
        duty: share of time that removing samples and lines may take, up to 1.
    """

    def __init__(
        self,
        database: Database,
        storage: Storage,
        registry: Registry,
        log_bounds: LogBounds,
        counters: Counters,
        *,
        ages: Ages,
        interval_seconds: float,
        future_seconds: float,
        duty: float,
    ) -> None:
        self._database = database
        self._storage = storage
        self._registry = registry
        self._log_bounds = log_bounds
        self._counters = counters
        self._ages = ages
        self._interval_seconds = interval_seconds
        self._ahead_us = int((future_seconds + _INTERVALS_AHEAD * interval_seconds) * 1e6)
        self._pace = Pace(duty)
        self.outlook: Outlook | None = None
        """What the storage said of itself when it was prepared last; None: it never was."""
        self.begun_us = self.ended_us = 0
        """When the newest pruning began, and when the newest one that is over ended, in Unix microseconds; 0: none."""
        self._advised_bytes = 0

    async def run(self) -> None:
        """Prune until cancelled; a failed one is logged, and the next comes in its time.

        Intervals are from beginning to beginning: one that takes long is no reason to remove less.
        """
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + self._interval_seconds, loop.time())
            await asyncio.sleep(due - loop.time())
            try:
                await self.prune()
            except (DatabaseDownError, asyncpg.PostgresError, *BROKEN) as error:
                self._counters.prunings_failed += 1
                _log.warning("pruning failed", extra={"error": str(error)})

    async def prepare(self, connection: asyncpg.Connection) -> None:
        """Make the storage ready for the rows to come, and warn where memory does not suffice for the rate.

        Raises:
            asyncpg.PostgresError: it could not be done now.
        """
        self.outlook = outlook = await self._storage.prepare(
            connection, Window(now=now_us(), retention_us=int(self._ages.samples * 1e6), ahead_us=self._ahead_us)
        )
        advised = outlook.advised_shared_buffers_bytes
        if advised > 2 * self._advised_bytes or bool(advised) != bool(self._advised_bytes):
            self._advised_bytes = advised
            if advised:
                _log.warning(
                    "the index that is written to outgrows memory: raise shared_buffers",
                    extra={
                        "advised_mib": -(-advised // 2**20),
                        "hot_index_mib": outlook.hot_index_bytes // 2**20,
                        "hot_index_limit_mib": outlook.hot_index_limit_bytes // 2**20,
                        "range_seconds": outlook.range_seconds,
                    },
                )
            else:
                _log.info("the index that is written to fits into memory again")

    async def prune(self) -> None:
        """Remove what is too old. A table that fails keeps no other from being pruned.

        Raises:
            DatabaseDownError, asyncpg.PostgresError: the first failure; what could be pruned was.
        """
        started = time.monotonic()
        self.begun_us = now = now_us()
        before = now - int(self._ages.samples * 1e6)
        failures: list[Exception] = []

        async def attempt(work: Callable[[asyncpg.Connection], Awaitable[None]]) -> None:
            try:
                async with self._database.acquire() as connection:
                    await work(connection)
            except (asyncpg.PostgresError, DatabaseDownError) as error:  # the latter: a statement past its deadline too
                failures.append(error)

        async def samples(connection: asyncpg.Connection) -> None:
            await rollup_progress.pruned_until(connection, before, now)
            pruned = await self._storage.prune(connection, before, self._pace)
            self._counters.metric_rows_pruned += pruned.metrics
            self._counters.log_rows_pruned += pruned.logs

        await attempt(self.prepare)
        await attempt(samples)
        self._registry.forget(before / 1e6)
        self._log_bounds.expire(before)
        for table, moment in self._moments(now).items():
            await attempt(partial(self._prune_table, table=table, moment=moment))
        await attempt(partial(self._prune_hosts, before=now - int(self._ages.hosts * 1e6)))
        self._counters.prune_seconds.observe(time.monotonic() - started)
        self.ended_us = now_us()
        if failures:
            raise failures[0]

    def _moments(self, now: int) -> dict[str, datetime]:
        """Up to when the rows of each table are too old."""
        seconds = {
            "container": self._ages.samples, "log_segment": self._ages.samples, "dirty_minute": self._ages.samples,
            "metric_minute": self._ages.rollup, "action": self._ages.actions, "audit": self._ages.audit,
            "live_ticket": 0.0, "enrolment": 0.0, "revocation": _REVOCATION_SECONDS,
        }  # fmt: skip
        return {table: to_datetime(now - int(age * 1e6)) for table, age in seconds.items()}

    async def _prune_table(self, connection: asyncpg.Connection, table: str, moment: datetime) -> None:
        old = _OLD[table]
        # The condition twice: a row may change between its choice and its removal.
        statement = (
            f"DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {old} LIMIT {_ROWS})) AND {old}"  # noqa: S608
        )
        while True:
            removed = int((await connection.execute(statement, moment)).rsplit(" ", 1)[1])
            self._counters.rows_pruned[table] += removed
            if removed < _ROWS:
                return

    async def _prune_hosts(self, connection: asyncpg.Connection, before: int) -> None:
        """Hosts not seen for long, with their containers and protections; what memory saw of them later counts."""
        moment, place = to_datetime(before), (to_datetime(0), "", "")
        while True:
            rows = await connection.fetch(_OLD_HOSTS, moment, *place, _HOSTS)
            if not rows:
                return
            last = rows[-1]
            place = (last["last_seen"], last["org"], last["host"])
            # From memory first: a host that comes back from here on is written anew, before or behind our DELETE.
            gone = [row for row in rows if self._registry.drop_host(row["org"], row["host"], before)]
            [removed] = await connection.fetch(
                _DELETE_HOSTS, [row["org"] for row in gone], [row["host"] for row in gone], moment
            )
            self._counters.rows_pruned.update(dict(removed))
