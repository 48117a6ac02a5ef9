"""Links over picows: the cheapest client per message, so the fleet's default."""

import asyncio
import logging
import socket
from contextlib import suppress
from typing import Any, Final

from picows import WSCloseCode, WSError, WSFrame, WSHandshakeError, WSListener, WSMsgType, WSTransport, ws_connect
from picows.url import WSParsedURL

from server.protocol.close_codes import CloseCode
from simulator.dialling import addresses, connect_socket, open_socket
from simulator.link import (
    CLOSE_SECONDS,
    CONNECT_SECONDS,
    MAX_BUFFERED_BYTES,
    MAX_FRAME_BYTES,
    Refused,
    Session,
    Unreachable,
    report_failure,
    retry_after_seconds,
)

# How a connection ended is counted by its close code; thousands of agents must not each log a line as well.
_LOGGER = logging.getLogger("simulator.picows")
_LOGGER.setLevel(logging.CRITICAL)
_NO_CODE: Final = 1005
_ABNORMAL: Final = 1006
_PROTOCOL_ERROR: Final = 1002


class _PicowsLink(WSListener):  # type: ignore[misc, unused-ignore]
    """A link, and the listener that picows calls."""

    __slots__ = (
        "_abandoned", "_code", "_cut", "_fragments", "_ignored_bytes", "_reason", "_session", "_socket", "_source",
        "_subprotocol", "_transport", "chosen", "full", "opened",
    )  # fmt: skip

    def __init__(self, session: Session, subprotocol: str, source: str | None) -> None:
        self._session = session
        self._subprotocol = subprotocol
        self._source = source
        self._transport: WSTransport | None = None
        self._fragments = bytearray()
        self._ignored_bytes = 0
        self._code: int | None = None
        self._reason = ""
        self._cut: asyncio.TimerHandle | None = None
        self._socket: socket.socket | None = None
        self._abandoned = False
        self.full = True
        """See `Link`. A field, for it is asked for with every frame, and changes only where picows calls and at a close."""
        self.opened = False
        self.chosen: str | None = None

    # What the agent calls.

    def send(self, data: bytes) -> None:
        if self._transport is not None and self._cut is None:
            self._transport.send(WSMsgType.TEXT, data)

    def pause_reading(self) -> None:
        if self._transport is not None and not self._transport.underlying_transport.is_closing():
            self._transport.underlying_transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.underlying_transport.is_closing():
            self._transport.underlying_transport.resume_reading()

    def close(self, code: int, reason: str = "") -> None:
        if self._transport is None or self._cut is not None:
            return
        if self._code is None:
            self._code, self._reason = code, reason
        self._transport.send_close(_as_close_code(code), reason.encode()[:123])
        self._cut_later()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    # The dial.

    async def connected_socket(self, url: WSParsedURL) -> socket.socket:
        """A connection to the server, made here so that `abandon` can end it: picows gives no hold on a handshake."""
        error: OSError | None = None
        for family, address in await addresses(url.host, url.port, self._source):
            try:
                dialled = self._socket = open_socket(family, self._source)
            except OSError as failed:
                error = failed
                continue
            try:
                await connect_socket(dialled, address)
            except OSError as failed:
                error = failed
                dialled.close()
            except BaseException:
                dialled.close()
                raise
            else:
                return dialled
        raise error or OSError("the host has no address")

    def abandon(self) -> None:
        """Give the dial up: a handshake that ends later opens no link, and the connection ends now."""
        self._abandoned = True
        if self._socket is not None and not self.opened:
            with suppress(OSError):  # it is closed already
                self._socket.shutdown(socket.SHUT_RDWR)

    # What picows calls.

    def on_ws_connected(self, transport: WSTransport) -> None:
        try:
            self._connected(transport)
        except Exception as error:  # noqa: BLE001 - handed on
            report_failure(error)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        try:
            self._take(transport, frame)
        except Exception as error:  # noqa: BLE001 - handed on
            report_failure(error)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        try:
            self._disconnected(transport)
        except Exception as error:  # noqa: BLE001 - handed on
            report_failure(error)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = self._transport is None or self._cut is not None

    def _connected(self, transport: WSTransport) -> None:
        self.chosen = transport.response.headers.get("Sec-WebSocket-Protocol")
        if self._abandoned or self.chosen != self._subprotocol:
            transport.disconnect(graceful=False)
            return
        self._transport = transport
        transport.underlying_transport.set_write_buffer_limits(high=MAX_BUFFERED_BYTES, low=MAX_BUFFERED_BYTES)
        self.full = False
        self.opened = True
        self._session.on_open(self)

    def _take(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        # picows reads on for a moment after it has closed, and would hand over even what it closed for.
        if not self.opened:
            return
        if transport.is_close_frame_sent and kind != WSMsgType.CLOSE:
            self._ignored_bytes += len(frame.get_payload_as_memoryview())
            if self._ignored_bytes > MAX_FRAME_BYTES:  # it sends on and on
                self.abort()
            return
        if kind == WSMsgType.TEXT and frame.fin:
            if self._fragments:
                self._fail(CloseCode.INTERNAL_ERROR, "a message inside a message")
            else:
                self._session.on_frame(self, frame.get_payload_as_bytes())
        elif kind == WSMsgType.CLOSE:
            self._closed_by_peer(transport, frame.get_payload_as_bytes())
        elif kind in (WSMsgType.TEXT, WSMsgType.CONTINUATION):
            self._assemble(frame)
        elif kind == WSMsgType.BINARY:
            self._fail(CloseCode.UNSUPPORTED_DATA, "expected text")

    def _disconnected(self, transport: WSTransport) -> None:
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None
        self._transport = None
        self.full = True
        self._fragments.clear()
        if self.opened:
            self.opened = False
            handshake: Any = transport.close_handshake  # None while no CLOSE went either way, whatever its stub says
            code = self._code
            if code is None and handshake is not None:  # picows itself closed, on a breach of RFC 6455
                code = _PROTOCOL_ERROR
                _retrieve(transport)
            elif code is None:
                code = _ABNORMAL
            by_peer = handshake is not None and handshake.recv_then_sent
            self._session.on_close(self, code, self._reason, by_peer=by_peer)

    def _closed_by_peer(self, transport: WSTransport, payload: bytes) -> None:
        # Read from the bytes: picows' own enumeration has no application codes.
        if transport.close_handshake.recv_then_sent:
            self._code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else _NO_CODE
            self._reason = payload[2:].decode(errors="replace")
            transport.send_close(_as_close_code(CloseCode.NORMAL if self._code == _NO_CODE else self._code))
        if self._cut is None:
            self._cut_later()
        transport.disconnect()

    def _cut_later(self) -> None:
        self.full = True
        self._cut = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.abort)

    def _assemble(self, frame: WSFrame) -> None:
        self._fragments += frame.get_payload_as_bytes()
        if len(self._fragments) > MAX_FRAME_BYTES:
            self._fail(CloseCode.MESSAGE_TOO_BIG, "message too big")
        elif frame.fin:
            data = bytes(self._fragments)
            self._fragments.clear()
            self._session.on_frame(self, data)

    def _fail(self, code: int, reason: str) -> None:
        self._fragments.clear()
        self.close(code, reason)


