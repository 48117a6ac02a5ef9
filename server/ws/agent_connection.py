"""One connection of an agent, from its upgrade to its end: what it says, and what is done about it.

Nothing here waits. The socket calls with each message; the reader never waits for the database.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.actions import Actions
from server.agents import Session, now_us
from server.auth.principal import Agent
from server.counters import Counters
from server.errors import PeerError
from server.ingest import Ingest
from server.protocol.close_codes import CloseCode
from server.protocol.codec import Decoded, FrameError, decode_agent_message, encode
from server.protocol.error_codes import ErrorCode
from server.protocol.messages import (
    PROTOCOL_VERSION,
    About,
    ActionReport,
    ActionResult,
    AgentHeartbeat,
    AgentMessage,
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
)
from server.quotas import Quotas
from server.registry import Registry
from server.settings import Settings
from server.windows import Budget
from server.ws.direct import DirectWebSocket
from server.ws.handshake import send_error

BAD_FRAMES_PER_MINUTE = 3
TOKEN_WARNING_SECONDS = 300.0

_log = logging.getLogger("seatrial.agent")


@dataclass(frozen=True, slots=True)
class Core:
    """What a connection works with, the same for all."""

    settings: Settings
    registry: Registry
    ingest: Ingest
    actions: Actions
    quotas: Quotas
    budget: Budget
    counters: Counters


class AgentConnection:
    """The receiver of one agent's socket.

    Args:
        core: of the server.
        socket: upgraded, to be handed over to this.
        agent: whom its token names.
        greeted: called once, when the hello has come or nothing comes any more.
        ended: called once, with this, at the end.
    """

    __slots__ = ("_core", "_ended", "_greeted", "_session", "_socket", "_timer", "agent")

    def __init__(
        self,
        core: Core,
        socket: DirectWebSocket,
        agent: Agent,
        greeted: Callable[[], None],
        ended: Callable[["AgentConnection"], None],
    ) -> None:
        self._core = core
        self._socket = socket
        self.agent = agent
        self._greeted: Callable[[], None] | None = greeted
        self._ended = ended
        self._session: Session | None = None
        self._timer = asyncio.get_running_loop().call_later(core.settings.hello_timeout_seconds, self._no_hello)

    def close(self, code: CloseCode, reason: str) -> None:
        """Begin the closing handshake. Idempotent."""
        self._socket.close(code, reason)

    # -- what the socket calls

    def on_text(self, data: bytes) -> None:
        """One frame."""
        session = self._session
        try:
            if session is None:
                self._hello(data)
            elif session.record.session is session:  # else it was taken over: what still arrives is not heard
                # Not asyncio.get_running_loop(): that is a system call a message, for the process id.
                session.last_frame = self._socket.loop.time()
                self._core.counters.frames_received += 1
                self._take(session, data)
        except PeerError as error:
            send_error(self._socket, self._core.counters, error.error)
            self.close(error.close_code, str(error))
        except Exception:  # noqa: BLE001 - whatever it is, the peer gets a close code and the log its trace
            _log.exception("agent connection failed", extra={"org": self.agent.org, "host": self.agent.host})
            self.close(CloseCode.INTERNAL_ERROR, "internal error")

    def on_binary(self) -> None:
        """Not of this protocol."""
        self.close(CloseCode.UNSUPPORTED_DATA, "binary frame: expected text")

    def on_writable(self) -> None:
        """The newest ack waited for this."""
        session = self._session
        if session is not None and session.record.session is session and session.record.ack_due:
            session.record.send_ack()

    def on_held(self, change: int) -> bool:
        """Half a message takes memory like rows that wait."""
        core = self._core
        organisation = core.quotas.of(self.agent.org)
        if change > 0:
            return core.budget.hold(organisation, change)
        core.budget.give(organisation, -change)
        return True

    def on_end(self, code: int) -> None:
        """The socket is closed or lost."""
        self._core.counters.sockets_closed["agent", str(code)] += 1
        self._timer.cancel()
        self._end_greeting()
        if self._session is not None:
            self._core.registry.disconnect(self._session)
        self._ended(self)

    # -- hello

    def _no_hello(self) -> None:
        seconds = self._core.settings.hello_timeout_seconds
        self.close(CloseCode.HELLO_TIMEOUT, f"no hello within {seconds:g} s")

    def _end_greeting(self) -> None:
        greeted, self._greeted = self._greeted, None
        if greeted is not None:
            greeted()

    def _hello(self, data: bytes) -> None:
        """Answer the first message.

        Raises:
            PeerError: it is no hello that we can serve.
        """
        core, socket = self._core, self._socket
        self._end_greeting()
        try:
            decoded = decode_agent_message(data)
        except FrameError as error:
            raise PeerError(ErrorCode(error.error.code), str(error), error.error.about) from None
        hello = _checked(decoded.message)
        session, errors = core.registry.connect(self.agent.org, self.agent.host, hello, socket)
        self._session = session
        self._timer.cancel()
        self._timer = self._token_timer()
        core.ingest.windows.open(session)
        self._welcome(session)
        for refusal in (*_bad_containers(decoded), *errors):
            send_error(socket, core.counters, refusal)
        if session.progress.rejected:
            session.record.send_ack()
        for result in hello.unacknowledged_results:
            core.actions.result(session.record, result)
        core.actions.agent_ready(session.record)
        _log.debug(
            "agent connected",
            extra={
                "org": self.agent.org, "host": self.agent.host, "session": session.id, "epoch": hello.epoch,
                "connection": hello.connection, "containers": len(hello.containers),
            },
        )  # fmt: skip

    def _welcome(self, session: Session) -> None:
        settings = self._core.settings
        earliest, latest = self._core.ingest.clock()
        # Sent directly, not offered: before it the peer may send nothing that fills its buffers.
        self._socket.try_send(
            encode(
                Welcome(
                    session=session.id, server_time=now_us(), acked_seq=session.progress.acked,
                    window=session.window, heartbeat_seconds=settings.heartbeat_seconds,
                    clock=Clock(earliest=earliest, latest=latest),
                    limits=Limits(
                        frame_bytes=settings.frame_bytes, containers=settings.max_containers,
                        labels_bytes=settings.labels_bytes, log_text_bytes=settings.log_text_bytes,
                    ),
                )
            )
        )  # fmt: skip

    # -- after hello

    def _take(self, session: Session, data: bytes) -> None:
        """Handle one frame.

        Raises:
            PeerError: the connection ends.
        """
        core = self._core
        try:
            decoded = decode_agent_message(data)
        except FrameError as error:
            self._bad_frame(session, error)
            return
        match decoded.message:
            case Batch() as batch:
                core.ingest.accept(session, decoded, batch, len(data))
            case AgentHeartbeat(at=at):
                self._heartbeat(session, at)
            case Pulse() as pulse:
                core.ingest.pulse(session, pulse)
            case Inventory() as inventory:
                change = core.registry.inventory(session.record, inventory)
                for refusal in (*_bad_containers(decoded), *change.errors):
                    send_error(self._socket, core.counters, refusal)
                core.actions.agent_ready(session.record)
            case ActionResult() as done:
                report = ActionReport(
                    action_id=done.action_id, outcome=done.outcome, finished_at=done.finished_at, detail=done.detail
                )
                core.actions.result(session.record, report)
            case Bye():
                core.registry.leave(session)
                self.close(CloseCode.NORMAL, "bye")
            case Hello():
                raise PeerError(ErrorCode.HELLO_EXPECTED, "a second hello", About(type="hello"))

    def _heartbeat(self, session: Session, at: int) -> None:
        now = now_us()
        record = session.record
        record.last_seen_us = now
        record.epoch_dirty = True
        record.skew_ms = round((at - now) / 1000 + self._socket.round_trip_seconds * 500, 1)
        self._socket.try_send(encode(HeartbeatEcho(at=at, server_time=now)))

    def _bad_frame(self, session: Session, error: FrameError) -> None:
        send_error(self._socket, self._core.counters, error.error)
        about = error.error.about
        if about is not None and about.type == "batch" and about.seq is not None:
            self._core.ingest.skip(session, about.seq, str(error))
        if error.error.code == ErrorCode.UNKNOWN_TYPE:
            return  # a newer agent may know more than we do
        now = session.last_frame
        session.bad_frames = [t for t in session.bad_frames if now - t < 60] + [now]
        if len(session.bad_frames) >= BAD_FRAMES_PER_MINUTE:
            self.close(CloseCode.BAD_REQUEST, f"{BAD_FRAMES_PER_MINUTE} unreadable frames within a minute")

    # -- a socket does not outlive its token

    def _token_timer(self) -> asyncio.TimerHandle:
        """A warning before; the end at its expiry."""
        left = self.agent.expires_at - time.time()
        delay = max(0.0, min(left - TOKEN_WARNING_SECONDS, left / 2))
        return asyncio.get_running_loop().call_later(delay, self._token_expires_soon)

    def _token_expires_soon(self) -> None:
        self._socket.try_send(encode(TokenExpiring(expires_at=int(self.agent.expires_at * 1e6))))
        left = max(0.0, self.agent.expires_at - time.time())
        self._timer = asyncio.get_running_loop().call_later(
            left, self.close, CloseCode.TOKEN_EXPIRED, "the token has expired"
        )


def _checked(hello: AgentMessage) -> Hello:
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
    return hello


def _bad_containers(decoded: Decoded) -> list[Error]:
    return [
        Error(
            code=ErrorCode.INVALID_CONTAINER, message=f"{row.path}: {row.detail}", fatal=False,
            about=About(field=row.path),
        )
        for row in decoded.bad_rows
    ]  # fmt: skip
