"""The composition: settings in, a FastAPI application out. The only place that knows every part."""

import asyncio
import gc
import logging
import math
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from fastapi import FastAPI, WebSocket
from prometheus_client import CollectorRegistry

from server.agents import Registry
from server.auth.tokens import Tokens
from server.counters import CounterCollector, Counters
from server.db import migrate
from server.db.directory import Directory
from server.db.history import History
from server.db.pool import Database
from server.db.retention import Retention
from server.db.storage.strategies import storage as strategy
from server.db.tickets import Tickets
from server.db.writer import Lane, Seam
from server.http import health, hosts, problems, tickets
from server.hub import Hub
from server.ingest import Budget, Ingest
from server.protocol.codec import encode
from server.protocol.messages import Drain
from server.settings import Settings
from server.ws.agent import AgentEndpoint
from server.ws.live import LiveEndpoint

VERSION = "0.1.0"

_log = logging.getLogger("seatrial.app")


class Service:
    """All parts of a running server, made in dependency order by `create_app`."""

    def __init__(self, settings: Settings, seam: Seam | None = None) -> None:
        self.settings = settings
        self.counters = Counters()
        self.storage = strategy(settings.storage)
        self.database = Database(
            settings.database_url.get_secret_value(),
            pool_size=settings.pool_size,
            statement_timeout_seconds=settings.statement_timeout_seconds,
        )
        self.tokens = Tokens(settings.jwt_secret.get_secret_value())
        self.hub = Hub()
        self.budget = Budget(settings.ingest_budget_bytes)
        self.registry = Registry(
            self.counters,
            lanes=settings.lanes,
            max_containers=settings.max_containers,
            labels_bytes=settings.labels_bytes,
            heartbeat_seconds=settings.heartbeat_seconds,
            offline_after_seconds=settings.offline_after_seconds,
        )
        self.registry.on_host = self.hub.publish_host
        self.lanes: list[Lane] = []
        self.history = History(self.database, self.storage)
        self.tickets = Tickets(self.database, ticket_seconds=settings.ticket_seconds)
        self.directory = Directory(self.database, self.registry, self.counters)
        self.retention = Retention(
            self.database,
            self.storage,
            self.registry,
            self.counters,
            retention_seconds=settings.retention_seconds,
            interval_seconds=settings.prune_interval_seconds,
        )
        self.ingest = Ingest(
            self.counters,
            self.budget,
            self.lanes,
            self.hub,
            window_batches=settings.window_batches,
            window_bytes=settings.window_bytes,
            accept_past_seconds=settings.accept_past_seconds,
            future_seconds=settings.future_seconds,
            log_text_bytes=settings.log_text_bytes,
        )
        self.agents = AgentEndpoint(settings, self.tokens, self.registry, self.ingest, self.counters)
        self.live = LiveEndpoint(
            settings, self.tokens, self.tickets, self.registry, self.hub, _LiveLogs(self), self.counters
        )
        self._seam = seam
        self._drained = False
        self.failed = False
        """A part died: the process ends with an error."""
        self.loop_lag_seconds = 0.0

    # -- life

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything up, in order; everything down in the other one.

        Raises:
            StartupError: the database cannot be used.
        """
        async with AsyncExitStack() as stack:
            await self.database.open(self.settings.database_wait_seconds)
            stack.push_async_callback(self.database.close)
            connection = await self.database.connect("seatrial-migrate")
            try:
                await migrate.apply(connection, self.storage)
            finally:
                await connection.close()
            await self.directory.load()
            tasks: set[asyncio.Task[None]] = set()
            stack.push_async_callback(_cancel, tasks)
            for index in range(self.settings.lanes):
                lane = Lane(
                    index,
                    lambda i=index: self.database.connect(f"seatrial-lane-{i}"),  # type: ignore[misc]
                    self.storage,
                    self.counters,
                    self.budget,
                    flush_seconds=self.settings.flush_seconds,
                    flush_bytes=self.settings.flush_bytes,
                    seam=self._seam,
                )
                self.lanes.append(lane)
            stack.callback(self.lanes.clear)
            for run in (self._tick, self.directory.run, self.retention.run, *(lane.run for lane in self.lanes)):
                task = asyncio.create_task(run())
                task.add_done_callback(self._part_ended)
                tasks.add(task)
            # What lives from here on lives long: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            stack.callback(gc.unfreeze)
            yield
            await self.drain()

    async def drain(self) -> None:
        """Take nothing more, tell the agents, flush, send the last acks. Idempotent; called before sockets are closed."""
        if self._drained:
            return
        self._drained = True
        self.live.draining = True
        sessions = [record.session for record in self.registry.records.values() if record.session is not None]
        within = max(5, math.ceil(len(sessions) / self.settings.reconnects_per_second))
        frame = encode(Drain(reconnect_within_seconds=within))
        for session in sessions:
            session.socket.try_send(frame)
        self.ingest.draining = True
        done = await asyncio.gather(*(lane.drain(self.settings.drain_seconds) for lane in self.lanes))
        await self.directory.write()
        if not all(done):
            _log.error("not everything was flushed: the agents hold it still", extra={"lanes": done.count(False)})
        _log.info("drained", extra={"agents": len(sessions), "reconnect_within_seconds": within})

    def _part_ended(self, task: asyncio.Task[None]) -> None:
        """A part that ends by itself takes the process down: what is unacknowledged is sent again to the next one."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.critical("a part of the server died", exc_info=error)
        self.failed = True
        os.kill(os.getpid(), signal.SIGTERM)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + 1.0
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            self.loop_lag_seconds = max(0.0, loop.time() - due)
            # After a stall the next tick is a second away: ticks are not made up for.
            due = max(due + 1.0, loop.time())
            self.registry.tick()
            self.live.tick()
            self.hub.publish_fleets(self.registry)

    # -- probes

    async def why_not_ready(self) -> list[str]:
        """Reasons why rows sent now could not be stored; empty: ready."""
        reasons = []
        if self._drained:
            reasons.append("draining")
        if not self.lanes:
            reasons.append("starting")
        if any(lane.failing_since is not None for lane in self.lanes):
            reasons.append("the database refuses what the lanes write")
        elif not await self.database.answers():
            reasons.append("the database does not answer")
        return reasons

    def gauges(self) -> dict[str, tuple[str, float]]:
        """What /metrics shows beside the counters."""
        return {
            "agents_connected": ("Agents with an open socket", self.registry.connected),
            "hosts_known": ("Hosts seen within this process or its database", len(self.registry.records)),
            "containers_known": ("Containers in memory", len(self.registry.by_container)),
            "subscribers": ("Open live sockets", len(self.live.subscribers)),
            "topics_watched": ("Topics with a subscriber", self.hub.topics),
            "outbox_bytes": (
                "Frames waiting for slow subscribers",
                sum(s.outbox.waiting_bytes for s in self.live.subscribers),
            ),
            "ingest_bytes": ("Rows received and not committed", self.budget.used_bytes),
            "ingest_budget_bytes": ("Most that ingest_bytes may be", self.budget.limit_bytes),
            "lane_batches_pending": ("Batches waiting for a flush", sum(lane.pending for lane in self.lanes)),
            "lanes_failing": (
                "Lanes whose last flush failed",
                sum(lane.failing_since is not None for lane in self.lanes),
            ),
            "loop_lag_seconds": ("How late the last one-second tick was", self.loop_lag_seconds),
        }


