"""Who may do what, as the tables say: revocations, protected series, quotas. Read at start, then polled.

Polling lets a change made by another process, or by SQL, count here within a second or two. What costs nothing where
nothing changed is asked first: a mark of each table, which every insert, update and delete changes.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

import asyncpg

from server.auth.principal import Agent, User
from server.auth.revocations import Kind, Revocations
from server.db import quotas
from server.db.pool import Database
from server.errors import DatabaseDownError
from server.quotas import Quotas
from server.registry import Registry

POLL_SECONDS = 1.0
_MARKS = """
    SELECT (SELECT (count(*), sum(xmin::text::bigint))::text FROM revocation) AS revocation,
           (SELECT (count(*), sum(xmin::text::bigint))::text FROM protection) AS protection,
           (SELECT (count(*), sum(xmin::text::bigint))::text FROM quota) AS quota
"""

_log = logging.getLogger("seatrial.access")


class Access:
    """Keeps what the doors ask in step with its tables."""

    def __init__(self, database: Database, revocations: Revocations, registry: Registry, limits: Quotas) -> None:
        self._database = database
        self._revocations = revocations
        self._registry = registry
        self._quotas = limits
        self._marks: dict[str, str] = {}
        self._one_at_a_time = asyncio.Lock()
        self.on_revoked: Callable[[], None] = lambda: None
        """Called when the revocations changed: sockets that are open already must be looked at."""

    async def refresh(self) -> None:
        """Read what changed. A change that was committed before the call counts when it returns.

        Raises:
            DatabaseDownError: it cannot be read now; what was known before stays in force.
        """
        # One at a time, or an older reading could overwrite a newer one.
        async with self._one_at_a_time:
            try:
                async with self._database.acquire() as connection:
                    await self._read(connection)
            except asyncpg.PostgresError as error:
                raise DatabaseDownError(f"{type(error).__name__}: {error}") from error

    async def refresh_soon(self) -> None:
        """After a change of our own: read it now, or, if that fails, with the next poll."""
        try:
            await self.refresh()
        except DatabaseDownError as error:
            _log.warning("a change counts with the next poll", extra={"error": str(error)})

    async def run(self) -> None:
        """Poll until cancelled; a failure is logged, and the next try comes in its time."""
        while True:
            try:
                await self.refresh()
            except DatabaseDownError as error:
                _log.warning("revocations and quotas not read", extra={"error": str(error)})
            await asyncio.sleep(POLL_SECONDS)

    async def _read(self, connection: asyncpg.Connection) -> None:
        # One snapshot: a row that is not in the mark is not in the reading either.
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            marks = dict(await connection.fetchrow(_MARKS) or {})
            changed = {table for table, mark in marks.items() if self._marks.get(table) != mark}
            if "revocation" in changed:
                await self._read_revocations(connection)
            if "protection" in changed:
                rows = await connection.fetch("SELECT org, host, series FROM protection")
                self._registry.protect(frozenset((row["org"], row["host"], row["series"]) for row in rows))
            if "quota" in changed:
                self._quotas.replace(await quotas.read(connection, self._quotas.defaults))
        self._marks = marks

    async def _read_revocations(self, connection: asyncpg.Connection) -> None:
        rows = await connection.fetch("SELECT org, kind, subject, revoked_at FROM revocation")
        self._revocations.replace(
            {(row["org"], cast("Kind", row["kind"]), row["subject"]): row["revoked_at"].timestamp() for row in rows}
        )
        self.on_revoked()


async def is_revoked(connection: asyncpg.Connection, user: User) -> bool:
    """Whether the user's token is revoked as of the caller's transaction: for decisions that cannot wait for the poll."""
    return await _revoked(connection, user.org, "user", user.subject, user.token_id, user.issued_at)


async def is_agent_revoked(connection: asyncpg.Connection, agent: Agent) -> bool:
    """The same for an agent's token."""
    return await _revoked(connection, agent.org, "host", agent.host, agent.token_id, agent.issued_at)


async def _revoked(
    connection: asyncpg.Connection, org: str, kind: Kind, subject: str, token_id: str, issued_at: float
) -> bool:
    found = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM revocation WHERE org = $1"
        " AND (kind = 'token' AND subject = $2 OR kind = $3 AND subject = $4 AND revoked_at >= $5))",
        org,
        token_id,
        kind,
        subject,
        datetime.fromtimestamp(issued_at, UTC),
    )
    return bool(found)
