"""Actions in Postgres: every step is one transaction, and carries its audit row with it."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg

from server.action_policy import denial
from server.action_records import ActionRecord, ActionRequest, Admitted, Decision, Denial, Result, Taken
from server.auth.principal import Role, User
from server.db import access, audit
from server.db.pool import Database
from server.db.storage.times import to_datetime, to_micros
from server.errors import DatabaseDownError
from server.protocol.messages import ActionKind, ActionState

_COLUMNS = (
    "action_id, org, host, container_id, kind, state, reason, detail, requested_by, role, token_id, token_issued_at,"
    " requested_at, expires_at, sent_at, finished_at"
)
_AUDIT_FOLLOWS = """
    UPDATE audit a SET result = u.result, detail = u.detail, finished_at = u.finished_at
    FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS u(action_id, result, detail, finished_at)
    WHERE a.action_id = u.action_id
"""


class ActionTable:
    """`server.action_records.ActionStore` over the pool."""

    def __init__(self, database: Database, *, max_open: int) -> None:
        self._database = database
        self._max_open = max_open

    async def decide(self, user: User, request: ActionRequest) -> Decision:
        """Admit or refuse an attempt, and write its one audit row."""
        digest = _digest(request)
        async with self._transaction() as connection:
            if request.idempotency_key is not None:
                await connection.execute(
                    "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
                    f"{user.org}\n{user.subject}\n{request.idempotency_key}",
                )
                row = await connection.fetchrow(
                    f"SELECT {_COLUMNS}, request_digest FROM action"  # noqa: S608 - our own names, here and below
                    " WHERE org = $1 AND requested_by = $2 AND idempotency_key = $3",
                    user.org,
                    user.subject,
                    request.idempotency_key,
                )
                if row is not None and row["request_digest"] == digest:
                    return Admitted(_record(row), replayed=True)
                if row is not None:
                    message = "this Idempotency-Key was used for another request"
                    return await self._deny(connection, user, request, Denial("idempotency_conflict", message))
            refusal = await self._refusal(connection, user, request)
            if refusal is not None:
                return await self._deny(connection, user, request, refusal)
            row = await connection.fetchrow(
                f"""
                INSERT INTO action (action_id, org, host, container_id, kind, state, reason, requested_by, role, token_id,
                                    token_issued_at, requested_at, expires_at, idempotency_key, request_digest)
                VALUES ($1, $2, $3, $4, $5, 'pending', $6, $7, $8, $9, to_timestamp($10), $11, $12, $13, $14)
                RETURNING {_COLUMNS}
                """,  # noqa: S608
                request.action_id,
                user.org,
                request.host,
                request.container_id,
                request.kind,
                request.reason,
                user.subject,
                user.role,
                user.token_id,
                user.issued_at,
                to_datetime(request.requested_at),
                to_datetime(request.expires_at),
                request.idempotency_key,
                digest,
            )
            await self._audit(connection, user, request, "pending", "", request.action_id)
            return Admitted(_record(row))

    async def mark_sent(
        self, action_ids: Sequence[str], now: int
    ) -> tuple[Sequence[ActionRecord], Sequence[ActionRecord]]:
        """Mark pending actions sent; returns those that are to be sent now, and those denied as their user was revoked."""
        async with self._transaction() as connection:
            waiting = await self._records(
                connection,
                f"SELECT {_COLUMNS} FROM action WHERE action_id = ANY($1) AND state = 'pending' AND expires_at > $2"  # noqa: S608
                " ORDER BY action_id FOR UPDATE",
                action_ids,
                to_datetime(now),
            )
            requesters = {action.requester() for action in waiting}
            revoked = {user for user in requesters if await access.is_revoked(connection, user)}
            denied = [action.action_id for action in waiting if action.requester() in revoked]
            sent = await self._records(
                connection,
                f"UPDATE action SET state = 'sent', sent_at = $2 WHERE action_id = ANY($1) RETURNING {_COLUMNS}",  # noqa: S608
                [action.action_id for action in waiting if action.requester() not in revoked],
                to_datetime(now),
            )
            await self._follow(connection, sent)
            detail = "denied: the user was revoked before it was sent"
            return sent, await self._deny_pending(connection, denied, detail, now)

    async def mark_unsent(self, action_ids: Sequence[str]) -> None:
        """Back to pending: their frames surely did not leave."""
        async with self._transaction() as connection:
            back = await self._records(
                connection,
                "UPDATE action SET state = 'pending', sent_at = NULL"  # noqa: S608
                f" WHERE action_id = ANY($1) AND state = 'sent' RETURNING {_COLUMNS}",
                action_ids,
            )
            await self._follow(connection, back)

    async def deny(self, action_ids: Sequence[str], detail: str, now: int) -> Sequence[ActionRecord]:
        """End pending actions as denied; returns those that were."""
        async with self._transaction() as connection:
            return await self._deny_pending(connection, action_ids, detail, now)

    async def take_results(self, results: Sequence[Result]) -> Taken:
        """End sent actions as their agents report; one that was given up as unknown may still be told."""
        async with self._transaction() as connection:
            changed = await self._records(
                connection,
                f"""
                UPDATE action a SET state = r.outcome, finished_at = r.finished_at, detail = r.detail
                FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[])
                     AS r(action_id, org, host, outcome, finished_at, detail)
                WHERE a.action_id = r.action_id AND a.org = r.org AND a.host = r.host AND a.state IN ('sent', 'unknown')
                RETURNING {", ".join("a." + column for column in _COLUMNS.split(", "))}
                """,  # noqa: S608
                [result.action_id for result in results],
                [result.org for result in results],
                [result.host for result in results],
                [result.outcome for result in results],
                [to_datetime(result.finished_at) for result in results],
                [result.detail for result in results],
            )
            await self._follow(connection, changed)
            ended = {action.action_id for action in changed}
            others = [result for result in results if result.action_id not in ended]
            known = await connection.fetch(
                "SELECT a.action_id FROM action a"
                " JOIN unnest($1::text[], $2::text[], $3::text[]) AS r(action_id, org, host)"
                " USING (action_id, org, host) WHERE a.state IN ('succeeded', 'failed', 'expired') AND sent_at IS NOT NULL",
                [result.action_id for result in others],
                [result.org for result in others],
                [result.host for result in others],
            )
            return Taken(changed, repeated=len(known), unasked=len(others) - len(known))

    async def expire(self, now: int, grace_us: int) -> Sequence[ActionRecord]:
        """End what is past its time: pending as expired, sent (and a grace later) as unknown; returns those."""
        async with self._transaction() as connection:
            ended = await self._records(
                connection,
                f"""
                UPDATE action SET
                    state = CASE state WHEN 'pending' THEN 'expired' ELSE 'unknown' END,
                    finished_at = $1,
                    detail = CASE state WHEN 'pending' THEN 'the agent did not come in time'
                                        ELSE 'sent, but the agent did not report in time' END
                WHERE state = 'pending' AND expires_at <= $1 OR state = 'sent' AND expires_at <= $2
                RETURNING {_COLUMNS}
                """,  # noqa: S608
                to_datetime(now),
                to_datetime(now - grace_us),
            )
            await self._follow(connection, ended)
            return ended

    async def open_actions(self) -> Sequence[ActionRecord]:
        """Every action whose outcome is still to come."""
        async with self._transaction() as connection:
            return await self._records(
                connection,
                f"SELECT {_COLUMNS} FROM action WHERE state IN ('pending', 'sent')",  # noqa: S608
            )

    async def recent(self, per_org: int) -> Sequence[ActionRecord]:
        """The newest actions of each organisation, oldest first."""
        async with self._transaction() as connection:
            return await self._records(
                connection,
                f"""
                WITH RECURSIVE orgs AS (
                    (SELECT org FROM action ORDER BY org LIMIT 1)
                    UNION ALL
                    SELECT (SELECT a.org FROM action a WHERE a.org > orgs.org ORDER BY a.org LIMIT 1)
                    FROM orgs WHERE orgs.org IS NOT NULL
                )
                SELECT newest.* FROM orgs, LATERAL (
                    SELECT {_COLUMNS} FROM action a WHERE a.org = orgs.org ORDER BY requested_at DESC LIMIT $1
                ) newest ORDER BY requested_at
                """,  # noqa: S608
                per_org,
            )

    async def target(self, org: str, container_id: int) -> str | None:
        """The host of a container that is known; None: not of this organisation."""
        async with self._transaction() as connection:
            host = await connection.fetchval(
                "SELECT host FROM container WHERE container_id = $1 AND org = $2", container_id, org
            )
            return cast("str | None", host)

    # -- reads for the API

    async def find(self, org: str, action_id: str) -> ActionRecord | None:
        """An action of an organisation."""
        async with self._transaction() as connection:
            found = await self._records(
                connection,
                f"SELECT {_COLUMNS} FROM action WHERE org = $1 AND action_id = $2",  # noqa: S608
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
        async with self._transaction() as connection:
            return await self._records(
                connection,
                f"""
                SELECT {_COLUMNS} FROM action
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

    async def _refusal(self, connection: asyncpg.Connection, user: User, request: ActionRequest) -> Denial | None:
        if await access.is_revoked(connection, user):
            return Denial("revoked", "the user or the token was revoked")
        refusal = denial(user, request)
        if refusal is not None:
            return refusal
        # Two that ask at once may both find room: the bound is for memory, not for money.
        count = await connection.fetchval(
            "SELECT count(*) FROM action WHERE state IN ('pending', 'sent') AND org = $1", user.org
        )
        if count >= self._max_open:
            return Denial("too_many_actions", f"{count} actions are open: expected at most {self._max_open}")
        return None

    async def _deny(
        self, connection: asyncpg.Connection, user: User, request: ActionRequest, refusal: Denial
    ) -> Denial:
        await self._audit(connection, user, request, audit.DENIED, f"{refusal.code}: {refusal.message}", None)
        return refusal

    async def _audit(
        self,
        connection: asyncpg.Connection,
        user: User,
        request: ActionRequest,
        result: str,
        detail: str,
        action_id: str | None,
    ) -> None:
        await audit.record(
            connection, user, action=f"container.{request.kind}", target=f"container:{request.container_id}",
            reason=request.reason, result=result, detail=detail, action_id=action_id,
        )  # fmt: skip

    async def _deny_pending(
        self, connection: asyncpg.Connection, action_ids: Sequence[str], detail: str, now: int
    ) -> Sequence[ActionRecord]:
        if not action_ids:
            return ()
        denied = await self._records(
            connection,
            "UPDATE action SET state = 'failed', finished_at = $2, detail = $3"  # noqa: S608
            f" WHERE action_id = ANY($1) AND state = 'pending' RETURNING {_COLUMNS}",
            action_ids,
            to_datetime(now),
            detail,
        )
        await self._follow(connection, denied, audit.DENIED)
        return denied

    async def _follow(
        self, connection: asyncpg.Connection, actions: Sequence[ActionRecord], result: str | None = None
    ) -> None:
        """The one audit row of each action says how it stands."""
        if actions:
            await connection.execute(
                _AUDIT_FOLLOWS,
                [action.action_id for action in actions],
                [result or action.state for action in actions],
                [action.detail for action in actions],
                [None if action.finished_at is None else to_datetime(action.finished_at) for action in actions],
            )

    async def _records(self, connection: asyncpg.Connection, query: str, *args: Any) -> list[ActionRecord]:
        return [_record(row) for row in await connection.fetch(query, *args)]

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[asyncpg.Connection]:
        try:
            async with self._database.acquire() as connection, connection.transaction():
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
