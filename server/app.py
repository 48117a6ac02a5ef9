"""The composition: settings in, a FastAPI application out. The only place that knows every part."""

import asyncio
import logging
import math
import os
import platform
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import asyncpg
from fastapi import FastAPI, WebSocket
from prometheus_client import CollectorRegistry, Info

from server.actions import Actions
from server.agents import now_us
from server.auth.keys import Keys
from server.auth.revocations import Revocations
from server.auth.tokens import Tokens
from server.counters import CounterCollector, Counters
from server.db import migrate
from server.db.access import Access
from server.db.actions import ActionTable
from server.db.administration import Administration
from server.db.audit import Audit
from server.db.directory import Directory
from server.db.enrolment import Hosts
from server.db.history import History
from server.db.log_bounds import LogBoundKeeper
from server.db.pool import Database, ReadPool
from server.db.retention import Ages, Retention
from server.db.rollup import Rollup
from server.db.storage.strategies import storage as strategy
from server.db.storage_watch import StorageWatch
from server.db.tickets import Tickets
from server.db.writer import Lane, Seam
from server.dirty_minutes import DirtyMinutes
from server.errors import DatabaseDownError, StartupError
from server.http import (
    actions,
    administration,
    agents,
    audit,
    charts,
    consent,
    containers,
    health,
    hosts,
    logs,
    problems,
    tickets,
)
from server.http.body_limit import BodyLimit
from server.hub import Hub
from server.ingest import Ingest
from server.log_bounds import LogBounds
from server.protocol.codec import encode
from server.protocol.messages import Drain, Window
from server.quotas import Limits, Quotas
from server.registry import Registry
from server.settings import Settings
from server.windows import Budget, Windows
from server.ws.agent import AgentEndpoint
from server.ws.live import LiveEndpoint

