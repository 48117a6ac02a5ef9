"""Messages handed straight to their receiver: no task, no queue and no coroutine between a socket and what it is for.

An ASGI application gets each message through a queue, a future and every middleware's frame on the way in; and its task,
with those frames, lives as long as the connection. For ten thousand agents that send every second this was a third of the
server's CPU and of its memory. So an endpoint admits and accepts a connection as ASGI has it, then hands it over and ends.

Whole text frames are read here, where they arrive in one piece, which is nearly always. Anything else (fragments, pings,
closes, errors) goes frame by frame to the full parser of websockets.
"""

from asyncio import Queue
from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

from uvicorn.protocols.utils import ClientDisconnected
from websockets.frames import apply_mask  # type: ignore[attr-defined]  # in C wherever that was built
from websockets.protocol import OPEN

from server.protocol.close_codes import CloseCode
from server.ws.guard import GuardedWebSocket

_WHOLE_TEXT: Final = 0x81
"""First byte of a text frame that is a message of its own, without extensions."""
_MASKED: Final = 0x80
_MASKED_MEDIUM: Final = 0x80 | 126
"""Second byte of a client's frame whose payload takes two bytes to tell its length."""
_MEDIUM_HEAD_BYTES: Final = 8
_NO_CODE: Final = 1005
_HEAD_BYTES: Final = 14
"""Longest head of a client's frame: two bytes, eight of length, four of mask."""


class Receiver(Protocol):
    """What a handed-over connection is for. Plain functions: the reader waits for nobody."""

    def on_text(self, data: bytes) -> None:
        """A text message, valid UTF-8."""

    def on_binary(self) -> None:
        """A binary message; its content is gone."""

    def on_end(self, code: int) -> None:
        """Nothing comes any more: closed by either side with `code`, or lost. Called once."""

    def on_writable(self) -> None:
        """The peer, having lagged, reads again."""

    def on_held(self, change: int) -> bool:
        """So many bytes more (less, below zero) are held of a message that is not complete. False: there is no room."""


class _Events:
    """Stands where the queue of an ASGI connection stood: only its end matters now."""

    __slots__ = ("_receiver", "_soon")

    def __init__(self, receiver: Receiver, soon: Any) -> None:
        self._receiver: Receiver | None = receiver
        self._soon = soon

    def put_nowait(self, event: Mapping[str, Any]) -> None:
        receiver = self._receiver
        if event["type"] == "websocket.disconnect" and receiver is not None:
            self._receiver = None
            # Not at once: whoever closes the connection is in the middle of something.
            self._soon(receiver.on_end, event.get("code", _NO_CODE))


