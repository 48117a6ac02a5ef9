"""Stands between agents and their server, passes on what both say, and writes down what the agents say.

An agent sees its server's answers: status and headers of a refused handshake, subprotocol, close codes. The server sees the
agent's headers. Whoever does not read stops its other end by TCP: a message or two wait here at most.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from simulator.recording import Closed, Entry, Frame, Opened, RecordingWriter

FLUSH_SECONDS = 0.5
CONNECT_SECONDS = 20.0
CLOSE_SECONDS = 5.0
PING_SECONDS = 20.0
"""A peer that does not answer for so long twice is gone: nobody else would notice."""
MAX_MESSAGE_BYTES = 4 << 20
"""Above any limit that the server sets, so that the server is who refuses."""
_QUEUED_MESSAGES = 2
_OWN_HEADERS = frozenset({
    "host", "connection", "upgrade", "content-length", "transfer-encoding", "sec-websocket-key", "sec-websocket-version",
    "sec-websocket-extensions", "sec-websocket-protocol", "sec-websocket-accept",
})  # fmt: skip
"""Headers that belong to one connection; the others are passed on."""
_NO_CODE, _BROKEN, _BAD_GATEWAY = 1005, 1006, 502


class Recorder:
    """The proxy. Use `recording`.

    Attributes:
        connections: opened so far.
        open_connections: of them, those that stand.
        failed: set when the recording cannot be written any more; `error` says why.
    """

    def __init__(self, to: str, writer: RecordingWriter) -> None:
        self._to = to.rstrip("/")
        self._writer = writer
        self._numbers = count(1)
        self._upstreams: dict[ServerConnection, ClientConnection] = {}
        self.connections = self.open_connections = 0
        self.failed = asyncio.Event()
        self.error: OSError | None = None

    async def admit(self, agent: ServerConnection, request: Request) -> Response | None:
        """Open the way to the server first: its refusal is ours.

        Returns:
            The refusal; None: the handshake goes on.
        """
        headers = Headers(item for item in request.headers.raw_items() if item[0].lower() not in _OWN_HEADERS)
        offered = [
            Subprotocol(word.strip())
            for value in request.headers.get_all("Sec-WebSocket-Protocol")
            for word in value.split(",")
        ]
        try:
            upstream = await connect(
                self._to + request.path, additional_headers=headers, subprotocols=offered or None, compression=None,
                proxy=None, user_agent_header=None, open_timeout=CONNECT_SECONDS, close_timeout=CLOSE_SECONDS,
                ping_interval=PING_SECONDS, ping_timeout=PING_SECONDS, max_size=MAX_MESSAGE_BYTES,
                max_queue=_QUEUED_MESSAGES,
            )  # fmt: skip
        except InvalidStatus as refusal:
            answer = refusal.response
            kept = Headers(item for item in answer.headers.raw_items() if item[0].lower() not in _OWN_HEADERS)
            body = bytes(answer.body or b"")
            kept["Content-Length"] = str(len(body))
            kept["Connection"] = "close"
            return Response(answer.status_code, answer.reason_phrase, kept, body)
        except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
            return agent.respond(_BAD_GATEWAY, f"no way to the server: {type(error).__name__}\n")
        self._upstreams[agent] = upstream
        return None

    def subprotocol(self, agent: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        """What the server chose."""
        del offered
        return self._upstreams[agent].subprotocol

    async def carry(self, agent: ServerConnection) -> None:
        """Pass on both ways until one end closes; then the other is closed alike."""
        upstream = self._upstreams.pop(agent)
        number = next(self._numbers)
        self.connections += 1
        self.open_connections += 1
        self._add(Opened(connection=number, at_us=_now_us(), subprotocol=agent.subprotocol))
        ways = [
            asyncio.create_task(_pass_on(agent, upstream, lambda message: self._take(number, message))),
            asyncio.create_task(_pass_on(upstream, agent, None)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            by_agent = _ended(agent, upstream)
            # What it said before it left still goes to the other end.
            await asyncio.wait({ways[0 if by_agent else 1]}, timeout=CLOSE_SECONDS)
            code = await (_close_alike(agent, upstream) if by_agent else _close_alike(upstream, agent))
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (agent, upstream):
                end.transport.abort()
            self.open_connections -= 1
        self._add(Closed(connection=number, at_us=_now_us(), code=code, by="agent" if by_agent else "server"))

    async def forget_refused(self) -> None:
        """Write regularly, and close ways to the server whose agent never came through its own handshake."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self._write(self._writer.flush)
            for agent in [agent for agent in self._upstreams if agent.transport.is_closing()]:
                self._upstreams.pop(agent).transport.abort()

    def close(self) -> None:
        """Cut the ways that nobody came to take."""
        for upstream in self._upstreams.values():
            upstream.transport.abort()
        self._upstreams.clear()

    def _take(self, number: int, message: str | bytes) -> None:
        if isinstance(message, str):
            self._add(Frame(connection=number, at_us=_now_us(), text=message))

    def _add(self, entry: Entry) -> None:
        self._write(lambda: self._writer.add(entry))

    def _write(self, work: Callable[[], None]) -> None:
        """What cannot be written ends the recording, and with it the proxy: a part would pass for the whole."""
        try:
            work()
        except OSError as error:
            self.error = error
            self.failed.set()


