"""The live socket of simulated browsers, in a thread, against real servers on loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import pytest
import websockets
from websockets.asyncio.server import ServerConnection

from loadtests import ws_client
from loadtests.ws_client import LiveClosedError, LiveRefusedError, LiveSocket
from server.protocol.codec import decode_live_event
from server.protocol.messages import LIVE_SUBPROTOCOL, HeartbeatEcho, LiveHeartbeat
from tests.support.fake_live import FakeLive, serve_live

Handler = Callable[[ServerConnection], Awaitable[None]]
HEARTBEAT = LiveHeartbeat(at=5)


async def unused(connection: ServerConnection) -> None:
    """A handler for sockets that never open."""
    await connection.wait_closed()


@asynccontextmanager
async def serve(handler: Handler, **options: Any) -> AsyncIterator[str]:
    """The http address of a server that hands each socket to `handler`."""
    options = {"subprotocols": [LIVE_SUBPROTOCOL], "compression": None} | options
    async with websockets.serve(handler, "127.0.0.1", 0, **options) as server:
        host, port = next(iter(server.sockets)).getsockname()[:2]
        yield f"http://{host}:{port}"


async def dial(url: str, ticket: str = "t") -> LiveSocket:
    """Open a socket in a thread."""
    return await asyncio.to_thread(LiveSocket, url, ticket, timeout_seconds=5.0)


async def receive(socket: LiveSocket, seconds: float = 5.0) -> bytes:
    """Receive in a thread; a wait that outlasts its deadline fails the test."""
    try:
        async with asyncio.timeout(seconds + 3) as limit:
            return await asyncio.to_thread(socket.receive, seconds)
    except TimeoutError:
        assert not limit.expired(), f"a wait of {seconds} s went on for {seconds + 3} s"
        raise


async def test_a_ticket_opens_a_socket_that_answers() -> None:
    """A socket is opened with ticket, Origin and subprotocol, a heartbeat is echoed, and closing twice is fine."""
    async with serve_live(FakeLive()) as fake:
        fake.tickets.add("a/b c")
        socket = await dial(fake.url, "a/b c")
        await asyncio.to_thread(socket.send, HEARTBEAT)
        event = decode_live_event(await receive(socket))
        await asyncio.to_thread(socket.close)
        await asyncio.to_thread(socket.close)

    assert isinstance(event, HeartbeatEcho)
    assert event.at == 5
    assert fake.origins == {fake.url}


async def test_the_close_code_is_told() -> None:
    """A ticket that is not good closes 4001 with its reason, though the socket opened."""
    async with serve_live(FakeLive()) as fake:
        socket = await dial(fake.url, "never issued")
        with pytest.raises(LiveClosedError, match="closed 4001: ticket") as closed:
            await receive(socket)

    assert closed.value.code == 4001


@pytest.mark.parametrize("code", [1000, 1001, 1012, 1013, 4008, 4999])
async def test_every_close_code_of_the_protocol_arrives(code: int) -> None:
    """Codes of RFC 6455, its registry and our own all come through."""

    async def close(connection: ServerConnection) -> None:
        await connection.close(code, "why")

    async with serve(close) as url:
        socket = await dial(url)
        with pytest.raises(LiveClosedError) as closed:
            await receive(socket)

    assert (closed.value.code, closed.value.reason) == (code, "why")


async def test_a_connection_that_just_ends_is_1006() -> None:
    """Without a close frame the code is 1006, for the receive and for every call after it."""

    async def abort(connection: ServerConnection) -> None:
        connection.transport.abort()

    async with serve(abort) as url:
        socket = await dial(url)
        for _ in range(2):
            with pytest.raises(LiveClosedError) as closed:
                await receive(socket)
            assert closed.value.code == ws_client.LOST
        with pytest.raises(LiveClosedError):
            await asyncio.to_thread(socket.send, HEARTBEAT)


async def test_a_wait_that_runs_out_keeps_the_half_read_frame() -> None:
    """A deadline that passes in the middle of a frame loses nothing: the next receive returns the whole of it."""
    rest = asyncio.Event()

    async def half(connection: ServerConnection) -> None:
        connection.transport.write(b"\x81\x05he")
        await rest.wait()
        connection.transport.write(b"llo")
        await connection.wait_closed()

    async with serve(half) as url:
        socket = await dial(url)
        with pytest.raises(TimeoutError):
            await receive(socket, 0.2)
        rest.set()

        assert await receive(socket) == b"hello"

        await asyncio.to_thread(socket.close)


async def test_a_dribbling_server_does_not_stretch_the_deadline() -> None:
    """The deadline is of the whole message, not of each piece of it."""
    over = asyncio.Event()

    async def dribble(connection: ServerConnection) -> None:
        connection.transport.write(b"\x81\x7d")
        while not over.is_set():
            connection.transport.write(b"x")
            try:
                async with asyncio.timeout(0.05):
                    await over.wait()
            except TimeoutError:
                continue

    async with serve(dribble) as url:
        socket = await dial(url)
        with pytest.raises(TimeoutError):  # all 125 bytes take over 6 s
            await receive(socket, 0.5)
        over.set()
        await asyncio.to_thread(socket.close)


@pytest.mark.parametrize("fragments", [1, 3])
async def test_a_message_over_the_bound_is_refused(fragments: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is too long is not taken in, in one frame or in several."""
    monkeypatch.setattr(ws_client, "MAX_MESSAGE_BYTES", 1000)

    async def flood(connection: ServerConnection) -> None:
        await connection.send(["x" * (1200 // fragments)] * fragments if fragments > 1 else "x" * 1200)

    async with serve(flood) as url:
        socket = await dial(url)
        with pytest.raises(LiveClosedError, match="more than 1000 bytes"):
            await receive(socket)


async def test_a_binary_message_is_refused() -> None:
    """The live protocol is text."""

    async def binary(connection: ServerConnection) -> None:
        await connection.send(b"x")
        await connection.wait_closed()

    async with serve(binary) as url:
        socket = await dial(url)
        with pytest.raises(LiveClosedError, match="binary"):
            await receive(socket)


@pytest.mark.parametrize("status", [302, 403, 503])
async def test_a_refused_upgrade_tells_the_status(status: int) -> None:
    """An HTTP answer instead of the upgrade is told by its status, and a redirect is not followed."""
    requests = []

    def refuse(connection: ServerConnection, request: websockets.Request) -> websockets.Response:
        requests.append(request.path)
        response = connection.respond(HTTPStatus(status), "no\n")
        response.headers["Location"] = f"ws://{request.headers['Host']}/elsewhere"
        return response

    async with serve(unused, process_request=refuse) as url:
        with pytest.raises(LiveRefusedError) as refused:
            await dial(url)

    assert refused.value.status == (None if status == 302 else status)
    assert requests == ["/ws/live?ticket=t"]


async def test_nobody_listens() -> None:
    """Without a server the refusal has no status."""
    async with serve_live(FakeLive()) as fake:
        url = fake.url
    with pytest.raises(LiveRefusedError) as refused:
        await dial(url)

    assert refused.value.status is None


async def test_another_subprotocol_is_refused() -> None:
    """A server that does not speak the live protocol is told apart at once."""
    async with serve(unused, subprotocols=None, select_subprotocol=lambda *_: None) as url:
        with pytest.raises(LiveRefusedError):
            await dial(url)


async def test_leaving_waits_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says close, passes over what was on its way, takes the server's answer, and frees the socket; once."""
    steps: list[str] = []
    answers = [None, None, LiveClosedError(1000, "")]

    def recv_frame() -> None:
        answer = answers.pop(0)
        steps.append("frame" if answer is None else "answer")
        if answer is not None:
            raise answer

    socket = ws_client._BoundedWebSocket()
    socket.connected = True

    def shutdown() -> None:
        socket.connected = False
        steps.append("shutdown")

    monkeypatch.setattr(socket, "send_close", lambda code: steps.append(f"close {code}"))
    monkeypatch.setattr(socket, "recv_frame", recv_frame)
    monkeypatch.setattr(socket, "shutdown", shutdown)

    socket.leave(1001)
    socket.leave(1001)

    assert steps == ["close 1001", "frame", "frame", "answer", "shutdown", "shutdown"]


async def test_leaving_a_server_that_does_not_read_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never answers the close does not keep who leaves: `CLOSE_SECONDS` bounds the wait."""
    monkeypatch.setattr(ws_client, "CLOSE_SECONDS", 0.1)

    async def deaf(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await gone.wait()
        connection.transport.abort()

    gone = asyncio.Event()
    async with serve(deaf) as url:
        socket = await asyncio.to_thread(LiveSocket, url, "t", timeout_seconds=60.0)
        try:
            async with asyncio.timeout(20):
                await asyncio.to_thread(socket.close)
        finally:
            gone.set()


async def test_what_ends_a_user_passes_through_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit that Locust throws into a user's greenlet is not swallowed while it says goodbye, and the socket is freed."""

    class Exit(BaseException):
        """As gevent's GreenletExit."""

    def thrown(*_: object) -> None:
        raise Exit

    gone: list[bool] = []
    socket = ws_client._BoundedWebSocket()
    socket.connected = True
    monkeypatch.setattr(socket, "send_close", lambda _code: None)
    monkeypatch.setattr(socket, "recv_frame", thrown)
    monkeypatch.setattr(socket, "shutdown", lambda: gone.append(True))

    with pytest.raises(Exit):
        socket.leave(1000)
    assert gone == [True]


async def test_a_ping_that_comes_at_the_end_of_a_wait_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is over before the pong is sent: without it the server would end the connection with 1011."""
    answered = asyncio.Event()
    take = ws_client._BoundedWebSocket.recv_frame

    def take_late(self: ws_client._BoundedWebSocket) -> Any:
        frame = take(self)
        self.wait_until(0.0)
        return frame

    async def ping(connection: ServerConnection) -> None:
        await (await connection.ping())
        answered.set()
        await connection.wait_closed()

    monkeypatch.setattr(ws_client._BoundedWebSocket, "recv_frame", take_late)
    async with serve(ping) as url:
        socket = await dial(url)
        with pytest.raises(TimeoutError):
            await receive(socket, 2.0)
        await asyncio.wait_for(answered.wait(), 5)
        await asyncio.to_thread(socket.cut)
