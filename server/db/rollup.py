"""Computes the one-minute rollup: whole minutes, from their samples, in Postgres, at a pace, on a connection of its own.

A round takes the marks of minutes that are over (and a grace period past), oldest first, and has the strategy compute those
minutes anew, some thousand containers a statement. What is marked meanwhile is another mark, for the next round. A database
that has samples without marks, because no server with a rollup wrote them, is filled backwards, a minute after the other, in
the time that is left.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import asyncpg

from server.agents import now_us
from server.counters import Counters
from server.db import dirty_marks, rollup_progress
from server.db.pool import BROKEN, Database
from server.db.storage.base import NOT_ROLLED, Rolled, Storage
from server.db.storage.pace import Pace
from server.dirty_minutes import DirtyMinutes
from server.errors import DatabaseDownError
from server.reads import MINUTE_US

INTERVAL_SECONDS = 10.0
"""From the beginning of a round to that of the next: a late sample shows in long charts after about as long."""
SETTLE_SECONDS = 30.0
"""Time for samples that were received to be stored; past it the round is left to the next."""
PRESSED_SECONDS = 5.0
"""How long a statement waits at most for flushes to be quick again: beside a load that never rests the rollup goes on."""
_LOOK_SECONDS = 0.1
_CONTAINERS = 2_000
"""Of a statement. They are neighbours in the order of ids, in which a flush stores them: their samples lie on few pages."""
_LOCK = 0x5EA7_11A3
"""Advisory lock key: one process computes, or an older snapshot could overwrite a newer one."""

_log = logging.getLogger("seatrial.rollup")

Settle = Callable[[float], Awaitable[None]]
"""Waits until every sample that was accepted is stored, at most so many seconds; raises TimeoutError."""


class Rollup:
    """One task. Until it has begun, charts are read from samples.

    Args:
        grace_seconds: how long after its end a minute waits for late samples.
        future_seconds: how far ahead of our clock a sample may lie.
        retention_seconds: how old samples become: what is older is not filled.
        duty: share of time that computing may take, up to 1.
        pressed: whether who stores samples has no time to lose; nothing is computed meanwhile.
    """

    def __init__(
        self,
        database: Database,
        storage: Storage,
        dirty_minutes: DirtyMinutes,
        counters: Counters,
        settle: Settle,
        *,
        grace_seconds: float,
        future_seconds: float,
        retention_seconds: float,
        duty: float,
        pressed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database = database
        self._storage = storage
        self._dirty_minutes = dirty_minutes
        self._counters = counters
        self._settle = settle
        self._grace_us = int(grace_seconds * 1e6)
        self._future_us = int(future_seconds * 1e6)
        self._retention_us = int(retention_seconds * 1e6)
        self._pace = Pace(duty)
        self._pressed = pressed
        self._connection: asyncpg.Connection | None = None
        self._has_lock = False
        self.rolled: Rolled = NOT_ROLLED
        """What charts may take from the rollup."""
        self.waiting = dirty_marks.Waiting(0, None)
        """What was marked at the end of the last round."""
        self.minutes_to_fill = 0
        """Minutes of samples without marks that are not computed yet."""
        self._over = 0
        """Every minute before it was over, and its grace past, at the last round."""

    async def load(self) -> None:
        """Take up where the process before ended. Before the lanes begin: from here on every sample has its mark.

        Raises:
            DatabaseDownError, asyncpg.PostgresError: the database does not answer.
        """
        async with self._database.acquire() as connection:
            self.rolled = await rollup_progress.begin(connection, now_us() + self._future_us)

    async def run(self) -> None:
        """A round each `INTERVAL_SECONDS` until cancelled; one that fails is logged, the next comes in its time."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while True:
                due = max(due + INTERVAL_SECONDS, loop.time())
                await asyncio.sleep(due - loop.time())
                try:
                    await self.round()
                    # On a new database the first minute to fill lies ahead of the clock, where a sample may come from. Filled
                    # before it is over, charts would take it from the rollup without the samples that follow.
                    while (
                        self.minutes_to_fill
                        and self.rolled.since <= self._over
                        and loop.time() < due + INTERVAL_SECONDS
                    ):
                        await self.fill()
                except (DatabaseDownError, asyncpg.PostgresError, *BROKEN) as error:
                    _log.warning("the rollup failed, will be tried again", extra={"error": str(error)})
                    self._disconnect()
        finally:
            self._disconnect()

    async def round(self) -> None:
        """Compute every minute that is over and marked.

        Raises:
            TimeoutError: what was received could not be stored in time. What is not computed stays marked, here and below.
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError: the database does not do it now.
        """
        connection = await self._connected()
        if connection is None:
            return
        loop = asyncio.get_running_loop()
        started = loop.time()
        until = self._dirty_minutes.close(now_us() - self._grace_us)
        await self._settle(SETTLE_SECONDS)
        self._over = until
        newest = await dirty_marks.newest_mark(connection)
        while (minute := await dirty_marks.oldest_minute(connection, until, newest)) is not None:
            await self._advance(connection, minute)
            await self._compute(connection, minute, newest)
        await self._advance(connection, until)
        self.waiting = await dirty_marks.waiting(connection)
        self.minutes_to_fill = max(0, self.rolled.since - await self._fill_until(connection)) // MINUTE_US
        self._counters.rollup_seconds.observe(loop.time() - started)

    async def fill(self) -> None:
        """Compute the minute before those that are computed, of every container.

        Raises:
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError: the database does not do it now.
        """
        connection = await self._connected()
        if connection is None:
            return
        minute, last = self.rolled.since - MINUTE_US, -1
        while containers := await connection.fetch(
            "SELECT container_id FROM container WHERE container_id > $1 ORDER BY container_id LIMIT $2",
            last,
            _CONTAINERS,
        ):
            last = containers[-1]["container_id"]
            await self._roll_up(connection, [row["container_id"] for row in containers], minute)
        await rollup_progress.rolled_from(connection, minute)
        self.rolled = Rolled(minute, self.rolled.until)
        self.minutes_to_fill = max(0, minute - await self._fill_until(connection)) // MINUTE_US

    async def _compute(self, connection: asyncpg.Connection, minute: int, newest: int) -> None:
        """One minute of every container that has a mark of it, up to the mark `newest`."""
        marks = await dirty_marks.marks_of(connection, minute, newest)
        for containers in await dirty_marks.marked_containers(connection, minute, marks, _CONTAINERS):
            await self._roll_up(connection, containers, minute)
        await dirty_marks.take_away(connection, minute, marks)

    async def _roll_up(self, connection: asyncpg.Connection, containers: Sequence[int], minute: int) -> None:
        await self._unpressed()
        async with self._pace.step():
            computed = await self._storage.roll_up(connection, containers, minute, minute + MINUTE_US)
        self._counters.minutes_rolled_up += computed

    async def _unpressed(self) -> None:
        """Leave the machine to who stores samples: acks wait for that, and charts can be read from samples."""
        for _ in range(round(PRESSED_SECONDS / _LOOK_SECONDS)):
            if not self._pressed():
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _advance(self, connection: asyncpg.Connection, until: int) -> None:
        """Every minute before `until` is computed."""
        if until > self.rolled.until:
            await rollup_progress.rolled_until(connection, until)
            self.rolled = Rolled(self.rolled.since, until)

    async def _fill_until(self, connection: asyncpg.Connection) -> int:
        """The first minute whose samples are all there."""
        oldest = rollup_progress.minute_after(now_us() - self._retention_us)
        return max(oldest, await rollup_progress.first_whole_minute(connection))

    async def _connected(self) -> asyncpg.Connection | None:
        """Our connection, with the lock; None: another process has that."""
        if self._connection is None or self._connection.is_closed():
            self._has_lock = False
            self._connection = await self._database.connect("seatrial-rollup")
            # One core at most: there is no hurry.
            await self._connection.execute("SET max_parallel_workers_per_gather = 0")
        if not self._has_lock:
            self._has_lock = await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK)
            if not self._has_lock:
                _log.warning("another process computes the rollup of this database")
                return None
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
