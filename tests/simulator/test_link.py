"""Links over both libraries, held to the same promises against a server of another make."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

import pytest

from server.protocol.messages import AGENT_SUBPROTOCOL, AgentHeartbeat
from simulator.link import (
    MAX_BUFFERED_BYTES,
    Connect,
    Link,
    Refused,
    Transport,
    Unreachable,
    connect_by,
    retry_after_seconds,
)
from tests.support.fake_server import Peer, fake_server
from tests.support.fleets import eventually


class Recorder:
    """A session that writes down what it is told."""

    def __init__(self) -> None:
        self.link: Link | None = None
        self.frames: list[bytes] = []
        self.closed: tuple[int, str, bool] | None = None

    def on_open(self, link: Link) -> None:
        """Keep the link."""
        assert self.link is None
        self.link = link

    def on_frame(self, link: Link, data: bytes) -> None:
        """Keep the frame."""
        assert link is self.link
        assert self.closed is None
        self.frames.append(data)

    def on_close(self, link: Link, code: int, reason: str, *, by_peer: bool) -> None:
        """Keep how it ended."""
        assert link is self.link
        assert self.closed is None
        self.closed = code, reason, by_peer


@pytest.fixture(params=list(Transport))
def connect(request: pytest.FixtureRequest) -> Connect:
    """Each transport's connect."""
    return connect_by(request.param)


@asynccontextmanager
async def linked(connect: Connect, url: str) -> AsyncIterator[tuple[Link, Recorder]]:
    """An open link; it is gone at the end."""
    session = Recorder()
    await connect(url, "token", AGENT_SUBPROTOCOL, session)
    assert session.link is not None
    try:
        yield session.link, session
    finally:
        session.link.abort()
        await eventually(lambda: session.closed is not None)


async def idle(_: Peer) -> None:
    """A server that says nothing."""


async def test_the_handshake_carries_token_and_subprotocol(connect: Connect) -> None:
    """The server sees the bearer token and chooses our subprotocol; compression is not offered."""
    async with fake_server(idle) as server, linked(connect, server.url):
        request = (await server.peer(1)).connection.request
        assert request is not None
        assert request.headers["Authorization"] == "Bearer token"
        assert request.headers["Sec-WebSocket-Protocol"] == AGENT_SUBPROTOCOL
        assert "Sec-WebSocket-Extensions" not in request.headers


async def test_frames_go_both_ways_as_text(connect: Connect) -> None:
    """Bytes leave as a text message, and text arrives as bytes, fragmented or not."""

    async def script(peer: Peer) -> None:
        await peer.next(AgentHeartbeat)
        await peer.send("grüße")
        await peer.connection.send(["ein ", "Satz ", "in Teilen"])

    async with fake_server(script) as server, linked(connect, server.url) as (link, session):
        link.send(b'{"type":"heartbeat","at":5}')
        await eventually(lambda: len(session.frames) == 2)
        assert session.frames == ["grüße".encode(), b"ein Satz in Teilen"]
        assert server.peers[0].all_of(AgentHeartbeat) == [AgentHeartbeat(at=5)]


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1012, "restart"), (3000, "x"), (4003, "gap"), (4509, "taken")]
)
async def test_the_servers_close_is_told_with_its_code(connect: Connect, code: int, reason: str) -> None:
    """Codes below and above 3000 arrive as they were sent, with their reason, as the peer's."""

    async def script(peer: Peer) -> None:
        await peer.close(code, reason)

    async with fake_server(script) as server, linked(connect, server.url) as (link, session):
        await eventually(lambda: session.closed is not None)
        assert session.closed == (code, reason, True)
        assert link.full
        link.send(b"too late")
        link.close(1000)


async def test_our_own_close_is_told_as_ours(connect: Connect) -> None:
    """The server gets the code; the session hears it back as not the peer's, once."""
    async with fake_server(idle) as server, linked(connect, server.url) as (link, session):
        link.send(b'{"type":"heartbeat","at":1}')
        link.close(4321, "enough")
        link.close(1000, "again")
        assert link.full
        await eventually(lambda: session.closed is not None)
        assert session.closed == (4321, "enough", False)
        peer = server.peers[0]
        await eventually(lambda: peer.closed is not None)
        assert peer.closed == 4321
        assert len(peer.frames) == 1


async def test_a_broken_connection_is_told_as_1006(connect: Connect) -> None:
    """A reset without a close frame is nobody's close."""

    async def script(peer: Peer) -> None:
        peer.connection.transport.abort()

    async with fake_server(script) as server, linked(connect, server.url) as (_, session):
        await eventually(lambda: session.closed is not None)
        assert session.closed is not None
        assert (session.closed[0], session.closed[2]) == (1006, False)


async def test_a_message_over_the_limit_closes_1009_as_ours(connect: Connect) -> None:
    """A huge message is not taken in; the close is ours, so nobody mistakes it for a word about our frames."""

    async def script(peer: Peer) -> None:
        await peer.send("x" * (3 << 20))

    async with fake_server(script) as server, linked(connect, server.url) as (_, session):
        await eventually(lambda: session.closed is not None)
        assert session.closed is not None
        assert not session.closed[2]
        assert session.frames == []
        await eventually(lambda: server.peers[0].closed is not None)
        assert server.peers[0].closed == 1009


async def test_a_binary_message_closes_1003(connect: Connect) -> None:
    """The protocol is text."""

    async def script(peer: Peer) -> None:
        await peer.send(b"\x00")

    async with fake_server(script) as server, linked(connect, server.url) as (_, session):
        await eventually(lambda: session.closed is not None)
        assert session.closed == (1003, "expected text", False)


