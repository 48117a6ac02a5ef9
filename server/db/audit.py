"""The audit log: one row per attempt, written in the transaction that decides it, read by page, newest first."""

from collections.abc import Sequence

import asyncpg

from server.auth.principal import User
from server.db.pool import ReadPool
from server.db.storage.times import to_datetime, to_micros
from server.reads import AuditEntry, AuditFilter

DENIED = "denied"
DONE = "done"


async def record(
    connection: asyncpg.Connection,
    user: User,
    *,
    action: str,
    target: str,
    reason: str,
    result: str,
    detail: str = "",
    action_id: str | None = None,
) -> None:
    """Write the row of an attempt, in the caller's transaction. One that is decided is finished."""
    await connection.execute(
        "INSERT INTO audit (org, actor, role, action, target, reason, result, detail, action_id, finished_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, CASE WHEN $7 IN ('denied', 'done') THEN clock_timestamp() END)",
        user.org,
        user.subject,
        user.role,
        action,
        target,
        reason,
        result,
        detail,
        action_id,
    )


class Audit:
    """Reads the log of an organisation."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool

    async def entries(self, org: str, wanted: AuditFilter, *, before: int | None, limit: int) -> Sequence[AuditEntry]:
        """The newest `limit` entries with an id below `before` that match.

        Raises:
            DatabaseDownError: they cannot be read now.
        """
        async with self._pool.acquire(org) as connection:
            rows = await connection.fetch(
                """
                SELECT * FROM audit
                WHERE org = $1 AND ($2::bigint IS NULL OR audit_id < $2)
                  AND ($3::text IS NULL OR actor = $3) AND ($4::text IS NULL OR action = $4)
                  AND ($5::text IS NULL OR target = $5) AND ($6::text IS NULL OR result = $6)
                  AND ($7::text IS NULL OR reason = $7)
                  AND ($8::timestamptz IS NULL OR at >= $8) AND ($9::timestamptz IS NULL OR at < $9)
                ORDER BY audit_id DESC LIMIT $10
                """,
                org,
                before,
                wanted.actor,
                wanted.action,
                wanted.target,
                wanted.result,
                wanted.reason,
                None if wanted.since is None else to_datetime(wanted.since),
                None if wanted.until is None else to_datetime(wanted.until),
                limit,
            )
        return [_entry(row) for row in rows]


def _entry(row: asyncpg.Record) -> AuditEntry:
    return AuditEntry(
        id=row["audit_id"], at=to_micros(row["at"]), actor=row["actor"], role=row["role"], action=row["action"],
        target=row["target"], reason=row["reason"], result=row["result"], detail=row["detail"],
        action_id=row["action_id"], finished_at=row["finished_at"] and to_micros(row["finished_at"]),
    )  # fmt: skip
