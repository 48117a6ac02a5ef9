"""A writer lane over a real database, with agents in front of it and places to cut."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from loadtests.copy_rows import unpacked, unpacked_lines
from server.counters import Counters
from server.db.storage.base import LogRow, Storage
from server.db.storage.plain import PlainStorage
from server.db.writer import Lane
from server.dirty_minutes import DirtyMinutes
from server.hub import Hub
from server.ingest import Ingest
from server.protocol.messages import Container, Hello
from server.registry import Registry
from server.windows import Budget
from simulator.samples import Sample, in_tuples
from tests.support import core

Step = Callable[[], Awaitable[None]]
APPLICATION_NAME = "test-lane"
EVER = 2**62 // 1000
PLAIN: Storage = PlainStorage()


@dataclass
class Cuts:
    """What happens at a lane's seams: one step per visit, then nothing."""

    steps: dict[str, list[Step]] = field(default_factory=dict)
    visits: list[str] = field(default_factory=list)

    def once(self, place: str, step: Step) -> None:
        """Do `step` when the lane comes to `place` next."""
        self.steps.setdefault(place, []).append(step)

    async def __call__(self, place: str) -> None:
        """The lane is at `place`."""
        self.visits.append(place)
        if steps := self.steps.get(place):
            await steps.pop(0)()


class Hold:
    """Stops a lane at a seam until it is let go."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self) -> None:
        """Stand here."""
        self.reached.set()
        await self.release.wait()


@dataclass
class Rig:
    """A server's writing half: registry, ingest, one running lane."""

    registry: Registry
    ingest: Ingest
    lane: Lane
    task: asyncio.Task[None]
    counters: Counters
    budget: Budget
    cuts: Cuts

    def agent(self, *containers: Container, host: str = "h1", greeting: Hello | None = None) -> core.Peer:
        """An agent with these containers connects; one container, if none is given."""
        return core.connect(
            self.registry, self.ingest, greeting or core.hello(*containers or [core.container()]), host=host
        )


@asynccontextmanager
async def rig(
    dsn: str,
    *,
    flush_seconds: float = 0.01,
    flush_bytes: int = 1024 * 1024,
    connection_class: type[asyncpg.Connection] = asyncpg.Connection,
    storage: Storage | None = None,
    dirty_minutes: DirtyMinutes | None = None,
) -> AsyncIterator[Rig]:
    """A rig over a migrated database; its lane ends with the context."""
    counters, budget, cuts = Counters(), Budget(64 * 1024 * 1024), Cuts()

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(
            dsn, timeout=10, server_settings={"application_name": APPLICATION_NAME}, connection_class=connection_class
        )

    lane = Lane(
        0, connect, storage or PlainStorage(), counters, budget, flush_seconds=flush_seconds, flush_bytes=flush_bytes,
        seam=cuts,
    )  # fmt: skip
    registry = core.make_registry(counters)
    ingest = core.make_ingest(counters, [lane], Hub(), budget=budget, dirty_minutes=dirty_minutes)
    task = asyncio.create_task(lane.run())
    try:
        yield Rig(registry, ingest, lane, task, counters, budget, cuts)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def metrics(
    connection: asyncpg.Connection, since: int = 0, until: int = EVER, storage: Storage = PLAIN
) -> list[Sample]:
    """Every stored sample of a time range (Unix microseconds), by key."""
    return sorted(in_tuples(unpacked(await _copied(storage.copy_metrics, connection, since, until))))


async def logs(
    connection: asyncpg.Connection, since: int = 0, until: int = EVER, storage: Storage = PLAIN
) -> list[LogRow]:
    """Every stored line of a time range, by key."""
    return sorted(unpacked_lines(await _copied(storage.copy_logs, connection, since, until)))


async def _copied(copy: Any, connection: asyncpg.Connection, since: int, until: int) -> bytes:
    pieces: list[bytes] = []

    async def take(piece: bytes) -> None:
        pieces.append(piece)

    await copy(connection, since, until, take)
    return b"".join(pieces)


async def backends(connection: asyncpg.Connection) -> list[int]:
    """Process ids of the lanes' backends on this database."""
    rows = await connection.fetch(
        "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()",
        APPLICATION_NAME,
    )
    return [row["pid"] for row in rows]


async def terminate(connection: asyncpg.Connection) -> None:
    """End every lane's backend, and wait until it is gone."""
    for pid in await backends(connection):
        await connection.execute("SELECT pg_terminate_backend($1, 10000)", pid)


class WatchedConnection(asyncpg.Connection):  # type: ignore[misc, unused-ignore]
    """A connection whose statements, or their outcomes, a test changes. Rows travel with the BEGIN and COMMIT around them."""

    def sent(self, statement: str) -> str:
        """What is sent in place of `statement`."""
        return statement

    def done(self, statement: str, tag: str) -> str:
        """What is answered; may raise."""
        return tag

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """One statement without rows."""
        return self.done(query, await super().execute(self.sent(query), *args, **options))

    async def _copy_in(self, copy_stmt: str, source: Any, timeout: float | None) -> str:  # noqa: ASYNC109 - asyncpg's
        return self.done(copy_stmt, await super()._copy_in(self.sent(copy_stmt), source, timeout))  # type: ignore[misc]