class _LiveLogs:
    """Stored lines for the live view: the history, and the lanes' barrier before it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.owns_container = service.history.owns_container
        self.tail = service.history.tail
        self.lines_after = service.history.lines_after

    async def committed(self, container_id: int, timeout_seconds: float) -> None:
        """Wait until what was received of a container is stored."""
        record = self._service.registry.by_container.get(container_id)
        if record is not None:
            await self._service.lanes[record.lane].barrier(timeout_seconds)


def create_app(settings: Settings, seam: Seam | None = None) -> FastAPI:
    """The application, nothing started yet; `app.state.service` holds its parts.

    `seam` lets a test cut between two steps of a flush (see `server.db.writer.Seam`).
    """
    service = Service(settings, seam)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="Seatrial",
        version=VERSION,
        description="Live metrics, logs and actions of Docker fleets. The WebSocket protocol is at /asyncapi.json.",
        lifespan=lifespan,
        exception_handlers=problems.HANDLERS,
    )
    app.state.service = service
    metrics = CollectorRegistry()
    metrics.register(CounterCollector(service.counters, service.gauges))
    current_user = problems.CurrentUser(service.tokens)
    app.include_router(health.router(metrics, service.why_not_ready))
    app.include_router(tickets.router(service.tickets, current_user))
    app.include_router(hosts.router(service.history, service.registry, current_user))

    @app.websocket("/ws/agent")
    async def agent_socket(ws: WebSocket) -> None:
        await service.agents(ws)

    @app.websocket("/ws/live")
    async def live_socket(ws: WebSocket) -> None:
        await service.live(ws)

    return app


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, Exception):
            await task
