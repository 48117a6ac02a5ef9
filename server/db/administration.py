"""What Admins do: each attempt is decided, done and audited in one transaction, the denied ones too."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import msgspec

from server.auth.principal import User
from server.auth.revocations import Kind, Revocation
from server.db import audit
from server.db.access import Access, is_revoked
from server.db.history import History
from server.db.pool import Database
from server.db.storage.times import to_micros
from server.errors import DatabaseDownError, DeniedError
from server.reads import StoredContainer
from server.registry import Registry

REVOKE = """
    INSERT INTO revocation (org, kind, subject, revoked_at, revoked_by, reason)
    VALUES ($1, $2, $3, clock_timestamp(), $4, $5)
    ON CONFLICT (org, kind, subject) DO UPDATE SET
        revoked_at = greatest(revocation.revoked_at, excluded.revoked_at), revoked_by = excluded.revoked_by,
        reason = excluded.reason
    RETURNING *
"""


Check = Callable[[asyncpg.Connection], Awaitable[DeniedError | None]]
"""Looks within the transaction whether something stands against it."""


async def lock_host(connection: asyncpg.Connection, org: str, host: str) -> None:
    """What is issued to a host and what is taken from it: one at a time, until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"seatrial/{org}/{host}")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a user asks for, as the audit log says it."""

    user: User
    action: str
    target: str
    reason: str


@asynccontextmanager
async def transaction(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A transaction on a connection of the pool.

    Raises:
        DatabaseDownError: nothing was done, or it is not known whether.
    """
    try:
        async with database.acquire() as connection, connection.transaction():
            yield connection
    except asyncpg.PostgresError as error:
        raise DatabaseDownError(f"{type(error).__name__}: {error}") from error


@asynccontextmanager
async def admitted(
    database: Database, attempt: Attempt, check: Check | None = None
) -> AsyncIterator[asyncpg.Connection]:
    """The transaction of an admin's operation, with its audit row; what the caller does in it is done by the time it ends.

    Raises:
        DeniedError: the user is no Admin, was revoked, or `check` found something. The audit row says so, nothing else
            was done.
        DatabaseDownError: nothing was done, or it is not known whether.
    """
    user = attempt.user
    async with transaction(database) as connection:
        denial = None
        if await is_revoked(connection, user):
            denial = DeniedError("revoked", "the user or the token was revoked")
        elif not user.may("admin"):
            denial = DeniedError("forbidden", f"role {user.role}: expected admin or above")
        elif check is not None:
            denial = await check(connection)
        await audit.record(
            connection, user, action=attempt.action, target=attempt.target, reason=attempt.reason,
            result=audit.DONE if denial is None else audit.DENIED,
            detail="" if denial is None else f"{denial.code}: {denial}",
        )  # fmt: skip
        if denial is None:
            yield connection
            return
    raise denial


class Administration:
    """Revokes users and tokens, protects containers."""

    def __init__(
        self, database: Database, registry: Registry, access: Access, history: History, *, max_revocations: int
    ) -> None:
        self._max_revocations = max_revocations
        self._database = database
        self._history = history
        self._registry = registry
        self._access = access

    async def revoke(self, user: User, kind: Kind, subject: str, reason: str) -> Revocation:
        """End what a user or a host was issued up to now, or one token; it counts here when this returns.

        Raises:
            DeniedError, DatabaseDownError.
        """

        async def room(connection: asyncpg.Connection) -> DeniedError | None:
            count = await connection.fetchval("SELECT count(*) FROM revocation WHERE org = $1", user.org)
            if count < self._max_revocations:
                return None
            return DeniedError(
                "too_many_revocations", f"{count} are in force: expected at most {self._max_revocations}"
            )

        attempt = Attempt(user, f"{kind}.revoke", f"{kind}:{subject}", reason)
        async with admitted(self._database, attempt, room) as connection:
            if kind == "host":
                await lock_host(connection, user.org, subject)
                await connection.execute("DELETE FROM enrolment WHERE org = $1 AND host = $2", user.org, subject)
            (row,) = await connection.fetch(REVOKE, user.org, kind, subject, user.subject, reason)
        await self._access.refresh_soon()
        return _revocation(row)

    async def revocations(self, org: str, *, after: tuple[str, str] | None, limit: int) -> Sequence[Revocation]:
        """What is revoked in an organisation, by (kind, subject), after a place.

        Raises:
            DatabaseDownError: it cannot be read now.
        """
        kind, subject = after or ("", "")
        async with transaction(self._database) as connection:
            rows = await connection.fetch(
                "SELECT * FROM revocation WHERE org = $1 AND (kind, subject) > ($2, $3) ORDER BY kind, subject LIMIT $4",
                org,
                kind,
                subject,
                limit,
            )
        return [_revocation(row) for row in rows]

    async def protect(self, user: User, container_id: int, *, protected: bool, reason: str) -> StoredContainer | None:
        """Protect a container's series, or no longer; None: the organisation has no such container.

        Raises:
            DeniedError, DatabaseDownError.
        """
        container = await self._container(user.org, container_id)
        if container is None:
            return None
        action = "container.protect" if protected else "container.unprotect"
        attempt = Attempt(user, action, f"container:{container_id}", reason)
        async with admitted(self._database, attempt) as connection:
            if protected:
                await connection.execute(
                    "INSERT INTO protection (org, host, series, protected_by, reason) VALUES ($1, $2, $3, $4, $5)"
                    " ON CONFLICT (org, host, series) DO UPDATE SET"
                    " protected_by = excluded.protected_by, protected_at = clock_timestamp(), reason = excluded.reason",
                    user.org, container.host, container.series, user.subject, reason,
                )  # fmt: skip
            else:
                await connection.execute(
                    "DELETE FROM protection WHERE (org, host, series) = ($1, $2, $3)",
                    user.org,
                    container.host,
                    container.series,
                )
        await self._access.refresh_soon()
        return await self._container(user.org, container_id)

    async def _container(self, org: str, container_id: int) -> StoredContainer | None:
        """From memory, as the newest may not be written yet, or from the table."""
        record = self._registry.by_container.get(container_id)
        if record is None:
            return await self._history.container(org, container_id)
        if record.org != org:
            return None
        known = record.by_id[container_id]
        removed_at = None if known.removed_at is None else int(known.removed_at * 1e6)
        return StoredContainer(**msgspec.structs.asdict(known.status(record.host)), removed_at=removed_at)


def _revocation(row: asyncpg.Record) -> Revocation:
    return Revocation(
        kind=row["kind"], subject=row["subject"], revoked_at=to_micros(row["revoked_at"]), revoked_by=row["revoked_by"],
        reason=row["reason"],
    )  # fmt: skip
