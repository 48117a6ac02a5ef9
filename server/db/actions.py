"""Actions in Postgres: every step is one statement, and carries its audit row with it."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg

from server.action_policy import denial
from server.action_records import ActionRecord, ActionRequest, Admitted, Decision, Denial, Result, Taken
from server.auth.principal import Role, User
from server.db import audit
from server.db.action_statements import (
    COLUMNS,
    DECIDE,
    DENY,
    EARLIER,
    EXPIRE,
    MARK_SENT,
    MARK_UNSENT,
    TAKE_RESULTS,
)
from server.db.pool import Database
from server.db.storage.times import to_datetime, to_micros
from server.errors import DatabaseDownError
from server.protocol.messages import ActionKind, ActionState


class ActionTable:
    """`server.action_records.ActionStore` over the pool."""

    def __init__(self, database: Database, *, max_open: int) -> None:
        self._database = database
        self._max_open = max_open

    async def decide(self, user: User, request: ActionRequest) -> Decision:
        """Admit or refuse an attempt, and write its one audit row."""
        policy = denial(user, request)
        digest = _digest(request)
        async with self._connection() as connection:
            (row,) = await connection.fetch(
                DECIDE,
                user.org,
                user.subject,
                request.idempotency_key,
                user.token_id,
                user.issued_at,
                policy and policy.code,
                policy and policy.message,
                self._max_open,
                request.action_id,
                request.host,
                request.container_id,
                request.kind,
                request.reason,
                user.role,
                to_datetime(request.requested_at),
                to_datetime(request.expires_at),
                digest,
            )
            if row["code"] is not None:
                return Denial(row["code"], row["message"])
            if row["action_id"] is not None:
                return Admitted(_record(row))
            return await self._earlier(connection, user, request, digest)

    async def _earlier(
        self, connection: asyncpg.Connection, user: User, request: ActionRequest, digest: bytes
    ) -> Decision:
        """What the same Idempotency-Key asked for before."""
        row = await connection.fetchrow(
            EARLIER,
            user.org,
            user.subject,
            request.idempotency_key,
        )
        if row is None:
            raise DatabaseDownError("the action of this Idempotency-Key was removed just now")
        if row["request_digest"] == digest:
            return Admitted(_record(row), replayed=True)
        refusal = Denial("idempotency_conflict", "this Idempotency-Key was used for another request")
        await audit.record(
            connection, user, action=f"container.{request.kind}", target=f"container:{request.container_id}",
            reason=request.reason, result=audit.DENIED, detail=f"{refusal.code}: {refusal.message}",
        )  # fmt: skip
        return refusal

    async def mark_sent(
        self, action_ids: Sequence[str], now: int
    ) -> tuple[Sequence[ActionRecord], Sequence[ActionRecord]]:
        """Mark pending actions sent; returns those that are to be sent now, and those denied as their user was revoked."""
        changed = await self._records(MARK_SENT, action_ids, to_datetime(now))
        return [a for a in changed if a.state == "sent"], [a for a in changed if a.state == "failed"]

    async def mark_unsent(self, action_ids: Sequence[str]) -> None:
        """Back to pending: their frames surely did not leave."""
        await self._records(
            MARK_UNSENT,
            action_ids,
        )

    async def deny(self, action_ids: Sequence[str], detail: str, now: int) -> Sequence[ActionRecord]:
        """End pending actions as denied; returns those that were."""
        return await self._records(
            DENY,
            action_ids,
            to_datetime(now),
            detail,
        )

    async def take_results(self, results: Sequence[Result]) -> Taken:
        """End sent actions as their agents report; one that was given up as unknown may still be told."""
        async with self._connection() as connection:
            rows = await connection.fetch(
                TAKE_RESULTS,
                [result.action_id for result in results],
                [result.org for result in results],
                [result.host for result in results],
                [result.outcome for result in results],
                [to_datetime(result.finished_at) for result in results],
                [result.detail for result in results],
            )
        changed = [_record(row) for row in rows if row["action_id"] is not None]
        repeated = rows[0]["repeated"]
        return Taken(changed, repeated=repeated, unasked=len(results) - len(changed) - repeated)

    async def expire(self, now: int, grace_us: int) -> Sequence[ActionRecord]:
        """End what is past its time: pending as expired, sent (and a grace later) as unknown; returns those."""
        return await self._records(
            EXPIRE,
            to_datetime(now),
            to_datetime(now - grace_us),
        )

    async def open_actions(self) -> Sequence[ActionRecord]:
        """Every action whose outcome is still to come."""
        return await self._records(f"SELECT {COLUMNS} FROM action WHERE state IN ('pending', 'sent')")  # noqa: S608

    async def recent(self, per_org: int) -> Sequence[ActionRecord]:
        """The newest actions of each organisation, oldest first."""
        return await self._records(
            f"""
            WITH RECURSIVE orgs AS (
                (SELECT org FROM action ORDER BY org LIMIT 1)
                UNION ALL
                SELECT (SELECT a.org FROM action a WHERE a.org > orgs.org ORDER BY a.org LIMIT 1)
                FROM orgs WHERE orgs.org IS NOT NULL
            )
            SELECT newest.* FROM orgs, LATERAL (
                SELECT {COLUMNS} FROM action a WHERE a.org = orgs.org ORDER BY requested_at DESC LIMIT $1
            ) newest ORDER BY requested_at
            """,  # noqa: S608
            per_org,
        )

    async def target(self, org: str, container_id: int) -> str | None:
        """The host of a container that is known; None: not of this organisation."""
        async with self._connection() as connection:
            host = await connection.fetchval(
                "SELECT host FROM container WHERE container_id = $1 AND org = $2", container_id, org
            )
            return cast("str | None", host)

    # -- reads for the API

    async def find(self, org: str, action_id: str) -> ActionRecord | None:
        """An action of an organisation."""
        found = await self._records(
            f"SELECT {COLUMNS} FROM action WHERE org = $1 AND action_id = $2",  # noqa: S608
            org,
            action_id,
        )
        return found[0] if found else None

    async def page(
        self,
        org: str,
        *,
        container_id: int | None,
        host: str | None,
        state: ActionState | None,
        before: tuple[int, str] | None,
        limit: int,
    ) -> Sequence[ActionRecord]:
        """Actions that match, newest first, before a place = (requested_at, action_id)."""
        at, action_id = before or (None, None)
        return await self._records(
            f"""
            SELECT {COLUMNS} FROM action
            WHERE org = $1 AND ($2::bigint IS NULL OR container_id = $2) AND ($3::text IS NULL OR host = $3)
              AND ($4::text IS NULL OR state = $4)
              AND ($5::timestamptz IS NULL OR (requested_at, action_id) < ($5, $6::text))
            ORDER BY requested_at DESC, action_id DESC LIMIT $7
            """,  # noqa: S608
            org,
            container_id,
            host,
            state,
            None if at is None else to_datetime(at),
            action_id,
            limit,
        )

    # -- parts

    async def _records(self, query: str, *args: Any) -> list[ActionRecord]:
        async with self._connection() as connection:
            return [_record(row) for row in await connection.fetch(query, *args)]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        try:
            async with self._database.acquire() as connection:
                yield connection
        except asyncpg.PostgresError as error:
            # Deadlock, full disk, shutdown under way ...: whoever asked tries again, and nothing was done.
            raise DatabaseDownError(f"{type(error).__name__}: {error}") from error


def _record(row: Any) -> ActionRecord:
    return ActionRecord(
        action_id=row["action_id"], org=row["org"], host=row["host"], container_id=row["container_id"],
        kind=cast("ActionKind", row["kind"]), state=cast("ActionState", row["state"]), reason=row["reason"],
        detail=row["detail"], requested_by=row["requested_by"], role=cast("Role", row["role"]), token_id=row["token_id"],
        token_issued_at=row["token_issued_at"].timestamp(), requested_at=to_micros(row["requested_at"]),
        expires_at=to_micros(row["expires_at"]), sent_at=row["sent_at"] and to_micros(row["sent_at"]),
        finished_at=row["finished_at"] and to_micros(row["finished_at"]),
    )  # fmt: skip


def _digest(request: ActionRequest) -> bytes:
    """What makes two requests the same."""
    parts = (str(request.container_id), request.kind, request.reason, str(request.life_us))
    return hashlib.sha256(b"".join(len(p := part.encode()).to_bytes(4, "big") + p for part in parts)).digest()
