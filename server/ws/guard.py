"""Uvicorn's two protocols with the guards that it lacks (measured on 0.54), and sending that never waits.

Each guard names what happens without it:

- a handshake with a header line over 8 KiB or over 128 headers gets no answer, and breaks the shutdown of the whole server;
- a request whose headers trickle in stays open for ever;
- endless empty fragments, or a message begun and never finished, hold memory and CPU;
- a flood of pings is answered ping by ping;
- a peer that stops reading keeps its connection, buffer and task: `transport.close()` waits for it;
- the kernel takes megabytes for a peer that reads slowly, and none of it can be replaced by newer;
- closing at once at shutdown resets the connection, and the peer may lose the last acks.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import OPEN

from server.protocol.close_codes import CloseCode

SCOPE_KEY: Final = "seatrial.socket"
"""Where the endpoint finds its connection in the ASGI scope."""

HEADER_TIMEOUT_SECONDS = 10.0
MESSAGE_TIMEOUT_SECONDS = 10.0
MAX_FRAGMENTS = 64
MAX_CONTROL_FRAMES_PER_SECOND = 50
ABORT_AFTER_SECONDS = 1.0
CLOSE_TIMEOUT_SECONDS = 2.0


def _text_head(length: int) -> bytes:
    """Of a server's whole text frame (RFC 6455, section 5.2)."""
    if length < 126:
        return bytes((0x81, length))
    if length < 1 << 16:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")


class GuardedHttp(HttpToolsProtocol):
    """HTTP with a deadline for the headers of each request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock of the first request."""
        super().connection_made(transport)
        self._header_timer: asyncio.TimerHandle | None = self.loop.call_later(
            HEADER_TIMEOUT_SECONDS, self._headers_late
        )

    def on_message_begin(self) -> None:
        """A further request on a kept-alive connection has its own clock."""
        super().on_message_begin()
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_TIMEOUT_SECONDS, self._headers_late)

    def on_headers_complete(self) -> None:
        """In time."""
        self._stop_header_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """No clock outlives its connection."""
        self._stop_header_timer()
        super().connection_lost(exc)
        self._untie()

    def handle_websocket_upgrade(self) -> None:
        """The connection goes on without this object."""
        super().handle_websocket_upgrade()
        self._untie()

    def _untie(self) -> None:
        # Parser and protocol hold each other, and the garbage collector that would find out runs rarely.
        self.parser = cast("Any", None)
        self.cycle = cast("Any", None)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_late(self) -> None:
        self._header_timer = None
        # After an upgrade the transport belongs to the WebSocket protocol, whose connection is another object.
        if self in self.connections and not self.transport.is_closing():
            self.transport.abort()


class GuardedWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket with guards, and with `server.sockets.Socket`'s plain calls."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = CLOSE_TIMEOUT_SECONDS
        self.on_writable: Callable[[], None] | None = None
        """Called when the peer, having lagged, reads again."""
        self._message_timer: asyncio.TimerHandle | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        self._control_frames = 0
        self._control_second = 0

    # -- Socket

    @property
    def round_trip_seconds(self) -> float:
        """Of the last ping and its pong; 0.0 before the first."""
        return self.last_ping_rtt

    def try_send(self, frame: bytes) -> bool:
        """Send one text frame now; False: the peer does not keep up, or is gone."""
        if (
            not self.writable.is_set()
            or self.close_sent
            or self.disconnected
            or not self.handshake_complete
            or self.conn.state is not OPEN
            or self.transport.is_closing()
        ):
            return False
        # What `conn.send_text` would make, without its frame object: we send no fragments, extensions or masks.
        self.transport.write(_text_head(len(frame)) + frame)
        return True

    def limit_unsent(self, limit_bytes: int) -> None:
        """Let the kernel take no more than it can soon send, so that what waits, waits where newer can take its place.

        Without it the kernel's send buffer grows to megabytes (net.ipv4.tcp_wmem), which a slow reader gets old and whole.
        """
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
            with suppress(OSError):  # a kernel without it: slow readers get older frames
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limit_bytes)

    def close(self, code: CloseCode, reason: str = "") -> None:
        """Begin the closing handshake. Idempotent; a peer that does not answer is aborted."""
        if self.close_sent or self.disconnected or not self.handshake_complete or self.transport.is_closing():
            return
        if self.conn.state is not OPEN:
            return  # the peer closes, and has its answer: its close is the next thing that is read
        self.queue.put_nowait({"type": "websocket.disconnect", "code": int(code), "reason": reason})
        self.conn.send_close(int(code), reason.encode()[:120].decode(errors="ignore"))
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.stop_keepalive()
        self._stop_message_timer()
        # The peer's answer must be read, or closing resets the connection and what we sent last is lost.
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.abort)

    def abort(self) -> None:
        """Drop the connection at once."""
        self.transport.abort()

    # -- guards

    def data_received(self, data: bytes) -> None:
        """A handshake that cannot be read is answered and ended."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.handshake_initiated = self.handshake_complete = self.close_sent = True
            output = b"".join(self.conn.data_to_send())
            self.transport.write(output or b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n")
            self.transport.close()

    def handle_connect(self, event: Request) -> None:
        """Let the endpoint find this connection."""
        super().handle_connect(event)
        if not self.close_sent:
            cast("dict[str, object]", self.scope)[SCOPE_KEY] = self

    def handle_ping(self) -> None:
        """Answer, but no flood."""
        if self._too_many_control_frames():
            self.close(CloseCode.RATE_LIMITED, f"more than {MAX_CONTROL_FRAMES_PER_SECOND} control frames in a second")
            return
        super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """Unasked pongs count too."""
        if self._too_many_control_frames():
            self.close(CloseCode.RATE_LIMITED, f"more than {MAX_CONTROL_FRAMES_PER_SECOND} control frames in a second")
            return
        super().handle_pong(event)

    def handle_text(self, event: Frame) -> None:
        """Start the clock of a message in fragments."""
        if not event.fin:
            self._start_message_timer()
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        """Start the clock of a message in fragments."""
        if not event.fin:
            self._start_message_timer()
        super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        """At most so many fragments."""
        if self.close_sent:
            return
        if len(self.frames) >= MAX_FRAGMENTS:
            self.frames = []
            self.close(CloseCode.POLICY_VIOLATION, f"more than {MAX_FRAGMENTS} fragments in a message")
            return
        if event.fin:
            self._stop_message_timer()
        super().handle_cont(event)

    def handle_close(self, event: Frame) -> None:
        """A peer that closes and does not read is aborted: `close()` would wait for it."""
        super().handle_close(event)
        self._abort_soon()

    def keepalive_timeout(self) -> None:
        """A peer without a pong is aborted: `close()` would wait for it to read. Its endpoint is told 1011, as the peer is."""
        if not self.close_sent and not self.transport.is_closing():
            code, reason = int(CloseCode.INTERNAL_ERROR), "keepalive ping timeout"
            self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        super().keepalive_timeout()
        self._abort_soon()

    def handle_parser_exception(self) -> None:
        """A peer that broke the framing may not read either."""
        self._stop_message_timer()
        super().handle_parser_exception()
        self._abort_soon()

    def resume_writing(self) -> None:
        """The peer reads again."""
        super().resume_writing()
        if self.on_writable is not None:
            self.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer outlives its connection."""
        self._stop_message_timer()
        if self._abort_timer is not None:
            self._abort_timer.cancel()
            self._abort_timer = None
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """1012, and wait (briefly) for the answer."""
        if self.handshake_complete and not self.close_sent:
            self.close(CloseCode.SERVICE_RESTART, "the server restarts")
        else:
            # It cancels the deadline of a close under way, and `transport.close()` waits for the peer to read.
            super().shutdown()
            self._abort_soon()

    def _abort_soon(self) -> None:
        if not self.disconnected and self._abort_timer is None:
            self._abort_timer = self.loop.call_later(ABORT_AFTER_SECONDS, self.abort)

    def _start_message_timer(self) -> None:
        self._stop_message_timer()
        self._message_timer = self.loop.call_later(MESSAGE_TIMEOUT_SECONDS, self._message_late)

    def _stop_message_timer(self) -> None:
        if self._message_timer is not None:
            self._message_timer.cancel()
            self._message_timer = None

    def _message_late(self) -> None:
        self._message_timer = None
        self.close(CloseCode.SILENT, f"a message was begun and not finished in {MESSAGE_TIMEOUT_SECONDS:g} s")

    def _too_many_control_frames(self) -> bool:
        second = int(self.loop.time())
        if second != self._control_second:
            self._control_second, self._control_frames = second, 0
        self._control_frames += 1
        return self._control_frames > MAX_CONTROL_FRAMES_PER_SECOND
