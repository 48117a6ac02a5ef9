"""Live tickets: random, stored hashed, short-lived, redeemed once by an atomic statement.

A ticket carries the identity of the token that asked for it: what revokes the token revokes the ticket and its socket.
"""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta

from server.auth.principal import User
from server.db.pool import Database

TICKET_BYTES = 32


class Tickets:
    """Issues and redeems tickets for /ws/live."""

    def __init__(self, database: Database, *, ticket_seconds: int) -> None:
        self._database = database
        self.ticket_seconds = ticket_seconds

    async def issue(self, user: User, origin: str | None, topics: frozenset[str] | None = None) -> str:
        """A new ticket for a user, bound to the Origin that asked for it (None: not a browser), and perhaps to topics.

        Raises:
            DatabaseDownError: it could not be stored.
        """
        ticket = secrets.token_urlsafe(TICKET_BYTES)
        async with self._database.acquire() as connection:
            await connection.execute(
                "INSERT INTO live_ticket (digest, org, subject, role, origin, session_expires_at, expires_at, topics,"
                " token_id, token_issued_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                _digest(ticket),
                user.org,
                user.subject,
                user.role,
                origin,
                datetime.fromtimestamp(user.expires_at, UTC),
                datetime.now(UTC) + timedelta(seconds=self.ticket_seconds),
                None if topics is None else sorted(topics),
                user.token_id,
                datetime.fromtimestamp(user.issued_at, UTC),
            )
        return ticket

    async def redeem(self, ticket: str, origin: str | None) -> User | None:
        """The user of a ticket, once; None: unknown, used, expired, or issued to another Origin.

        Raises:
            DatabaseDownError: it could not be looked up; the ticket may still be good.
        """
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(
                "DELETE FROM live_ticket WHERE digest = $1 RETURNING *, expires_at > now() AS alive", _digest(ticket)
            )
        if row is None or not row["alive"] or (row["origin"] is not None and row["origin"] != origin):
            return None
        return User(
            subject=row["subject"], org=row["org"], role=row["role"], expires_at=row["session_expires_at"].timestamp(),
            issued_at=row["token_issued_at"].timestamp(), token_id=row["token_id"],
            topics=None if row["topics"] is None else frozenset(row["topics"]),
        )  # fmt: skip


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("utf-8", "surrogateescape")).digest()
