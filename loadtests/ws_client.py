"""A browser's live socket, on `websocket-client`: blocking calls, so that it runs in a greenlet as well as in a thread.

One owner: nothing here locks. A wait that runs out leaves a half-read frame in place, and the next `receive` goes on
with it.
"""

import socket
import struct
import time
from contextlib import suppress
from urllib.parse import quote, urlsplit

import websocket
from websocket import ABNF

from server.protocol.codec import encode
from server.protocol.messages import LIVE_SUBPROTOCOL, LiveRequest

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""A longer message is refused; the server's own limits lie far below."""
PONG_SECONDS = 1.0
"""A pong, or whatever else is sent, may take so long at least, however late it is."""
CLOSE_SECONDS = 1.0
"""How long `close` waits for the server's answer."""
NO_CODE = 1005
LOST = 1006
"""RFC 6455's codes for a close frame without a code, and for a connection that ended without one."""


class LiveRefusedError(Exception):
    """The socket did not open.

    Attributes:
        status: of the HTTP response; None: there was none.
    """

    def __init__(self, status: int | None, message: str) -> None:
        super().__init__(message)
        self.status = status


class LiveClosedError(Exception):
    """The socket is closed.

    Attributes:
        code: the server's close code; 1006: the connection ended without one.
        reason: the server's words.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed {code}: {reason}" if reason else f"closed {code}")
        self.code = code
        self.reason = reason


class LiveSocket:
    """An open live socket."""

    def __init__(
        self, host: str, ticket: str, *, timeout_seconds: float = 10.0, receive_buffer_bytes: int | None = None
    ) -> None:
        """Dial `host` (`http://127.0.0.1:8000`) with a ticket.

        Args:
            host: the server's http(s) address, which is the Origin too.
            ticket: as from `POST /api/live-tickets`.
            timeout_seconds: longest wait for any answer while opening, and for a send.
            receive_buffer_bytes: of the kernel, so that the server soon feels a browser that reads slowly; None: as it is.

        Raises:
            LiveRefusedError: no connection, another status than 101, or another subprotocol.
        """
        parts = urlsplit(host)
        self._timeout_seconds = timeout_seconds
        narrow = ((socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes),) if receive_buffer_bytes else ()
        self._socket = _BoundedWebSocket(enable_multithread=False, skip_utf8_validation=True, sockopt=narrow)
        try:
            self._socket.connect(
                f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}/ws/live?ticket={quote(ticket, safe='')}",
                timeout=timeout_seconds,
                subprotocols=[LIVE_SUBPROTOCOL],
                origin=f"{parts.scheme}://{parts.netloc}",
                http_no_proxy=["*"],
                redirect_limit=0,
            )
        except websocket.WebSocketBadStatusException as error:
            raise LiveRefusedError(error.status_code, f"refused with HTTP {error.status_code}") from None
        except (websocket.WebSocketException, OSError) as error:
            raise LiveRefusedError(None, str(error)) from error

    def send(self, request: LiveRequest) -> None:
        """Send one message.

        Raises:
            TimeoutError: the server does not read.
            LiveClosedError: the socket is closed.
        """
        self._socket.wait_until(time.monotonic() + self._timeout_seconds)
        try:
            self._socket.send(encode(request).decode())
        except websocket.WebSocketTimeoutException:
            raise TimeoutError(f"the server took nothing for {self._timeout_seconds:g} s") from None
        except (websocket.WebSocketException, OSError) as error:
            raise LiveClosedError(LOST, str(error)) from None

    def receive(self, timeout_seconds: float) -> bytes:
        """The next text message.

        Raises:
            TimeoutError: none was complete in time; call again to go on.
            LiveClosedError: the socket is closed, or what came is no text message of an allowed size.
        """
        self._socket.wait_until(time.monotonic() + timeout_seconds)
        try:
            opcode, data = self._socket.recv_data()
        except websocket.WebSocketTimeoutException:
            raise TimeoutError from None
        except (websocket.WebSocketException, OSError) as error:
            self._socket.shutdown()
            raise LiveClosedError(LOST, str(error)) from None
        if opcode != ABNF.OPCODE_TEXT:
            self.close(1003)
            raise LiveClosedError(1003, "the server sent a binary message")
        return bytes(data)

    def cut(self) -> None:
        """End the connection without a word, as a lost network does. Idempotent."""
        self._socket.shutdown()

    def close(self, code: int = 1000) -> None:
        """Leave. Idempotent; waits at most `CLOSE_SECONDS` for the server's answer."""
        self._socket.wait_until(time.monotonic() + CLOSE_SECONDS)
        self._socket.leave(code)


class _BoundedWebSocket(websocket.WebSocket):  # type: ignore[misc] # websocket-client ships no types
    """Adds what websocket-client lacks: a deadline for a whole call, a bound on messages, the close code."""

    _deadline: float | None = None
    _fragments_bytes = 0

    def wait_until(self, deadline: float) -> None:
        """End every wait at this time of the monotonic clock."""
        self._deadline = deadline

    def leave(self, code: int) -> None:
        """Say close, wait for the answer until the deadline, end the connection. Idempotent.

        The library's `close` does the same with bare excepts: it swallows the GreenletExit by which Locust ends a user, who
        then lives on, and Locust waits for him for ever.
        """
        try:
            if self.connected:
                with suppress(websocket.WebSocketException, OSError, LiveClosedError):
                    self.send_close(code)
                    while True:
                        self.recv_frame()
        finally:
            self.shutdown()

    def recv_frame(self) -> ABNF:
        frame = super().recv_frame()
        if frame.opcode == ABNF.OPCODE_CLOSE:
            # Answering may fail, when the server closed and went: its code matters more.
            with suppress(websocket.WebSocketException, OSError):
                if self.connected:
                    self.send_close()
            self.shutdown()
            code = struct.unpack("!H", frame.data[:2])[0] if len(frame.data) >= 2 else NO_CODE
            raise LiveClosedError(code, frame.data[2:].decode(errors="replace"))
        if frame.opcode in {ABNF.OPCODE_TEXT, ABNF.OPCODE_BINARY, ABNF.OPCODE_CONT}:
            self._fragments_bytes = 0 if frame.fin else self._fragments_bytes + len(frame.data)
        return frame

    def _recv(self, bufsize: int) -> bytes:
        self._arm()
        if self._fragments_bytes + (self.frame_buffer.length or 0) > MAX_MESSAGE_BYTES:
            raise websocket.WebSocketPayloadException(f"a message of more than {MAX_MESSAGE_BYTES} bytes")
        return bytes(super()._recv(bufsize))

    def _send(self, data: bytes) -> int:
        # A pong is sent while we read, and a wait may be over just when its ping has come: it goes all the same.
        self._arm(PONG_SECONDS)
        return int(super()._send(data))

    def _arm(self, least_seconds: float = 0.0) -> None:
        if self._deadline is None or self.sock is None:
            return
        left = max(self._deadline - time.monotonic(), least_seconds)
        if left <= 0:
            raise websocket.WebSocketTimeoutException("the deadline passed")
        self.sock.settimeout(left)
