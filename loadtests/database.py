"""The runner's own connections to the run's database, which a fault may take away at any moment."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg

CONNECT_TIMEOUT_SECONDS = 5.0
AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What a database that is away, or that comes back just now, makes of a statement or a connection."""

Connect = Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]
"""How a part gets its connection for a few statements. What comes out of the block ends the connection."""


class Reconnecting:
    """A connection of one part's own, made when it is needed, and again after something broke.

    Args:
        dsn: of the database.
        statement_seconds: deadline of each statement.
    """

    def __init__(self, dsn: str, *, statement_seconds: float) -> None:
        self._dsn = dsn
        self._statement_seconds = statement_seconds
        self._connection: asyncpg.Connection | None = None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[asyncpg.Connection]:
        """The connection, for one user at a time.

        Whatever is raised inside ends it: a statement that was given up may still run, and its answer would be the next one's.

        Raises:
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError: there is none to be had (`AWAY`).
        """
        connection = self._connection
        if connection is None or connection.is_closed():
            self.close()
            connection = self._connection = await asyncpg.connect(
                self._dsn, timeout=CONNECT_TIMEOUT_SECONDS, command_timeout=self._statement_seconds
            )
        try:
            yield connection
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the connection at once. Idempotent; the next `use` makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
