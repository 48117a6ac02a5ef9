"""Links over `websockets`: slower, and an implementation of its own to hold against picows."""

import asyncio
from collections import deque

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as ws_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.protocol import State
from websockets.typing import Subprotocol

from server.protocol.close_codes import CloseCode
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


class _Connection(ClientConnection):
    """A connection that is cut when a server sends on and on where nothing more is taken: the library would read it all."""

    _ignored_bytes = 0

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self.protocol.state is not State.OPEN:  # a handshake, or what comes after the close
            self._ignored_bytes += len(data)
            if self._ignored_bytes > MAX_FRAME_BYTES:
                self.transport.abort()
                return
        super().data_received(data)


class _Dial(ws_connect):
    """A dial that goes where it was told, and nowhere else."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """A redirect is a refusal: the token is meant for one server."""
        return exc


class _WebsocketsLink:
    """A link with a task that reads and a task that writes; the reader owns both ends' end."""

    def __init__(self, session: Session, connection: ClientConnection) -> None:
        self._session = session
        self._connection = connection
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._closing: tuple[int, str] | None = None
        self._reading = asyncio.Event()
        self._reading.set()
        self._reader = asyncio.create_task(self._read())
        self._writer = asyncio.create_task(self._write())

    @property
    def full(self) -> bool:
        buffered = self._waiting_bytes + self._connection.transport.get_write_buffer_size()
        return self._closing is not None or buffered > MAX_BUFFERED_BYTES

    def send(self, data: bytes) -> None:
        if self._closing is None:
            self._waiting.append(data)
            self._waiting_bytes += len(data)
            self._wake.set()

    def pause_reading(self) -> None:
        self._reading.clear()
        if not self._connection.transport.is_closing():
            self._connection.transport.pause_reading()

    def resume_reading(self) -> None:
        self._reading.set()
        if not self._connection.transport.is_closing():
            self._connection.transport.resume_reading()

    def close(self, code: int, reason: str = "") -> None:
        if self._closing is None:
            self._closing = code, reason
            self._wake.set()

    def abort(self) -> None:
        self._reading.set()
        self._connection.transport.abort()

    async def _read(self) -> None:
        try:
            async for message in self._connection:
                if isinstance(message, str):
                    self._session.on_frame(self, message.encode())
                else:
                    self.close(CloseCode.UNSUPPORTED_DATA, "expected text")
                await self._reading.wait()
        except ConnectionClosed:
            pass  # an abnormal end; its code is read below
        except Exception as error:  # noqa: BLE001 - handed on
            report_failure(error)
            self._connection.transport.abort()
        finally:
            self._closing = self._closing or (CloseCode.NORMAL, "")
            self._writer.cancel()
            self._closed()

    def _closed(self) -> None:
        protocol = self._connection.protocol
        by_peer = protocol.close_rcvd is not None and bool(protocol.close_rcvd_then_sent)
        first = protocol.close_rcvd if by_peer else protocol.close_sent
        if protocol.close_rcvd is None or first is None:
            self._session.on_close(self, 1006, "", by_peer=False)
        else:
            self._session.on_close(self, int(first.code), first.reason, by_peer=by_peer)

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    data = self._waiting.popleft()
                    await self._connection.send(data, text=True)
                    self._waiting_bytes -= len(data)
                if self._closing is not None:
                    code, reason = self._closing
                    await self._connection.close(code, reason)
                    return
        except ConnectionClosed:
            return  # the reader tells the session


async def connect(url: str, token: str, subprotocol: str, session: Session, source: str | None = None) -> None:
    """See `simulator.link.Connect`."""
    try:
        connection = await _Dial(
            url,
            create_connection=_Connection,
            subprotocols=[Subprotocol(subprotocol)],
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            proxy=None,
            open_timeout=CONNECT_SECONDS,
            close_timeout=CLOSE_SECONDS,
            ping_interval=None,
            max_size=MAX_FRAME_BYTES,
            local_addr=None if source is None else (source, 0),
        )
    except InvalidStatus as error:
        header = error.response.headers.get("Retry-After")
        raise Refused(error.response.status_code, retry_after_seconds(header)) from None
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise Unreachable(f"{type(error).__name__}: {error}") from None
    if connection.subprotocol != subprotocol:
        connection.transport.abort()
        raise Unreachable(f"Sec-WebSocket-Protocol = {connection.subprotocol}: expected {subprotocol}")
    session.on_open(_WebsocketsLink(session, connection))
