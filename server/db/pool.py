"""Connections: a small pool for everything but the lanes, and single ones for these."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import asyncpg

from server.errors import DatabaseDownError, StartupError

ACQUIRE_TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 10.0
BROKEN = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What asyncpg raises over a connection that does not work any more. The second is its word for one that was lost within an
operation and is used again; it is no InterfaceError."""
_AWAY = (asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError, *BROKEN)
SUPPORTED_VERSIONS = range(15, 19)

_log = logging.getLogger("seatrial.db")


class Database:
    """The pool and the way to single connections. Use as `async with`."""

    def __init__(
        self, dsn: str, *, pool_size: int, statement_timeout_seconds: float, name: str = "seatrial-pool"
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._pool_size = pool_size
        self._statement_timeout_seconds = statement_timeout_seconds
        self._pool: asyncpg.Pool | None = None

    async def connect(self, name: str = "seatrial") -> asyncpg.Connection:
        """A connection of its own, not of the pool; `name` shows in pg_stat_activity.

        Raises:
            OSError, TimeoutError, asyncpg.PostgresError: the database does not take it.
        """
        return await asyncpg.connect(
            self._dsn,
            timeout=CONNECT_TIMEOUT_SECONDS,
            command_timeout=self._statement_timeout_seconds,
            server_settings={"application_name": name},
        )

    async def open(self, wait_seconds: float) -> None:
        """Open the pool, waiting for a database that is still starting.

        Raises:
            StartupError: it did not answer in time, refused us, or has a version that we do not support.
        """
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while True:
            try:
                self._pool = await asyncpg.create_pool(
                    self._dsn,
                    min_size=1,
                    max_size=self._pool_size,
                    timeout=CONNECT_TIMEOUT_SECONDS,
                    command_timeout=self._statement_timeout_seconds,
                    server_settings={"application_name": self._name},
                    reset=_nothing_to_reset,
                )
                break
            except _AWAY as error:
                if asyncio.get_running_loop().time() >= deadline:
                    raise StartupError(f"database_url: no answer within {wait_seconds:g} s: {error}") from None
                _log.warning("waiting for the database", extra={"error": str(error)})
                await asyncio.sleep(0.5)
            except (asyncpg.PostgresError, ValueError) as error:
                raise StartupError(f"database_url: {error}") from None
        async with self.acquire() as connection:
            major = connection.get_server_version().major
        if major not in SUPPORTED_VERSIONS:
            await self.close()
            raise StartupError(
                f"database_url: PostgreSQL {major}: expected {SUPPORTED_VERSIONS[0]} to {SUPPORTED_VERSIONS[-1]}"
            )

    async def close(self) -> None:
        """Close the pool; what does not end within 5 s is terminated."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(5):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection for one operation.

        Raises:
            DatabaseDownError: none could be had in time, or the one we had broke.
        """
        if self._pool is None:
            raise DatabaseDownError("the pool is not open")
        try:
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS) as connection:
                yield cast("asyncpg.Connection", connection)  # a proxy with the same methods
        except _AWAY as error:
            raise DatabaseDownError(f"{type(error).__name__}: {error}") from error

    async def answers(self) -> bool:
        """Whether a statement comes back within a second."""
        try:
            async with asyncio.timeout(1), self.acquire() as connection:
                try:
                    await connection.execute("SELECT 1")
                except BaseException:
                    # The pool would wait 5 s for the cancellation of a statement before it let us answer.
                    connection.terminate()
                    raise
        except (DatabaseDownError, asyncpg.PostgresError, TimeoutError):
            return False
        return True


async def _nothing_to_reset(_connection: object) -> None:
    """Nothing: who sets a session variable takes it back or ends the connection, and nobody listens or keeps a lock.

    asyncpg itself ends a transaction that is open. It would send four statements after each use, and whoever gave the
    connection back would wait for them.
    """


class ReadPool:
    """What users read.

    It has connections of its own, so that no reader keeps a command, a revocation or the retention waiting, and one
    organisation gets at most so many of them at once, so that no tenant's readers keep another's waiting.
    """

    def __init__(self, database: Database, *, at_once: int) -> None:
        self._database = database
        self._at_once = at_once
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._users: Counter[str] = Counter()
        """Reading or waiting, by organisation: its semaphore goes with the last."""

    @asynccontextmanager
    async def acquire(self, org: str) -> AsyncIterator[asyncpg.Connection]:
        """A connection for one read of an organisation.

        Raises:
            DatabaseDownError: none could be had in time, or the one we had broke.
        """
        turn = self._turns.setdefault(org, asyncio.Semaphore(self._at_once))
        self._users[org] += 1
        try:
            try:
                async with asyncio.timeout(ACQUIRE_TIMEOUT_SECONDS):
                    await turn.acquire()
            except TimeoutError:
                raise DatabaseDownError(f"the organisation's {self._at_once} reads at once took too long") from None
            try:
                async with self._database.acquire() as connection:
                    yield connection
            finally:
                turn.release()
        finally:
            self._users[org] -= 1
            if not self._users[org]:
                del self._users[org], self._turns[org]