VERSION = "0.1.0"
BUCKET_SECONDS = 0.1
"""Pause between two fillings of the organisations' buckets."""
_SLOW_FLUSH_SECONDS = 0.5
"""Above it acks are late, and what can wait leaves the machine to the lanes."""

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
        self.tokens = Tokens(_keys(settings))
        self.revocations = Revocations()
        self.hub = Hub()
        self.budget = Budget(settings.ingest_budget_bytes, share=settings.org_budget_share)
        self.quotas = Quotas(
            Limits(
                agents=settings.org_max_agents,
                containers=settings.org_max_containers,
                subscribers=settings.org_max_subscribers,
                batches_per_second=settings.org_batches_per_second,
            ),
            writes_per_second=settings.org_writes_per_second,
        )
        self.registry = Registry(
            self.counters,
            self.quotas,
            lanes=settings.lanes,
            max_containers=settings.max_containers,
            labels_bytes=settings.labels_bytes,
            heartbeat_seconds=settings.heartbeat_seconds,
            offline_after_seconds=settings.offline_after_seconds,
        )
        self.registry.on_host = self.hub.publish_host
        self.lanes: list[Lane] = []
        self.reading = Database(
            settings.database_url.get_secret_value(),
            pool_size=settings.read_pool_size,
            statement_timeout_seconds=settings.read_timeout_seconds,
            name="seatrial-read",
        )
        self.read_pool = ReadPool(self.reading, at_once=max(1, settings.read_pool_size // 2))
        self.dirty_minutes = DirtyMinutes()
        self.rollup = Rollup(
            self.database,
            self.storage,
            self.dirty_minutes,
            self.counters,
            self._all_committed,
            grace_seconds=settings.rollup_grace_seconds,
            future_seconds=settings.future_seconds,
            retention_seconds=settings.retention_seconds,
            duty=settings.rollup_duty,
            pressed=lambda: any(lane.flush_takes_seconds > _SLOW_FLUSH_SECONDS for lane in self.lanes),
        )
        self.history = History(self.read_pool, self.storage, lambda: self.rollup.rolled)
        self.tickets = Tickets(self.database, ticket_seconds=settings.ticket_seconds)
        self.access = Access(self.database, self.revocations, self.registry, self.quotas)
        self.access.on_revoked = self._close_revoked
        self.hosts = Hosts(
            self.database,
            self.registry,
            self.tokens,
            self.access,
            agent_token_seconds=settings.agent_token_seconds,
        )
        self.administration = Administration(
            self.database,
            self.registry,
            self.access,
            self.history,
            max_revocations=settings.org_max_revocations,
        )
        self.directory = Directory(self.database, self.registry, self.counters)
        self.log_bounds = LogBounds(settings.log_bytes_per_container)
        self.log_bound_keeper = LogBoundKeeper(
            self.database, self.storage, self.log_bounds, self.registry, self.counters, self.committed
        )
        self.retention = Retention(
            self.database,
            self.storage,
            self.registry,
            self.log_bounds,
            self.counters,
            ages=Ages(
                samples=settings.retention_seconds,
                rollup=settings.rollup_seconds,
                actions=settings.action_retention_seconds,
                audit=settings.audit_retention_seconds,
                hosts=settings.host_retention_seconds,
            ),
            interval_seconds=settings.prune_interval_seconds,
            future_seconds=settings.future_seconds,
            duty=settings.prune_duty,
        )
        self.storage_watch = StorageWatch(self.database, self.storage)
        most = Window(batches=settings.window_batches, bytes=settings.window_bytes)
        self.windows = Windows(self.budget, self.registry, most)
        self.ingest = Ingest(
            self.counters,
            self.budget,
            self.windows,
            self.lanes,
            self.hub,
            self.log_bounds,
            self.dirty_minutes,
            accept_past_seconds=settings.accept_past_seconds,
            future_seconds=settings.future_seconds,
            log_text_bytes=settings.log_text_bytes,
        )
        self.action_table = ActionTable(self.database, max_open=settings.max_open_actions)
        self.actions = Actions(
            self.action_table,
            self.registry,
            self.counters,
            self.hub.publish_action,
            grace_seconds=settings.action_grace_seconds,
            seam=seam,
        )
        self.audit = Audit(self.read_pool)
        self.agents = AgentEndpoint(
            settings,
            self.tokens,
            self.revocations,
            self.quotas,
            self.registry,
            self.ingest,
            self.actions,
            self.counters,
        )
        self.live = LiveEndpoint(
            settings,
            self.tokens,
            self.revocations,
            self.quotas,
            self.tickets,
            self.registry,
            self.hub,
            _LiveLogs(self),
            self.actions,
            self.counters,
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
            await self.reading.open(self.settings.database_wait_seconds)
            stack.push_async_callback(self.reading.close)
            connection = await self.database.connect("seatrial-migrate")
            try:
                await migrate.apply(connection, self.storage)
                await self.retention.prepare(connection)
            except asyncpg.DuplicateTableError as error:
                raise StartupError(
                    f"storage: {error}: expected no table of that name. It is no range that the server made, and was left as"
                    " it is; rename it"
                ) from None
            finally:
                await connection.close()
            await self.directory.load()
            await self.access.refresh()
            await self.actions.load()
            await self.log_bound_keeper.load()
            await self.rollup.load()
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
            parts = (self._tick, self.directory.run, self.retention.run, *(lane.run for lane in self.lanes))
            for run in (
                *parts,
                self.log_bound_keeper.run,
                self.rollup.run,
                self.storage_watch.run,
                self._fill_buckets,
                self.access.run,
                self.actions.run_down,
                self.actions.run_up,
                self.actions.run_clock,
            ):
                task = asyncio.create_task(run())
                task.add_done_callback(self._part_ended)
                tasks.add(task)
            yield
            await self.drain()

    async def drain(self) -> None:
        """Take nothing more, tell the agents, flush, send the last acks. Idempotent; called before sockets are closed."""
        if self._drained:
            return
        self._drained = True
        self.live.draining = True
        sessions = tuple(self.registry.sessions())
        within = max(5, math.ceil(len(sessions) / self.settings.reconnects_per_second))
        frame = encode(Drain(reconnect_within_seconds=within))
        for session in sessions:
            session.socket.try_send(frame)
        self.ingest.draining = True
        done = await asyncio.gather(*(lane.drain(self.settings.drain_seconds) for lane in self.lanes))
        self.quotas.release()
        await self.directory.write()
        try:
            async with asyncio.timeout(self.settings.drain_seconds):
                await self.log_bound_keeper.write()
        except (DatabaseDownError, asyncpg.PostgresError, TimeoutError):
            _log.warning("counts of log bytes were not written")
        try:
            async with asyncio.timeout(self.settings.drain_seconds):
                await self.actions.store_results()
        except (DatabaseDownError, TimeoutError):
            _log.warning("results of actions were not stored: the agents repeat them")
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

    async def _fill_buckets(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(BUCKET_SECONDS)
            self.quotas.tick(loop.time())
            self.windows.tick()

    def _close_revoked(self) -> None:
        self.agents.close_revoked()
        self.live.close_revoked()

    async def committed(self, container_id: int, timeout_seconds: float) -> None:
        """Wait until what was received of a container is stored.

        Raises:
            TimeoutError: the database did not get there in time.
        """
        record = self.registry.by_container.get(container_id)
        if record is not None:
            await self.lanes[record.lane].barrier(timeout_seconds)

    async def _all_committed(self, timeout_seconds: float) -> None:
        """Wait until everything that was received is stored.

        Raises:
            TimeoutError: the database did not get there in time.
        """
        async with asyncio.timeout(timeout_seconds):
            for lane in self.lanes:
                await lane.barrier(timeout_seconds)

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
        outlook = self.retention.outlook
        storage: dict[str, tuple[str, float]] = {} if outlook is None else {
            "storage_ranges": ("Ranges of time that each table consists of; 0: it is one", outlook.ranges),
            "storage_range_seconds": ("Width of the next range; 0: there are none", outlook.range_seconds),
            "hot_index_bytes": ("Indexes that new rows go into, as large as they get", outlook.hot_index_bytes),
            "hot_index_limit_bytes": ("A quarter of shared_buffers", outlook.hot_index_limit_bytes),
            "advised_shared_buffers_bytes": (
                "What shared_buffers would have to be for hot_index_bytes; 0: it suffices",
                outlook.advised_shared_buffers_bytes,
            ),
        }  # fmt: skip
        return storage | {
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
            "retention_seconds": ("Age at which samples and log lines are removed", self.settings.retention_seconds),
            "prune_interval_seconds": ("From one removal's begin to the next", self.settings.prune_interval_seconds),
            "prune_begun_timestamp_seconds": (
                "When the newest removal began; 0: none did",
                self.retention.begun_us / 1e6,
            ),
            "prune_ended_timestamp_seconds": (
                "When the newest that is over ended; 0: none",
                self.retention.ended_us / 1e6,
            ),
            "rollup_minutes_waiting": (
                "Minutes of containers marked for the rollup at the end of its last round, those not over included",
                self.rollup.waiting.minutes,
            ),
            "rollup_oldest_age_seconds": (
                "How long ago the oldest marked minute began; 0: there is none",
                0 if (oldest := self.rollup.waiting.oldest) is None else max(0, now_us() - oldest) / 1e6,
            ),
            "rollup_minutes_to_fill": (
                "Minutes of samples without marks that are not in the rollup yet",
                self.rollup.minutes_to_fill,
            ),
            "progress_age_seconds": (
                "How far the agents' acked_seq in the database may be behind",
                self.directory.progress_age_seconds,
            ),
            "acks_waiting": ("Agents whose ack waits for their organisation's rate", self.quotas.acks_waiting),
            "actions_pending": ("Actions that wait for their agent", self.actions.pending),
            "lanes": ("Writer connections", len(self.lanes)),
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
        self.committed = service.committed
        self.owns_container = service.history.owns_container
        self.tail = service.history.tail
        self.lines_after = service.history.lines_after


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
    app.add_middleware(BodyLimit)
    app.state.service = service
    metrics = CollectorRegistry()
    metrics.register(CounterCollector(service.counters, service.gauges))
    metrics.register(service.storage_watch)
    build = Info("seatrial_build", "The software of this server", registry=metrics)
    build.info({"version": VERSION, "python": platform.python_version()})
    current_user = problems.CurrentUser(service.tokens, service.revocations, service.quotas)
    current_agent = agents.CurrentAgent(service.tokens, service.revocations)

    # The sockets first: routes are tried in order, and ten thousand agents dial.
    @app.websocket("/ws/agent")
    async def agent_socket(ws: WebSocket) -> None:
        await service.agents(ws)

    @app.websocket("/ws/live")
    async def live_socket(ws: WebSocket) -> None:
        await service.live(ws)

    app.include_router(health.router(metrics, service.why_not_ready))
    app.include_router(consent.router(settings))
    app.include_router(tickets.router(service.tickets, current_user))
    app.include_router(agents.router(service.hosts, settings, current_user, current_agent))
    app.include_router(administration.router(service.administration, service.quotas, current_user))
    app.include_router(hosts.router(service.history, service.registry, current_user))
    app.include_router(containers.router(service.history, current_user))
    app.include_router(
        charts.router(
            service.history,
            current_user,
            retention_seconds=settings.retention_seconds,
            rollup_seconds=settings.rollup_seconds,
        )
    )
    app.include_router(
        logs.router(
            service.history,
            current_user,
            future_seconds=settings.future_seconds,
            max_downloads=settings.max_downloads,
            org_max_downloads=settings.org_max_downloads,
        )
    )
    app.include_router(actions.router(service.actions, service.action_table, current_user))
    app.include_router(audit.router(service.audit, current_user))

    return app


def _keys(settings: Settings) -> Keys:
    if settings.jwt_secret is not None:
        return Keys.of_secret(settings.jwt_secret.get_secret_value())
    jwks, signing_key, signing_kid = settings.jwt_keys, settings.jwt_signing_key, settings.jwt_signing_kid
    assert jwks and signing_key and signing_kid  # noqa: S101, PT018 - Settings wants one or the other
    return Keys.of_files(jwks, signing_key, signing_kid)


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, Exception):
            await task
