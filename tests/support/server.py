"""A real server in the test's own loop, and an independent client (`websockets`) for both its sockets."""

import asyncio
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import websockets
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection

from server.app import Service
from server.db.writer import Seam
from server.protocol.messages import AGENT_SUBPROTOCOL, LIVE_SUBPROTOCOL
from server.serving import DrainingServer, make_server, serve_until
from server.settings import Settings

SECRET = "a-secret-of-the-tests-that-is-long-enough"
DEADLINE_SECONDS = 20.0

Message = dict[str, Any]


class RunningServer:
    """A server that listens on a free port of 127.0.0.1."""

    def __init__(
        self, server: DrainingServer, settings: Settings, stop: asyncio.Event, done: asyncio.Task[None]
    ) -> None:
        self.server = server
        self.settings = settings
        self.service: Service = server.config.app.state.service  # type: ignore[union-attr]
        self.address = f"127.0.0.1:{server.port}"
        self.http = f"http://{self.address}"
        self.ws = f"ws://{self.address}"
        self._stop = stop
        self.done = done

    def stop(self) -> None:
        """Begin the orderly end, as SIGTERM would."""
        self._stop.set()

    def agent_token(self, host: str = "host-1", org: str = "org-a", seconds: int = 3600) -> str:
        """A token for an agent."""
        return self.service.tokens.mint_agent(org=org, host=host, seconds=seconds)

    def user_token(
        self, org: str = "org-a", role: str = "viewer", seconds: int = 3600, subject: str = "somebody"
    ) -> str:
        """A token for a user."""
        return self.service.tokens.mint_user(org=org, subject=subject, role=role, seconds=seconds)

    async def get(self, path: str, token: str | None = None) -> httpx.Response:
        """GET, as a user if a token is given."""
        return await self._request("GET", path, token)

    async def post(self, path: str, token: str | None = None, **headers: str) -> httpx.Response:
        """POST without a body."""
        return await self._request("POST", path, token, **headers)

    async def call(
        self, method: str, path: str, token: str | None = None, *, json: Any = None, **headers: str
    ) -> httpx.Response:
        """Any request; header names take _ for -."""
        return await self._request(method, path, token, json, **{k.replace("_", "-"): v for k, v in headers.items()})

    async def _request(
        self, method: str, path: str, token: str | None, json: Any = None, **headers: str
    ) -> httpx.Response:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with httpx.AsyncClient(base_url=self.http, timeout=2 * DEADLINE_SECONDS) as client:
            return await client.request(method, path, headers=headers, json=json)

    @asynccontextmanager
    async def agent(
        self, host: str = "host-1", org: str = "org-a", *, token: str | None = None, greet: bool = True, **hello: Any
    ) -> AsyncIterator["AgentClient"]:
        """A connected agent; with `greet` it has said hello and got its welcome."""
        headers = {"Authorization": f"Bearer {token or self.agent_token(host, org)}"}
        async with websockets.connect(
            f"{self.ws}/ws/agent", additional_headers=headers, subprotocols=[websockets.Subprotocol(AGENT_SUBPROTOCOL)],
            compression=None, max_size=None,
        ) as socket:  # fmt: skip
            client = AgentClient(socket)
            if greet:
                await client.hello(**hello)
            yield client

    @asynccontextmanager
    async def live(
        self,
        org: str = "org-a",
        *,
        query: str | None = None,
        origin: str | None = None,
        receive_buffer_bytes: int | None = None,
    ) -> AsyncIterator["Client"]:
        """A connected subscriber, by `?token=` unless another query is given."""
        peer = socket.socket()
        if receive_buffer_bytes is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        peer.setblocking(False)
        at = urlsplit(self.ws)
        await asyncio.get_running_loop().sock_connect(peer, (at.hostname, at.port))
        async with websockets.connect(
            f"{self.ws}/ws/live?{query or f'token={self.user_token(org)}'}",
            origin=websockets.Origin(origin or self.http),
            subprotocols=[websockets.Subprotocol(LIVE_SUBPROTOCOL)], compression=None, max_size=None, sock=peer,
        ) as live:  # fmt: skip
            yield Client(live)