class DirectWebSocket(GuardedWebSocket):
    """A guarded WebSocket that can be handed over to a `Receiver`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._receiver: Receiver | None = None
        self._partial: bytearray | None = None
        """The beginning of a frame whose rest has not come."""
        self._awaited_bytes = 0
        """How long it must be before it is worth looking at again."""
        self._held_bytes = 0
        """Of what has come of a message: the receiver knows of these."""

    def hand_over(self, receiver: Receiver) -> None:
        """From now on `receiver` gets what comes. What came before it goes first; the ASGI application may end."""
        waiting = self.queue
        self._receiver = receiver
        self.on_writable = receiver.on_writable
        self.queue = cast("Queue[Any]", _Events(receiver, self.loop.call_soon))
        # What only a handshake needs would stay as long as the connection.
        self.scope = cast("Any", None)
        self.request = self.response = cast("Any", None)
        self.app_state = {}
        while not waiting.empty():
            event = cast("dict[str, Any]", waiting.get_nowait())
            if event["type"] == "websocket.disconnect":
                self.queue.put_nowait(cast("Any", event))
            elif (text := event.get("text")) is not None:
                receiver.on_text(text.encode())
            elif event["type"] == "websocket.receive":
                receiver.on_binary()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    async def run_asgi(self) -> None:
        """Run the application; a connection that it handed over lives on."""
        try:
            await self.app(self.scope, self.receive, self.send)
            # A peer that left in the meantime gets no answer, and that is no fault of the application.
            if not (self.handshake_complete or self.initial_response or self.transport.is_closing()):
                raise RuntimeError("the application ended without answering the handshake")
        except ClientDisconnected:
            pass
        except BaseException:
            self.logger.exception("the application failed")
            self.send_500_response()
            self.transport.close()
        if self._receiver is None and self.close_timer is None:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Read whole text messages here, and give everything else to the parser, frame by frame."""
        if self._receiver is None:
            super().data_received(data)
            return
        if self._partial is not None:
            self._partial += data
            if len(self._partial) < self._awaited_bytes:
                self._account()
                return
            data, self._partial = bytes(self._partial), None
            if not self.frames:
                self._stop_message_timer()  # what is begun next has a time of its own
        self._read(data)
        if self._held_bytes or self.frames or self._partial:
            self._account()

    def _read(self, data: bytes) -> None:
        start, end = 0, len(data)
        while start < end:
            if end - start > _MEDIUM_HEAD_BYTES and data[start + 1] == _MASKED_MEDIUM:  # what a batch nearly always is
                body = start + _MEDIUM_HEAD_BYTES
                stop = body + (data[start + 2] << 8 | data[start + 3])
            else:
                body, stop = _frame_at(data, start)
            if stop > end:
                self._keep(data[start:], stop - start)
                return
            whole = data[start] == _WHOLE_TEXT and data[start + 1] & _MASKED
            if whole and self._parser_rests and stop - body <= self.config.ws_max_size:
                self._text(apply_mask(data[body:stop], data[body - 4 : body]))
            else:
                super().data_received(data[start:stop])
            start = stop

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing that was begun is kept, and nothing points in a circle: the garbage collector runs rarely."""
        self._partial, self.frames = None, []
        self._account()
        super().connection_lost(exc)
        self.conn.parser.close()
        self._receiver = self.on_writable = None

    def send_receive_event_to_app(self) -> None:
        """A message that the parser read."""
        receiver = self._receiver
        if receiver is None:
            super().send_receive_event_to_app()
            return
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.curr_msg_data_type == "text":
            self._text(bytes(data))
        elif not self.close_sent:
            receiver.on_binary()

    def _account(self) -> None:
        """Tell the receiver what is held of a message that is not complete, and let none take for ever."""
        held = len(self._partial or b"") + sum(map(len, self.frames))
        change, self._held_bytes = held - self._held_bytes, held
        begun = self._partial is not None or bool(self.frames)
        if not begun:
            self._stop_message_timer()
        elif self._message_timer is None and not self.close_sent:
            self._start_message_timer()
        if change and self._receiver is not None and not self._receiver.on_held(change):
            self._held_bytes -= change
            self._partial, self.frames = None, []
            self.close(CloseCode.TRY_AGAIN_LATER, "no memory left for a message that is not complete")

    @property
    def _parser_rests(self) -> bool:
        """Whether a message may begin: none is open in fragments, and the connection is."""
        return self.conn.current_size is None and self.conn.state is OPEN

    def _text(self, data: bytes) -> None:
        if self.close_sent or self._receiver is None:
            return
        if not data.isascii():
            try:
                data.decode()
            except UnicodeDecodeError:
                self.close(CloseCode.INVALID_UTF8, "a text message that is not UTF-8")
                return
        self._receiver.on_text(data)

    def _keep(self, data: bytes, awaited_bytes: int) -> None:
        """Hold the beginning of a frame; one that would be too long is the parser's to refuse, now."""
        if awaited_bytes > self.config.ws_max_size + _HEAD_BYTES:
            super().data_received(data)
            return
        self._partial = bytearray(data)
        self._awaited_bytes = awaited_bytes


def _frame_at(data: bytes, start: int) -> tuple[int, int]:
    """Where the payload of a client's frame at `start` begins, and where the frame ends, as far as `data` tells.

    A head that is cut off ends past the end of `data`; the layout is RFC 6455, section 5.2.
    """
    if len(data) < start + 2:
        return start, start + 2
    length = data[start + 1]
    body = start + 2 + 4 * (length >= _MASKED)
    length &= ~_MASKED
    if length < 126:
        return body, body + length
    size = 2 if length == 126 else 8
    body += size
    if len(data) < start + 2 + size:
        return body, body
    return body, body + int.from_bytes(data[start + 2 : start + 2 + size], "big")
