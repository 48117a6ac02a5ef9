"""A small stand-in for the server's live side: tickets, hosts, containers and a socket that follows a script.

It shares the message types with the real server and nothing else.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect

from server.protocol.codec import decode_live_request, encode
from server.protocol.messages import (
    LIVE_SUBPROTOCOL,
    ContainerStatus,
    Error,
    FleetSummary,
    Gap,
    HeartbeatEcho,
    HostStatus,
    LiveEvent,
    LiveHeartbeat,
    LogLine,
    Logs,
    Metrics,
    Sample,
    Snapshot,
    Subscribe,
)

HOST = HostStatus(id="host-00001", hostname="box", online=True, last_seen=1, containers=2)
CONTAINERS = tuple(
    ContainerStatus(
        id=str(7 + i), host=HOST.id, docker_id=f"{i:064x}", name=f"c{i}", series=f"c{i}", image="i", state="running"
    )
    for i in range(2)
)
SAMPLE_AGE_US = 50_000
"""How old samples and lines are when they are sent."""
TICKS_PER_SECOND = 20


@dataclass
class FakeLive:
    """What a connection does, in turn: `good`, or something that a browser must notice."""

    script: tuple[str, ...] = ("good",)
    user_token: str = "user-token"
    url: str = ""
    tickets: set[str] = field(default_factory=set)
    redeemed: int = 0
    origins: set[str] = field(default_factory=set)
    tails: set[int] = field(default_factory=set)
    subscribed: list[tuple[str, ...]] = field(default_factory=list)
    heartbeats: int = 0

    def __post_init__(self) -> None:
        self._numbers = itertools.count()

    def app(self) -> FastAPI:
        """The fake as an ASGI app."""
        app = FastAPI(openapi_url=None)
        app.add_api_route("/api/live-tickets", self._ticket, methods=["POST"])
        app.add_api_route("/api/hosts", self._hosts)
        app.add_api_route("/api/hosts/{host}/containers", self._containers)
        app.add_api_websocket_route("/ws/live", self._live)
        return app

    def _refuse(self, request: Request) -> Response | None:
        good = request.headers.get("authorization") == f"Bearer {self.user_token}"
        return None if good else Response(status_code=401)

    async def _ticket(self, request: Request) -> Response:
        if refusal := self._refuse(request):
            return refusal
        ticket = f"ticket-{next(self._numbers)}"
        self.tickets.add(ticket)
        return Response(encode({"ticket": ticket, "expires_in_seconds": 30}), 201)

    async def _hosts(self, request: Request) -> Response:
        return self._refuse(request) or Response(encode({"hosts": [HOST], "next": None}))

    async def _containers(self, request: Request, host: str) -> Response:
        if host != HOST.id:
            return Response(status_code=404)
        return self._refuse(request) or Response(encode({"containers": CONTAINERS}))

    async def _live(self, socket: WebSocket) -> None:
        self.origins.add(socket.headers.get("origin", ""))
        offered = LIVE_SUBPROTOCOL in socket.scope["subprotocols"]
        await socket.accept(LIVE_SUBPROTOCOL if offered else None)
        ticket = socket.query_params.get("ticket", "")
        if not offered or ticket not in self.tickets:
            await socket.close(4001, "ticket")
            return
        self.tickets.remove(ticket)
        act = self.script[self.redeemed % len(self.script)]
        self.redeemed += 1
        if act == "close_4001":
            await socket.close(4001, "token expired")
            return
        with suppress(WebSocketDisconnect, RuntimeError):
            await _Connection(self, socket, act).serve()


class _Connection:
    def __init__(self, fake: FakeLive, socket: WebSocket, act: str) -> None:
        self._fake = fake
        self._socket = socket
        self._act = act

    async def serve(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            stream: asyncio.Task[None] | None = None
            try:
                while True:
                    match decode_live_request(await self._socket.receive_text()):
                        case LiveHeartbeat(at=at) if self._act != "silent":
                            self._fake.heartbeats += 1
                            await self._send(HeartbeatEcho(at=at, server_time=_now_us()))
                        case Subscribe(topics=topics, tail=tail):
                            self._fake.subscribed.append(topics)
                            self._fake.tails.add(tail)
                            stream = tasks.create_task(self._stream(topics))
                        case _:
                            pass
            except WebSocketDisconnect:
                if stream:
                    stream.cancel()

    async def _send(self, event: LiveEvent) -> None:
        await self._socket.send_text(encode(event).decode())

    async def _stream(self, topics: tuple[str, ...]) -> None:
        _, host, container, logs = topics
        watched = container.partition(":")[2]
        tail = tuple(_line(_now_us() - SAMPLE_AGE_US, i) for i in range(3))
        with suppress(WebSocketDisconnect, RuntimeError):
            summary = FleetSummary(hosts_online=1, hosts_offline=0, containers_running=2, containers=2, cpu=1, mem=1)
            await self._send(Snapshot(topic="fleet", at=_now_us(), fleet=summary))
            await self._send(Snapshot(topic=host, at=_now_us(), host=HOST, containers=CONTAINERS))
            await self._send(Snapshot(topic=container, at=_now_us(), samples=(_sample(watched, _now_us() - 10**6),)))
            await self._send(Snapshot(topic=logs, at=_now_us(), lines=tail))
            await self._misbehave(host, container, logs, tail)
            for tick in itertools.count():
                at = _now_us() - SAMPLE_AGE_US
                await self._send(Metrics(topic=host, samples=tuple(_sample(c.id, at) for c in CONTAINERS)))
                await self._send(Metrics(topic=container, samples=(_sample(watched, at),)))
                await self._send(Logs(topic=logs, lines=(_line(at, 0), _line(at, 1))))
                if tick == 0:
                    await self._send(Gap(topic=logs, dropped=5))
                await asyncio.sleep(1 / TICKS_PER_SECOND)

    async def _misbehave(self, host: str, container: str, logs: str, tail: tuple[LogLine, ...]) -> None:
        match self._act:
            case "bad_frame":
                await self._socket.send_text('{"type":"metrics","topic":7}')
            case "duplicate_line":
                await self._send(Logs(topic=logs, lines=tail[-1:]))
            case "time_back":
                watched = container.partition(":")[2]
                await self._send(Metrics(topic=container, samples=(_sample(watched, _now_us() - 5 * 10**6),)))
            case "foreign":
                await self._send(Metrics(topic=host, samples=(_sample("999", _now_us()),)))
            case "error":
                await self._send(Error(code="unavailable", message="no database", fatal=False))
            case _:
                pass


def _now_us() -> int:
    return time.time_ns() // 1000


def _sample(container: str, at: int) -> Sample:
    return Sample(container=container, at=at, cpu=1.0, mem=1)


def _line(at: int, line: int) -> LogLine:
    return LogLine(at=at, line=line, stream="stdout", text="hello")


@asynccontextmanager
async def serve_live(fake: FakeLive) -> AsyncIterator[FakeLive]:
    """Serve `fake` on a free port of loopback; its `url` is set while it runs."""
    config = uvicorn.Config(
        fake.app(), port=0, log_level="warning", lifespan="off", ws="websockets-sansio", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(10):
            while not server.started:
                await asyncio.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        fake.url = f"http://{host}:{port}"
        yield fake
    finally:
        server.should_exit = True
        async with asyncio.timeout(10):
            await serving