class Client:
    """JSON messages over a `websockets` connection, each wait with a deadline."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, message: Message | str | bytes) -> None:
        """Send a message, or a raw frame."""
        await self.socket.send(json.dumps(message) if isinstance(message, dict) else message)

    async def receive(self) -> Message:
        """The next message."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            message: Message = json.loads(await self.socket.recv())
            return message

    async def until(self, message_type: str, where: Callable[[Message], bool] = lambda _: True) -> Message:
        """The next message of a type; others are passed over."""
        while True:
            message = await self.receive()
            if message["type"] == message_type and where(message):
                return message

    async def closed(self) -> tuple[int, str]:
        """Code and reason of the close; what comes before it is passed over."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                while True:
                    await self.socket.recv()
            except websockets.ConnectionClosed as error:
                return (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")


class AgentClient(Client):
    """An agent written down by hand, message by message."""

    def __init__(self, socket: ClientConnection) -> None:
        super().__init__(socket)
        self.welcome: Message = {}

    async def hello(self, **fields: Any) -> Self:
        """Say hello and wait for the welcome."""
        await self.send(hello(**fields))
        self.welcome = await self.until("welcome")
        return self

    async def batch(self, seq: int, *, oldest: int = 1, at: int | None = None, **fields: Any) -> int:
        """Send a batch, by default of one sample; returns its time."""
        at = now_us() if at is None else at
        message = {"type": "batch", "seq": seq, "oldest": oldest, "at": at} | fields
        if not fields:
            message["metrics"] = [sample(seq)]
        await self.send(message)
        return at

    async def acked(self, seq: int) -> Message:
        """The first ack that reaches `seq`."""
        return await self.until("ack", lambda message: message["seq"] >= seq)


def now_us() -> int:
    """Unix microseconds."""
    return time.time_ns() // 1000


def docker_id(number: int = 0) -> str:
    """A Docker id."""
    return f"{number:064x}"


def container(ref: int = 0, **fields: Any) -> Message:
    """A container of a hello."""
    known = {"ref": ref, "id": docker_id(ref), "name": f"web-{ref}", "image": "nginx", "state": "running"}
    return known | fields


def sample(value: int = 1, ref: int = 0, **fields: Any) -> Message:
    """A metric."""
    return {"ref": ref, "cpu": value / 2, "mem": value * 1000, "rx": value, "tx": value} | fields


def line(text: str, at: int, number: int = 0, ref: int = 0, **fields: Any) -> Message:
    """A log line."""
    return {"ref": ref, "at": at, "line": number, "stream": "stdout", "text": text} | fields


def hello(**fields: Any) -> Message:
    """A hello with one container."""
    return {
        "type": "hello", "protocol": 1, "epoch": str(uuid.uuid4()), "connection": 1, "machine_id": "machine-1", "oldest": 1,
        "next_seq": 1, "agent_version": "0.1", "hostname": "box", "cores": 2, "containers": [container()],
    } | fields  # fmt: skip


@asynccontextmanager
async def running_server(dsn: str, seam: Seam | None = None, **settings: Any) -> AsyncIterator[RunningServer]:
    """A server on a database of its own; stopped in order at the end."""
    values: dict[str, Any] = {"database_url": SecretStr(dsn), "jwt_secret": SecretStr(SECRET), "port": 0} | settings
    made = Settings(**values)
    server = make_server(made, seam)
    stop = asyncio.Event()
    done = asyncio.create_task(serve_until(server, stop))
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not server.started and not done.done():
            await asyncio.sleep(0.01)
    if done.done():
        await done
    running = RunningServer(server, made, stop, done)
    try:
        yield running
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await done


async def eventually(check: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str = "it") -> None:
    """Wait until `check` holds, with a deadline."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                result = check()
                if isinstance(result, bool):
                    if result:
                        return
                elif await result:
                    return
                await asyncio.sleep(0.02)  # there is no event to wait for: it is a state of the outside
    except TimeoutError:
        raise AssertionError(f"{what} did not come true within {DEADLINE_SECONDS:g} s") from None
