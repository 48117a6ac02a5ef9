"""A server for agents that does what a test tells it, built on `websockets` rather than on our own server.

A test gives a script: a coroutine function that is called with the `Peer` of each connection. What agents sent stays in
`peer.frames`; `FakeServer.until` waits for something to become true whenever anything arrived.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TypeVar

import jwt
import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from server.protocol.codec import decode_agent_message, encode
from server.protocol.messages import (
    AGENT_SUBPROTOCOL,
    Ack,
    AgentCommand,
    AgentMessage,
    Batch,
    Clock,
    Hello,
    Limits,
    Welcome,
    Window,
)

SECRET = "a secret of the tests, 32 bytes and more"
DEADLINE_SECONDS = 10.0
M = TypeVar("M", bound=msgspec.Struct)

Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """One connection of an agent, seen from the server."""

    def __init__(self, connection: ServerConnection, server: "FakeServer", number: int) -> None:
        self.connection = connection
        self.number = number
        """From 1, in the order of the handshakes."""
        self.frames: list[bytes] = []
        self.messages: list[AgentMessage] = []
        self.closed: int | None = None
        """The close code the agent sent; 1006: none. None: it stands."""
        self._server = server
        self._read = 0
        self._reader = asyncio.create_task(self._receive())

    @property
    def claims(self) -> dict[str, object]:
        """The agent's token, checked."""
        assert self.connection.request is not None
        token = self.connection.request.headers["Authorization"].removeprefix("Bearer ")
        return dict(jwt.decode(token, SECRET, algorithms=["HS256"], audience="agent", issuer="seatrial"))

    @property
    def hello(self) -> Hello:
        """The first message."""
        assert isinstance(self.messages[0], Hello)
        return self.messages[0]

    def all_of(self, kind: type[M]) -> list[M]:
        """Every message of a type so far."""
        return [message for message in self.messages if isinstance(message, kind)]

    def batch_frames(self) -> list[bytes]:
        """The frames of all batches so far, as they came."""
        return [frame for frame, message in zip(self.frames, self.messages, strict=True) if isinstance(message, Batch)]

    async def next(self, kind: type[M]) -> M:
        """The next message of a type that was not asked for yet; others before it are passed over."""
        while True:
            await self._server.until(lambda: len(self.messages) > self._read or self.closed is not None)
            if len(self.messages) <= self._read:
                raise AssertionError(f"the agent closed ({self.closed}) and sent no {kind.__name__}")
            message = self.messages[self._read]
            self._read += 1
            if isinstance(message, kind):
                return message

    async def send(self, message: AgentCommand | str | bytes) -> None:
        """Send a message, or a frame as it is: text or binary."""
        await self.connection.send(message if isinstance(message, str | bytes) else encode(message).decode())

    async def welcome(
        self,
        acked_seq: int = 0,
        batches: int = 64,
        window_bytes: int = 4 << 20,
        heartbeat_seconds: int = 10,
        frame_bytes: int = 1 << 20,
        log_text_bytes: int = 16 * 1024,
    ) -> Hello:
        """Wait for `hello` and answer it."""
        hello = await self.next(Hello)
        await self.send(
            Welcome(
                session=f"s{self.number}",
                server_time=self._server.now_us(),
                acked_seq=acked_seq,
                window=Window(batches=batches, bytes=window_bytes),
                heartbeat_seconds=heartbeat_seconds,
                clock=Clock(earliest=0, latest=2**62),
                limits=Limits(
                    frame_bytes=frame_bytes, containers=10_000, labels_bytes=16_384, log_text_bytes=log_text_bytes
                ),
            )
        )
        return hello

    async def ack_all(self) -> None:
        """Acknowledge every batch from here on, until the connection ends."""
        while True:
            await self.send(Ack(seq=(await self.next(Batch)).seq))

    async def close(self, code: int, reason: str = "") -> None:
        """Close with a code."""
        await self.connection.close(code, reason)

    async def _receive(self) -> None:
        try:
            async for frame in self.connection:
                data = frame.encode() if isinstance(frame, str) else frame
                self.frames.append(data)
                self.messages.append(decode_agent_message(data).message)
                self._server.notify()
        except ConnectionClosed:
            pass
        finally:
            received = self.connection.protocol.close_rcvd
            self.closed = 1006 if received is None else int(received.code)
            self._server.notify()


class FakeServer:
    """The server itself; make one with `fake_server`."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.peers: list[Peer] = []
        self.refusal: tuple[HTTPStatus, dict[str, str]] | None = None
        """While set, handshakes are answered with this status and these headers."""
        self.refused = 0
        self.clock_ahead_us = 0
        self.failures: list[BaseException] = []
        self._happened = asyncio.Event()
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """The agents' address."""
        assert self._server is not None
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/ws/agent"

    def now_us(self) -> int:
        """The server's clock."""
        return time.time_ns() // 1000 + self.clock_ahead_us

    def notify(self) -> None:
        """Let `until` look again."""
        self._happened.set()

    async def until(self, condition: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until a condition holds; it is looked at whenever a frame came or a connection began or ended."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._happened.clear()
                await self._happened.wait()

    async def peer(self, number: int, seconds: float = DEADLINE_SECONDS) -> Peer:
        """The connection of this number, from 1, once it is there."""
        await self.until(lambda: len(self.peers) >= number, seconds)
        return self.peers[number - 1]

    async def _handle(self, connection: ServerConnection) -> None:
        peer = Peer(connection, self, len(self.peers) + 1)
        self.peers.append(peer)
        self.notify()
        try:
            await self.script(peer)
            await connection.wait_closed()
        except ConnectionClosed:
            pass
        except AssertionError as error:
            if "the agent closed" not in str(error):
                self.failures.append(error)
        except Exception as error:  # noqa: BLE001 - raised at the end
            self.failures.append(error)
        finally:
            await peer._reader

    def _on_request(self, connection: ServerConnection, _: Request) -> Response | None:
        if self.refusal is None:
            return None
        self.refused += 1
        self.notify()
        status, headers = self.refusal
        response = connection.respond(status, "refused\n")
        for name, value in headers.items():
            response.headers[name] = value
        return response


async def acks_all(peer: Peer) -> None:
    """The script of a server that does its duty."""
    await peer.welcome()
    await peer.ack_all()


@asynccontextmanager
async def fake_server(script: Script = acks_all) -> AsyncIterator[FakeServer]:
    """A listening server; at the end a script's failure is raised."""
    fake = FakeServer(script)
    async with serve(
        fake._handle,
        "127.0.0.1",
        0,
        subprotocols=[Subprotocol(AGENT_SUBPROTOCOL)],
        process_request=fake._on_request,
        compression=None,
        ping_interval=None,
        close_timeout=1,
    ) as server:
        fake._server = server
        yield fake
    if fake.failures:
        raise fake.failures[0]
