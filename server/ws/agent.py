"""`/ws/agent`: who may connect as an agent. What an admitted one says is `server.ws.agent_connection`'s."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable

from starlette.websockets import WebSocket

from server.actions import Actions
from server.admission import Admission
from server.auth.principal import Agent
from server.auth.revocations import Revocations
from server.auth.tokens import TokenError, Tokens, bearer
from server.counters import Counters
from server.ingest import Ingest
from server.protocol.close_codes import CloseCode
from server.protocol.messages import AGENT_SUBPROTOCOL
from server.quotas import Quotas
from server.registry import Registry
from server.settings import Settings
from server.ws.agent_connection import AgentConnection, Core
from server.ws.handshake import connection, offers, refuse

MAX_GREETING = 3
"""Sockets of one host that have not said hello yet: one token must not take the places of other hosts."""


class AgentEndpoint:
    """Admits agents, and hands each connection to what serves it."""

    def __init__(
        self,
        settings: Settings,
        tokens: Tokens,
        revocations: Revocations,
        quotas: Quotas,
        registry: Registry,
        ingest: Ingest,
        actions: Actions,
        counters: Counters,
    ) -> None:
        self._settings = settings
        self._tokens = tokens
        self._revocations = revocations
        self._quotas = quotas
        self._registry = registry
        self._ingest = ingest
        self._counters = counters
        self._core = Core(settings, registry, ingest, actions, quotas, ingest.budget, counters)
        self._admission = Admission(settings.reconnects_per_second)
        self._greeting = 0
        """Upgraded, no hello yet."""
        self._greeting_of: Counter[tuple[str, str]] = Counter()
        """The same by (organisation, host)."""
        self._connections: set[AgentConnection] = set()

    async def __call__(self, ws: WebSocket) -> None:
        """Admit one connection; it lives on when this has ended."""
        agent = await self._admit(ws)
        if agent is None:
            return
        # Counted in the step that checked the limit: a thousand that dial at once do not pass it together.
        greeted = self._begin_greeting(agent)
        try:
            await ws.accept(subprotocol=AGENT_SUBPROTOCOL)
            socket = connection(ws)
        except BaseException:
            greeted()
            raise
        serving = AgentConnection(self._core, socket, agent, greeted, self._connections.discard)
        self._connections.add(serving)
        socket.hand_over(serving)
        self._close_if_revoked(serving)  # it may have been while we accepted

    def close_revoked(self) -> None:
        """The revocations changed: close those whom they concern."""
        for serving in tuple(self._connections):
            self._close_if_revoked(serving)

    def _close_if_revoked(self, serving: AgentConnection) -> None:
        if self._revocations.revoked(serving.agent):
            serving.close(CloseCode.REVOKED, "the host or its token was revoked")

    def _begin_greeting(self, agent: Agent) -> Callable[[], None]:
        """Count an upgrade that has not said hello; returns what ends it. One that takes over takes no place of others."""
        key = (agent.org, agent.host)
        organisation = self._quotas.of(agent.org)
        place = 0 if self._registry.is_connected(*key) else 1
        self._greeting += place
        organisation.greeting += place
        self._greeting_of[key] += 1

        def end() -> None:
            self._greeting -= place
            organisation.greeting -= place
            self._greeting_of[key] -= 1
            if not self._greeting_of[key]:
                del self._greeting_of[key]

        return end

    async def _admit(self, ws: WebSocket) -> Agent | None:
        async def no(status: int, reason: str, message: str, **headers: str) -> None:
            await refuse(ws, self._counters, "agent", status, reason, message, **headers)

        if self._ingest.draining:
            await no(503, "draining", "the server is about to stop", Retry_After=_spread(5))
        elif "origin" in ws.headers:
            await no(403, "origin", "agents send no Origin header; browsers use /ws/live")
        elif not offers(ws, AGENT_SUBPROTOCOL):
            await no(400, "subprotocol", f"expected Sec-WebSocket-Protocol: {AGENT_SUBPROTOCOL}")
        else:
            try:
                agent = self._tokens.agent(bearer(ws.headers.get("authorization")))
            except TokenError as error:
                await no(401, error.reason, str(error), WWW_Authenticate="Bearer")
                return None
            if self._revocations.revoked(agent):
                message = "the host or its token was revoked; enrol it again"
                await no(401, "agent_revoked", message, WWW_Authenticate="Bearer")
                return None
            if self._greeting_of[agent.org, agent.host] >= MAX_GREETING:
                message = f"{MAX_GREETING} connections of this host have not said hello yet"
                await no(429, "host_connections", message, Retry_After=_spread(10))
                return None
            # One that takes its own connection over needs no room.
            if not self._registry.is_connected(agent.org, agent.host):
                organisation = self._quotas.of(agent.org)
                if self._registry.connected + self._greeting >= self._settings.max_agents:
                    await no(
                        503, "agents", f"{self._settings.max_agents} agents are connected", Retry_After=_spread(30)
                    )
                    return None
                if organisation.agents + organisation.greeting >= organisation.limits.agents:
                    message = f"{organisation.limits.agents} agents of the organisation are connected"
                    await no(429, "org_agents", message, Retry_After=_spread(60))
                    return None
            # Last: who may not come in takes no place of those who may.
            if wait := self._admission.wait_seconds((agent.org, agent.host), asyncio.get_running_loop().time()):
                rate = self._settings.reconnects_per_second
                await no(503, "pace", f"{rate} agents are admitted in a second", Retry_After=str(wait))
                return None
            return agent
        return None


def _spread(seconds: int) -> str:
    """Retry-After of so many seconds up to twice that: those turned away together must not come back together."""
    return str(seconds + random.randrange(seconds + 1))