_ends: set[asyncio.Task[None]] = set()


def _retrieve(transport: WSTransport) -> None:
    """Fetch the exception that picows keeps of such an end; else asyncio would report it as never retrieved."""

    async def wait() -> None:
        with suppress(Exception):
            await transport.wait_disconnected()

    task = asyncio.get_running_loop().create_task(wait())
    _ends.add(task)
    task.add_done_callback(_ends.discard)


async def connect(url: str, token: str, subprotocol: str, session: Session, source: str | None = None) -> None:
    """See `simulator.link.Connect`."""
    link = _PicowsLink(session, subprotocol, source)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await ws_connect(
                lambda: link,
                url,
                extra_headers={"Authorization": f"Bearer {token}", "Sec-WebSocket-Protocol": subprotocol},
                websocket_handshake_timeout=CONNECT_SECONDS,
                max_frame_size=MAX_FRAME_BYTES,
                read_buffer_init_size=2048,
                max_redirects=0,
                logger_name=_LOGGER,
                socket_factory=link.connected_socket,
                use_aiofastnet=False,
            )
    except WSHandshakeError as error:
        link.abandon()
        if error.response is None:
            raise Unreachable(str(error)) from None
        header = error.response.headers.get("Retry-After")
        raise Refused(int(error.response.status), retry_after_seconds(header)) from None
    except (OSError, TimeoutError, WSError) as error:
        link.abandon()
        raise Unreachable(f"{type(error).__name__}: {error}") from None
    except BaseException:  # cancelled
        link.abandon()
        raise
    if link.chosen is None:
        raise Unreachable("the connection closed during the handshake")
    if link.chosen != subprotocol:
        raise Unreachable(f"Sec-WebSocket-Protocol = {link.chosen}: expected {subprotocol}")


def _as_close_code(code: int) -> WSCloseCode:
    """A close code as picows wants it typed; it sends any number."""
    return code  # type: ignore[return-value]