async def test_a_peer_that_does_not_read_fills_the_link(connect: Connect) -> None:
    """A link whose buffer is over its bound says so, and an abort ends it at once."""
    async with deaf_server() as url, linked(connect, url) as (link, session):
        frame = b"x" * 65_536
        sent = 0
        while not link.full:
            link.send(frame)
            sent += len(frame)
            await asyncio.sleep(0)
            assert sent < MAX_BUFFERED_BYTES + (64 << 20)
        link.abort()
        await eventually(lambda: session.closed is not None)


async def test_a_link_that_does_not_read_still_sends(connect: Connect) -> None:
    """While reading is paused neither a frame nor a ping is taken off the socket; afterwards both are, in their order."""
    async with fake_server(idle) as server, linked(connect, server.url) as (link, session):
        peer = await server.peer(1)
        await peer.send("before")
        await eventually(lambda: len(session.frames) == 1)
        link.pause_reading()
        link.pause_reading()
        pong = asyncio.ensure_future(await peer.connection.ping())
        await peer.send("meanwhile")
        for beats in range(1, 4):
            link.send(b'{"type":"heartbeat","at":5}')
            await eventually(lambda beats=beats: len(peer.all_of(AgentHeartbeat)) == beats)  # type: ignore[misc]
        assert session.frames == [b"before"]
        assert not pong.done()
        link.resume_reading()
        await asyncio.wait_for(pong, 5)
        await peer.send("after")
        await eventually(lambda: len(session.frames) == 3)
        assert session.frames == [b"before", b"meanwhile", b"after"]


async def test_the_end_of_a_link_that_does_not_read_is_not_noticed(connect: Connect) -> None:
    """A close by the server waits like all else, and an abort of our own ends it all the same."""
    async with fake_server(idle) as server, linked(connect, server.url) as (link, session):
        peer = await server.peer(1)
        link.pause_reading()
        await peer.close(4001)
        assert session.closed is None
        link.abort()
        await eventually(lambda: session.closed is not None)
        link.resume_reading()


@pytest.mark.parametrize(
    ("status", "headers", "retry_after"),
    [(401, {}, None), (403, {}, None), (429, {"Retry-After": "17"}, 17.0), (503, {"Retry-After": "soon"}, None)],
)
async def test_a_refusal_tells_status_and_retry_after(
    connect: Connect, status: int, headers: dict[str, str], retry_after: float | None
) -> None:
    """The HTTP answer comes as an exception, and the session hears nothing."""
    session = Recorder()
    async with fake_server(idle) as server:
        server.refusal = (HTTPStatus(status), headers)
        with pytest.raises(Refused) as caught:
            await connect(server.url, "token", AGENT_SUBPROTOCOL, session)

    assert (caught.value.status, caught.value.retry_after_seconds) == (status, retry_after)
    assert session.link is None
    assert session.closed is None


async def test_nobody_there_is_unreachable(connect: Connect) -> None:
    """A closed port is an exception of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Unreachable):
        await connect(f"ws://127.0.0.1:{port}/", "token", AGENT_SUBPROTOCOL, Recorder())


async def test_a_server_of_another_protocol_is_unreachable(connect: Connect) -> None:
    """A handshake that does not choose our subprotocol, one that is no HTTP, and one that is cut short all fail."""
    session = Recorder()
    async with fake_server(idle) as server:
        with pytest.raises((Unreachable, Refused)):
            await connect(server.url, "token", "something.else", session)

    for answer in (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 101 Switch", b""):

        async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes = answer) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        listener = await asyncio.start_server(answering, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable):
            await connect(f"ws://127.0.0.1:{port}/", "token", AGENT_SUBPROTOCOL, session)
        listener.close()
        await listener.wait_closed()
    assert session.link is None


async def test_a_handshake_that_never_ends_is_given_up(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the deadline the dial fails, whatever the server does later."""
    for module in ("simulator.link_picows", "simulator.link_websockets"):
        monkeypatch.setattr(f"{module}.CONNECT_SECONDS", 0.2)
    session = Recorder()
    released = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    with pytest.raises(Unreachable):
        await connect(f"ws://127.0.0.1:{port}/", "token", AGENT_SUBPROTOCOL, session)
    released.set()
    listener.close()
    await listener.wait_closed()
    assert session.link is None


async def test_a_dial_can_be_cancelled(connect: Connect) -> None:
    """Cancelling leaves neither link nor connection behind."""
    session = Recorder()
    gone = asyncio.Event()
    came = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        came.set()
        with suppress(ConnectionError):
            await reader.read()
        gone.set()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    dial = asyncio.ensure_future(connect(f"ws://127.0.0.1:{port}/", "token", AGENT_SUBPROTOCOL, session))
    await asyncio.wait_for(came.wait(), 5)
    dial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dial
    await asyncio.wait_for(gone.wait(), 5)
    listener.close()
    await listener.wait_closed()
    assert session.link is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("0", 0.0), ("120", 120.0), ("-1", None), ("1e9", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None),
     ("9" * 400, None)],
)  # fmt: skip
def test_retry_after_is_read_as_seconds(header: str | None, seconds: float | None) -> None:
    """Only a plain number of seconds counts."""
    assert retry_after_seconds(header) == seconds


@asynccontextmanager
async def deaf_server() -> AsyncIterator[str]:
    """A server that shakes hands and then never reads."""
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.typing import Subprotocol

    release = asyncio.Event()

    async def handle(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await release.wait()
        connection.transport.abort()

    async with serve(
        handle, "127.0.0.1", 0, subprotocols=[Subprotocol(AGENT_SUBPROTOCOL)], max_queue=1, ping_interval=None
    ) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        release.set()
