"""`/ws/agent`: one connection of an agent, from its upgrade to its end."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping

from starlette.websockets import WebSocket

from server.actions import Actions
from server.agents import Session, now_us
from server.auth.principal import Agent
from server.auth.revocations import Revocations
from server.auth.tokens import TokenError, Tokens, bearer
from server.counters import Counters
from server.errors import PeerError
from server.ingest import Ingest
from server.protocol.close_codes import CloseCode
from server.protocol.codec import Decoded, FrameError, decode_agent_message, encode
from server.protocol.error_codes import ErrorCode
from server.protocol.messages import (
    AGENT_SUBPROTOCOL,
    PROTOCOL_VERSION,
    About,
    ActionReport,
    ActionResult,
    AgentHeartbeat,
    Batch,
    Bye,
    Clock,
    Error,
    HeartbeatEcho,
    Hello,
    Inventory,
    Limits,
    Pulse,
    TokenExpiring,
    Welcome,
    Window,
)
from server.quotas import Quotas
from server.registry import Registry
from server.settings import Settings
from server.ws.guard import GuardedWebSocket
from server.ws.handshake import connection, offers, refuse, send_error, text_of

BAD_FRAMES_PER_MINUTE = 3
MAX_GREETING = 3
"""Sockets of one host that have not said hello yet: one token must not take the places of other hosts."""
TOKEN_WARNING_SECONDS = 300.0

_log = logging.getLogger("seatrial.agent")


class AgentEndpoint:
    """Admits agents and reads what they send. The reader never waits for the database."""

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
        self._actions = actions
        self._counters = counters
        self._greeting = 0
        """Upgraded, no hello yet."""
        self._greeting_of: Counter[tuple[str, str]] = Counter()
        """The same by (organisation, host)."""
        self._sockets: dict[GuardedWebSocket, Agent] = {}

    async def __call__(self, ws: WebSocket) -> None:
        """Serve one connection."""
        agent = await self._admit(ws)
        if agent is None:
            return
        # Counted in the step that checked the limit: a thousand that dial at once do not pass it together.
        greeting = self._begin_greeting(agent)
        try:
            await ws.accept(subprotocol=AGENT_SUBPROTOCOL)
            socket = connection(ws)
        except BaseException:
            greeting()
            raise
        self._sockets[socket] = agent
        self._close_if_revoked(socket, agent)  # it may have been while we accepted
        session: Session | None = None
        try:
            try:
                session = await self._greet(ws, socket, agent)
            finally:
                greeting()
            if session is not None:
                await self._serve(ws, socket, session, agent)
        except PeerError as error:
            send_error(socket, self._counters, error.error)
            self._close(socket, error.close_code, str(error))
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, the peer gets a close code and the log its trace
            _log.exception("agent connection failed", extra={"org": agent.org, "host": agent.host})
            self._close(socket, CloseCode.INTERNAL_ERROR, "internal error")
        finally:
            del self._sockets[socket]
            if session is not None:
                socket.on_writable = None
                self._registry.disconnect(session)

    def close_revoked(self) -> None:
        """The revocations changed: close those whom they concern."""
        for socket, agent in tuple(self._sockets.items()):
            self._close_if_revoked(socket, agent)

    def _close_if_revoked(self, socket: GuardedWebSocket, agent: Agent) -> None:
        if self._revocations.revoked(agent):
            socket.close(CloseCode.REVOKED, "the host or its token was revoked")

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
            await no(503, "draining", "the server is about to stop", Retry_After="5")
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
                await no(429, "host_connections", message, Retry_After="10")
                return None
            # One that takes its own connection over needs no room.
            if not self._registry.is_connected(agent.org, agent.host):
                organisation = self._quotas.of(agent.org)
                if self._registry.connected + self._greeting >= self._settings.max_agents:
                    await no(503, "agents", f"{self._settings.max_agents} agents are connected", Retry_After="30")
                    return None
                if organisation.agents + organisation.greeting >= organisation.limits.agents:
                    message = f"{organisation.limits.agents} agents of the organisation are connected"
                    await no(429, "org_agents", message, Retry_After="60")
                    return None
            return agent
        return None

    async def _greet(self, ws: WebSocket, socket: GuardedWebSocket, agent: Agent) -> Session | None:
        """Wait for hello and answer it."""
        try:
            async with asyncio.timeout(self._settings.hello_timeout_seconds):
                event = await ws.receive()
        except TimeoutError:
            seconds = self._settings.hello_timeout_seconds
            self._close(socket, CloseCode.HELLO_TIMEOUT, f"no hello within {seconds:g} s")
            return None
        if event["type"] == "websocket.disconnect":
            self._count_close(event)
            return None
        decoded = self._decode_first(text_of(event), socket)
        if decoded is None:
            return None
        hello = decoded.message
        if not isinstance(hello, Hello):
            raise PeerError(ErrorCode.HELLO_EXPECTED, "the first message must be hello", About(field="type"))
        if hello.protocol != PROTOCOL_VERSION:
            raise PeerError(
                ErrorCode.UNSUPPORTED_PROTOCOL,
                f"protocol = {hello.protocol}: expected {PROTOCOL_VERSION}",
                About(type="hello", field="protocol"),
            )
        if hello.oldest > hello.next_seq:
            raise PeerError(
                ErrorCode.BAD_REQUEST,
                f"oldest = {hello.oldest}: expected at most next_seq = {hello.next_seq}",
                About(type="hello", field="oldest"),
            )
        session, errors = self._registry.connect(agent.org, agent.host, hello, socket)
        self._welcome(socket, session)
        for error in (*_bad_containers(decoded), *errors):
            send_error(socket, self._counters, error)
        if session.progress.rejected:
            session.record.send_ack()
        for result in hello.unacknowledged_results:
            self._actions.result(session.record, result)
        self._actions.agent_ready(session.record)
        _log.debug(
            "agent connected",
            extra={
                "org": agent.org, "host": agent.host, "session": session.id, "epoch": hello.epoch,
                "connection": hello.connection, "containers": len(hello.containers),
            },
        )  # fmt: skip
        return session

    def _welcome(self, socket: GuardedWebSocket, session: Session) -> None:
        settings = self._settings
        earliest, latest = self._ingest.clock()
        # Sent directly, not offered: before it the peer may send nothing that fills its buffers.
        socket.try_send(
            encode(
                Welcome(
                    session=session.id, server_time=now_us(), acked_seq=session.progress.acked,
                    window=Window(batches=self._ingest.window_batches, bytes=self._ingest.window_bytes),
                    heartbeat_seconds=settings.heartbeat_seconds, clock=Clock(earliest=earliest, latest=latest),
                    limits=Limits(
                        frame_bytes=settings.frame_bytes, containers=settings.max_containers,
                        labels_bytes=settings.labels_bytes, log_text_bytes=settings.log_text_bytes,
                    ),
                )
            )
        )  # fmt: skip

    async def _serve(self, ws: WebSocket, socket: GuardedWebSocket, session: Session, agent: Agent) -> None:
        loop = asyncio.get_running_loop()
        record = session.record

        def on_writable() -> None:
            if record.session is session and record.ack_due:
                record.send_ack()

        socket.on_writable = on_writable
        timers = self._token_timers(socket, agent)
        try:
            while True:
                event = await ws.receive()
                if event["type"] == "websocket.disconnect":
                    self._count_close(event)
                    return
                if record.session is not session:
                    return  # taken over: what still arrives here is not heard
                session.last_frame = loop.time()
                self._counters.frames_received += 1
                text = text_of(event)
                if text is None:
                    self._close(socket, CloseCode.UNSUPPORTED_DATA, "binary frame: expected text")
                    return
                if not self._take(socket, session, text):
                    return
        finally:
            for timer in timers:
                timer.cancel()

    def _take(self, socket: GuardedWebSocket, session: Session, text: str) -> bool:
        """Handle one frame; False: the connection ends."""
        try:
            decoded = decode_agent_message(text)
        except FrameError as error:
            return self._bad_frame(socket, session, error)
        match decoded.message:
            case Batch() as batch:
                self._ingest.accept(session, decoded, batch, len(text) if text.isascii() else len(text.encode()))
            case AgentHeartbeat(at=at):
                self._heartbeat(socket, session, at)
            case Pulse() as pulse:
                self._ingest.pulse(session, pulse)
            case Inventory() as inventory:
                change = self._registry.inventory(session.record, inventory)
                for refusal in (*_bad_containers(decoded), *change.errors):
                    send_error(socket, self._counters, refusal)
                self._actions.agent_ready(session.record)
            case ActionResult() as done:
                report = ActionReport(
                    action_id=done.action_id, outcome=done.outcome, finished_at=done.finished_at, detail=done.detail
                )
                self._actions.result(session.record, report)
            case Bye():
                self._registry.leave(session)
                self._close(socket, CloseCode.NORMAL, "bye")
                return False
            case Hello():
                raise PeerError(ErrorCode.HELLO_EXPECTED, "a second hello", About(type="hello"))
        return True

    def _heartbeat(self, socket: GuardedWebSocket, session: Session, at: int) -> None:
        now = now_us()
        record = session.record
        record.last_seen_us = now
        record.epoch_dirty = True
        record.skew_ms = round((at - now) / 1000 + socket.round_trip_seconds * 500, 1)
        socket.try_send(encode(HeartbeatEcho(at=at, server_time=now)))

    def _bad_frame(self, socket: GuardedWebSocket, session: Session, error: FrameError) -> bool:
        send_error(socket, self._counters, error.error)
        about = error.error.about
        if about is not None and about.type == "batch" and about.seq is not None:
            self._ingest.skip(session, about.seq, str(error))
        if error.error.code == ErrorCode.UNKNOWN_TYPE:
            return True  # a newer agent may know more than we do
        now = session.last_frame
        session.bad_frames = [t for t in session.bad_frames if now - t < 60] + [now]
        if len(session.bad_frames) < BAD_FRAMES_PER_MINUTE:
            return True
        self._close(socket, CloseCode.BAD_REQUEST, f"{BAD_FRAMES_PER_MINUTE} unreadable frames within a minute")
        return False

    def _decode_first(self, text: str | None, socket: GuardedWebSocket) -> Decoded | None:
        if text is None:
            self._close(socket, CloseCode.UNSUPPORTED_DATA, "binary frame: expected text")
            return None
        try:
            return decode_agent_message(text)
        except FrameError as error:
            raise PeerError(ErrorCode(error.error.code), str(error), error.error.about) from None

    def _token_timers(self, socket: GuardedWebSocket, agent: Agent) -> list[asyncio.TimerHandle]:
        """A socket does not outlive its token: a warning before, the end at its expiry."""
        left = agent.expires_at - time.time()
        loop = asyncio.get_running_loop()
        warning = encode(TokenExpiring(expires_at=int(agent.expires_at * 1e6)))
        return [
            loop.call_later(max(0.0, min(left - TOKEN_WARNING_SECONDS, left / 2)), socket.try_send, warning),
            loop.call_later(max(0.0, left), self._close, socket, CloseCode.TOKEN_EXPIRED, "the token has expired"),
        ]

    def _close(self, socket: GuardedWebSocket, code: CloseCode, reason: str) -> None:
        self._counters.sockets_closed["agent", str(int(code))] += 1
        socket.close(code, reason)

    def _count_close(self, event: Mapping[str, object]) -> None:
        self._counters.sockets_closed["agent", str(event.get("code", 1005))] += 1


def _bad_containers(decoded: Decoded) -> list[Error]:
    return [
        Error(
            code=ErrorCode.INVALID_CONTAINER, message=f"{row.path}: {row.detail}", fatal=False,
            about=About(field=row.path),
        )
        for row in decoded.bad_rows
    ]  # fmt: skip