@asynccontextmanager
async def recording(host: str, port: int, to: str, writer: RecordingWriter) -> AsyncIterator[tuple[Recorder, Server]]:
    """A proxy that listens.

    Args:
        host: to listen on.
        port: 0 takes a free one.
        to: the server, `ws://host:port`.
        writer: of the recording; whoever made it closes it.

    Raises:
        OSError: the address cannot be had.
    """
    recorder = Recorder(to, writer)
    server = await serve(
        recorder.carry, host, port, process_request=recorder.admit, select_subprotocol=recorder.subprotocol,
        compression=None, server_header=None, open_timeout=CONNECT_SECONDS + CLOSE_SECONDS, close_timeout=CLOSE_SECONDS,
        ping_interval=PING_SECONDS, ping_timeout=PING_SECONDS, max_size=MAX_MESSAGE_BYTES, max_queue=_QUEUED_MESSAGES,
    )  # fmt: skip
    keeping = asyncio.create_task(recorder.forget_refused())
    try:
        yield recorder, server
    finally:
        keeping.cancel()
        server.close()
        await server.wait_closed()
        recorder.close()
        await asyncio.gather(keeping, return_exceptions=True)


async def _pass_on(source: Connection, target: Connection, seen: Callable[[str | bytes], None] | None) -> None:
    """One way, message by message, until either end is closed."""
    try:
        async for message in source:
            if seen is not None:
                seen(message)
            await target.send(message)
    except ConnectionClosed:
        pass


def _closed_first(end: Connection) -> bool:
    """Whether this peer said goodbye before we did."""
    protocol = end.protocol
    return protocol.close_rcvd is not None and bool(protocol.close_rcvd_then_sent)


def _ended(agent: Connection, upstream: Connection) -> bool:
    """Whether it was the agent that left, or whose connection broke; False: the server."""
    return _closed_first(agent) or (not _closed_first(upstream) and agent.close_code is not None)


async def _close_alike(first: Connection, other: Connection) -> int:
    """End the second connection as the first one ended; returns the code."""
    received = first.protocol.close_rcvd
    if received is None or not _closed_first(first):
        other.transport.abort()  # it broke: the other one is to see the same
        return _BROKEN
    code = int(received.code)
    if code == _NO_CODE:
        await other.close()  # with 1000: the library says none only in an answer
    else:
        await other.close(code, received.reason)
    return code


def _now_us() -> int:
    return time.time_ns() // 1000
