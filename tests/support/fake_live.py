"""A small stand-in for the server's live side: tickets, hosts, containers and a socket that follows a script.

It shares the message types with the real server and nothing else.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import jwt
import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect

from loadtests.answers import CHART_VALUES
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
    LiveRequest,
    LogLine,
    Logs,
    Metrics,
    Pause,
    Position,
    Resume,
    Sample,
    Snapshot,
    Subscribe,
    Unsubscribe,
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
STEP_US = 100_000
"""Of charts."""


@dataclass
class FakeLive:
    """What a connection does, in turn: `good`, or something that a browser must notice."""

    script: tuple[str, ...] = ("good",)
    user_token: str = "user-token"
    """The only one that is taken; empty: any JWT is, and its subject kept."""
    first_seen: dict[str, float] = field(default_factory=dict)
    """When each subject first asked for a ticket, by the monotonic clock."""
    orgs: set[tuple[str, str]] = field(default_factory=set)
    """Subjects and their organisations."""
    url: str = ""
    tickets: set[str] = field(default_factory=set)
    redeemed: int = 0
    origins: set[str] = field(default_factory=set)
    tails: set[int] = field(default_factory=set)
    subscribed: list[tuple[str, ...]] = field(default_factory=list)
    unsubscribed: list[tuple[str, ...]] = field(default_factory=list)
    paused: list[tuple[str, ...]] = field(default_factory=list)
    resumed_since: list[Position | None] = field(default_factory=list)
    heartbeats: int = 0
    samples: list[int] = field(default_factory=list)
    """Times of what is stored of any container, for all connections together."""
    lines: list[LogLine] = field(default_factory=list)
    """What is stored of any container's log."""

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        for i in range(3):
            self.lines.append(_line(_now_us() - 10**6, i))

    def tick(self) -> None:
        """Store what the agent reports next; of several connections only one makes a tick at a time."""
        at = _now_us() - SAMPLE_AGE_US
        if not self.samples or at > self.samples[-1] + 10_000:
            self.samples.append(at)
            self.lines += [_line(at, 0), _line(at, 1)]

    def resumed_lines(self, since: Position | None) -> list[LogLine]:
        """Stored lines behind a place."""
        return [line for line in self.lines if since and (line.at, line.line) > (since.at, since.line)]

    def app(self) -> FastAPI:
        """The fake as an ASGI app."""
        app = FastAPI(openapi_url=None)
        app.add_api_route("/api/live-tickets", self._ticket, methods=["POST"])
        app.add_api_route("/api/hosts", self._hosts)
        app.add_api_route("/api/hosts/{host}/containers", self._containers)
        app.add_api_route("/api/containers/{container}/metrics", self._chart)
        app.add_api_route("/api/containers/{container}/logs", self._log)
        app.add_api_websocket_route("/ws/live", self._live)
        return app

    def _refuse(self, request: Request) -> Response | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        good = token == self.user_token
        if not self.user_token:
            claims = jwt.decode(token, options={"verify_signature": False})
            subject = claims["sub"]
            self.orgs.add((subject, claims["org"]))
            self.first_seen.setdefault(subject, time.monotonic())
            good = True
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

    async def _chart(self, request: Request) -> Response:
        """Of samples by the tenth of a second."""
        since = int(request.query_params.get("from", 0))
        counts = Counter(at // STEP_US for at in self.samples if at >= since // STEP_US * STEP_US)
        at = sorted(counts)
        values = dict.fromkeys(CHART_VALUES, [1.0] * len(at))
        chart = {"step_seconds": STEP_US / 1e6, "at": [number * STEP_US for number in at], **values}
        return self._refuse(request) or Response(encode({**chart, "samples": [counts[number] for number in at]}))

    async def _log(self, request: Request) -> Response:
        since = int(request.query_params["since"])
        lines = [encode({"at": line.at, "line": line.line}) for line in self.lines if line.at >= since]
        return self._refuse(request) or Response(b"".join(line + b"\n" for line in lines))

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
    """One live socket: each tick has a sample of each container and two lines of the log watched."""

    def __init__(self, fake: FakeLive, socket: WebSocket, act: str) -> None:
        self._fake = fake
        self._socket = socket
        self._act = act
        self._topics: dict[str, bool] = {}
        """And whether they go on."""
        self._told_us: dict[str, int] = {}
        self._line = 0
        """How many of the stored lines were told, or need not be."""
        self._metrics = self._log_frames = 0

    async def serve(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            stream = tasks.create_task(self._stream())
            try:
                while True:
                    await self._answer(decode_live_request(await self._socket.receive_text()))
            except WebSocketDisconnect:
                stream.cancel()

    async def _answer(self, request: LiveRequest) -> None:
        match request:
            case LiveHeartbeat(at=at) if self._act != "silent":
                self._fake.heartbeats += 1
                await self._tell_all()  # what is stored was told before
                await self._send(HeartbeatEcho(at=at, server_time=_now_us()))
            case Subscribe(topics=topics, tail=tail):
                self._fake.subscribed.append(topics)
                for topic in topics:
                    await self._begin(topic, tail)
            case Unsubscribe(topics=topics):
                self._fake.unsubscribed.append(topics)
                for topic in topics:
                    del self._topics[topic]
            case Pause(topics=topics):
                self._fake.paused.append(topics)
                for topic in topics:
                    self._topics[topic] = self._act == "not_paused"
            case Resume(topics=topics, since=since):
                self._fake.resumed_since.append(since)
                self._metrics = 0
                for topic in topics:
                    lines = self._fake.resumed_lines(since)
                    self._line = len(self._fake.lines)
                    self._go_on(topic)
                    await self._send(Snapshot(topic=topic, at=_now_us(), lines=tuple(lines)))
            case _:
                pass

    async def _begin(self, topic: str, tail: int) -> None:
        kind, _, name = topic.partition(":")
        now = _now_us()
        snapshot = Snapshot(topic=topic, at=now)
        if kind == "fleet":
            summary = FleetSummary(hosts_online=1, hosts_offline=0, containers_running=2, containers=2, cpu=1, mem=1)
            snapshot = Snapshot(topic=topic, at=now, fleet=summary)
        elif kind == "host":
            snapshot = Snapshot(topic=topic, at=now, host=HOST, containers=CONTAINERS)
        elif kind == "logs":
            self._fake.tails.add(tail)
            self._line = len(self._fake.lines)
            snapshot = Snapshot(topic=topic, at=now, lines=tuple(self._fake.lines[-tail:] if tail else ()))
        await self._send(snapshot)
        await self._misbehave(kind, topic, name)
        self._go_on(topic)

    def _go_on(self, topic: str) -> None:
        """Tell what is stored from now on."""
        self._topics[topic] = True
        self._told_us[topic] = self._fake.samples[-1] if self._fake.samples else 0

    async def _send(self, event: LiveEvent) -> None:
        await self._socket.send_text(encode(event).decode())

    async def _stream(self) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):
            while True:
                await asyncio.sleep(1 / TICKS_PER_SECOND)
                self._fake.tick()
                await self._tell_all()

    async def _tell_all(self) -> None:
        for topic in [topic for topic, goes_on in self._topics.items() if goes_on]:
            await self._tell(topic)

    async def _tell(self, topic: str) -> None:
        """Everything of a topic that was not told yet: every sample, every line."""
        kind, _, name = topic.partition(":")
        if kind in {"host", "container"}:
            while new := [at for at in self._fake.samples[-TICKS_PER_SECOND:] if at > self._told_us[topic]]:
                self._told_us[topic] = new[0]  # the stream and the echo of a heartbeat may be here at once
                await self._tell_sample(kind, topic, name, new[0])
        elif kind == "logs" and (lines := self._fake.lines[self._line :]):
            self._line += len(lines)
            self._log_frames += 1
            if self._act not in {"gap", "lost_line"} or self._log_frames % 3:
                await self._send(Logs(topic=topic, lines=tuple(lines)))
            elif self._act == "gap":
                await self._send(Gap(topic=topic, dropped=len(lines)))

    async def _tell_sample(self, kind: str, topic: str, name: str, at: int) -> None:
        containers = [c.id for c in CONTAINERS] if kind == "host" else [name]
        self._metrics += kind == "container"
        if kind == "container" and self._act in {"sample_gap", "undeclared_sample"} and not self._metrics % 3:
            if self._act == "sample_gap":
                await self._send(Gap(topic=topic, dropped=1))
        elif kind == "host" or self._act != "lost_sample" or self._metrics <= 1:
            await self._send(Metrics(topic=topic, samples=tuple(_sample(c, at) for c in containers)))

    async def _misbehave(self, kind: str, topic: str, name: str) -> None:
        match self._act, kind:
            case "bad_frame", "host":
                await self._socket.send_text('{"type":"metrics","topic":7}')
            case "duplicate_line", "logs":
                await self._send(Logs(topic=topic, lines=(self._fake.lines[-1],)))
            case "time_back", "container":
                newest = self._fake.samples[-1] if self._fake.samples else _now_us()
                for at in (newest, newest - 5 * 10**6):
                    await self._send(Metrics(topic=topic, samples=(_sample(name, at),)))
            case "foreign", "host":
                await self._send(Metrics(topic=topic, samples=(_sample("999", _now_us()),)))
            case "error", "host":
                await self._send(Error(code="unavailable", message="no database", fatal=False))
            case "close_4008" | "close_1011", "logs":
                await self._socket.close(int(self._act.removeprefix("close_")), "it was not read")
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
