"""Hosts and their agents: invited once, given a token, renewed, revoked.

The tokens are issued by the database's clock, which also times revocations: one clock says which of two came first. A host's
revocation takes the same locks as what gives its agent a token, so a token is either issued before it, and ended by it, or
issued after it by an enrolment that is newer than it.
"""

import logging
from datetime import datetime

from server.auth.enrolment import Credentials, Enrolment, digest, new_token
from server.auth.principal import Agent, User
from server.auth.tokens import Tokens
from server.db.access import Access, is_agent_revoked
from server.db.administration import REVOKE, Attempt, admitted, lock_host, transaction
from server.db.pool import Database
from server.db.storage.times import to_micros
from server.registry import NO_EPOCH, Registry

_NEVER_SEEN = """
    INSERT INTO host (org, host, machine_id, hostname, agent_version, cores, epoch, acked_seq, last_seen)
    VALUES ($1, $2, '', '', '', 0, $3::uuid, 0, to_timestamp(0))
    ON CONFLICT (org, host) DO UPDATE SET first_seen = now() WHERE host.last_seen = to_timestamp(0)
"""

_log = logging.getLogger("seatrial.enrolment")


class Hosts:
    """Enrols, renews and revokes the agents of hosts."""

    def __init__(
        self, database: Database, registry: Registry, tokens: Tokens, access: Access, *, agent_token_seconds: int
    ) -> None:
        self._database = database
        self._registry = registry
        self._tokens = tokens
        self._access = access
        self._agent_token_seconds = agent_token_seconds

    async def enrol(self, user: User, host: str, *, reason: str, seconds: int) -> Enrolment:
        """Invite the agent of a host; an earlier invitation of the same host that was not used is void.

        Raises:
            DeniedError, DatabaseDownError.
        """
        token = new_token()
        async with admitted(self._database, Attempt(user, "host.enrol", f"host:{host}", reason)) as connection:
            await lock_host(connection, user.org, host)
            await connection.execute("DELETE FROM enrolment WHERE org = $1 AND host = $2", user.org, host)
            expires_at = await connection.fetchval(
                "INSERT INTO enrolment (digest, org, host, created_by, expires_at)"
                " VALUES ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5)) RETURNING expires_at",
                digest(token),
                user.org,
                host,
                user.subject,
                float(seconds),
            )
            await connection.execute(_NEVER_SEEN, user.org, host, NO_EPOCH)
        self._registry.invite(user.org, host)
        return Enrolment(host, token, to_micros(expires_at))

    async def exchange(self, token: str) -> Credentials | None:
        """A host's credentials for its invitation, once; None: unknown, used, void or expired.

        Raises:
            DatabaseDownError: it is not known whether it was used up.
        """
        async with transaction(self._database) as connection:
            row = await connection.fetchrow(
                "DELETE FROM enrolment WHERE digest = $1"
                " RETURNING org, host, expires_at > clock_timestamp() AS alive, clock_timestamp() AS now",
                digest(token),
            )
        if row is None or not row["alive"]:
            return None
        _log.info("agent enrolled", extra={"org": row["org"], "host": row["host"]})
        return self._credentials(row["org"], row["host"], row["now"])

    async def renew(self, agent: Agent) -> Credentials | None:
        """New credentials for an agent whose token is still good; None: it was revoked.

        Raises:
            DatabaseDownError: it cannot be said now; asking again is safe.
        """
        async with transaction(self._database) as connection:
            await lock_host(connection, agent.org, agent.host)
            if await is_agent_revoked(connection, agent):
                return None
            now = await connection.fetchval("SELECT clock_timestamp()")
        return self._credentials(agent.org, agent.host, now)

    async def revoke(self, user: User, host: str, *, reason: str) -> int | None:
        """End every token and invitation of a host up to now; returns the moment, None: there is no such host.

        Raises:
            DeniedError, DatabaseDownError.
        """
        if not await self._exists(user.org, host):
            return None
        async with admitted(self._database, Attempt(user, "host.revoke", f"host:{host}", reason)) as connection:
            await lock_host(connection, user.org, host)
            # Waits for an exchange that is under way: its token is older than the moment noted below.
            await connection.execute("DELETE FROM enrolment WHERE org = $1 AND host = $2", user.org, host)
            (row,) = await connection.fetch(REVOKE, user.org, "host", host, user.subject, reason)
        await self._access.refresh_soon()
        return to_micros(row["revoked_at"])

    async def _exists(self, org: str, host: str) -> bool:
        if (org, host) in self._registry.records:
            return True
        async with transaction(self._database) as connection:
            return bool(
                await connection.fetchval("SELECT EXISTS (SELECT FROM host WHERE org = $1 AND host = $2)", org, host)
            )

    def _credentials(self, org: str, host: str, now: datetime) -> Credentials:
        issued_at = now.timestamp()
        seconds = self._agent_token_seconds
        token = self._tokens.mint_agent(org=org, host=host, seconds=seconds, issued_at=issued_at)
        return Credentials(token, host, org, (int(issued_at) + seconds) * 1_000_000)
