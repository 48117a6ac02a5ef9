"""Writes a history: what a fleet would have sent until now, straight into the tables by COPY.

The rows are those that `seatrial simulate` makes of the same seed, on a timeline that begins in the past. A ledger says so
in the fleet's own format. So `seatrial verify` verifies a history like a run, and `seatrial simulate --continue` goes on
where it ends: same containers, same counters, next tick.
"""

import asyncio
import json
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import asyncpg

from loadtests.backfill_checks import check_database, check_disk, check_no_server
from loadtests.history_rows import HistoryRows, Piece
from server.db import migrate, rollup_progress
from server.db.directory_rows import UPSERT_CONTAINERS, UPSERT_HOSTS, ContainerRow, HostRow, columns
from server.db.storage.base import Storage, Window
from server.db.storage.times import to_datetime
from server.protocol.identity import series_name
from simulator.errors import PlanError
from simulator.expected import KnownHost, pool_digest
from simulator.ledger import Header, LedgerWriter, Map
from simulator.loglines import LogLines
from simulator.names import Names
from simulator.workload import HOUR_US, Workload, at_least

AGENT_VERSION: Final = "seatrial-backfill"
_STATEMENT_SECONDS: Final = 300.0
_TELL_SECONDS: Final = 5.0
_RECORDS: Final = 1_000
"""Records a statement."""
_CATCH_UPS: Final = 5
"""Times that what became due meanwhile is written too: each is shorter, unless the fleet outruns the database."""
_MOST_HOURS: Final = 8_760


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted(Workload):
    """A history that is wanted: of which fleet, and how long.

    Raises:
        PlanError: on creation; a value that no history can have.
    """

    hours: float
    org: str = "demo"
    retention_us: int = 86_400_000_000
    """Of the server to come: strategies that keep ranges choose their width by it."""
    connections: int = 2
    """That write at the same time."""

    def __post_init__(self) -> None:
        Workload.__post_init__(self)
        at_least(self, connections=1, retention_us=1)
        if not 0 < self.hours <= _MOST_HOURS:
            raise PlanError("hours", f"{self.hours:g}", f"more than 0, at most {_MOST_HOURS}")
        if self.span_us < self.interval_us:
            raise PlanError("hours", f"{self.hours:g}", f"one interval ({self.interval_us / 1e6:g}s) at least")
        if not 1 <= len(self.org) <= 128:
            raise PlanError("org", repr(self.org), "1 to 128 characters")

    @property
    def span_us(self) -> int:
        """Its length in microseconds."""
        return round(self.hours * HOUR_US)


class Backfill:
    """A history that is being written. Use `backfilling`.

    Attributes:
        t0_us: where it begins, Unix microseconds.
        until_us: up to where everything is written.
        rows: written so far.
        seconds: that writing them took, making them included.
    """

    def __init__(
        self,
        wanted: Wanted,
        storage: Storage,
        connections: list[asyncpg.Connection],
        ledger: Path,
        say: Callable[[str], None],
    ) -> None:
        self.t0_us = self.until_us = time.time_ns() // 1000 - wanted.span_us
        self.rows = 0
        self.seconds = 0.0
        self._wanted, self._storage = wanted, storage
        self._connections = connections
        self._path = ledger
        self._say = say
        self._told_at = 0.0
        self._reached_us = self.until_us
        header = Header(
            seed=wanted.seed, org=wanted.org, agents=wanted.agents, first_agent=wanted.first_agent,
            containers=wanted.containers, log_lines=wanted.log_lines, interval_us=wanted.interval_us, t0_us=self.t0_us,
            profiles=dict(wanted.profiles), churn_ticks=wanted.churn_ticks, backfilled=True,
            pool_digest=pool_digest(LogLines(wanted.seed), Names(wanted.seed)),
        )  # fmt: skip
        self._header = header
        self._rows = HistoryRows(header, wanted.span_us, storage)
        self._ledger: LedgerWriter | None = None

    async def begin(self) -> None:
        """Check everything that can be checked, then make the tables and the ledger.

        Raises:
            BackfillError: it is refused; nothing was changed.
            asyncpg.PostgresError, OSError: the database or the ledger failed.
        """
        wanted, connection = self._wanted, self._connections[0]
        await check_no_server(connection)
        await check_database(connection, self._storage)
        self._say(await check_disk(connection, self._rows.estimate(wanted.span_us)))
        self._ledger = LedgerWriter(self._path, self._header)
        for host in self._rows.hosts:
            self._ledger.add(Map(agent=host.fake.agent, epoch=0, seq=1, tick=0))
        await migrate.apply(connection, self._storage)
        await rollup_progress.forget(connection)

    async def write_up_to_now(self) -> None:
        """Write everything that was due until now; what becomes due while it is written counts too."""
        for _ in range(_CATCH_UPS):
            target = time.time_ns() // 1000
            if target - self.until_us < self._wanted.interval_us:
                return
            await self.write(target)

    async def write(self, until_us: int) -> None:
        """Write the rows of the ticks due before `until_us`, Unix microseconds.

        Raises:
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError: the database did not take them.
        """
        started = time.monotonic()
        self._reached_us = until_us
        self._note()
        making: asyncio.Future[list[Piece]] | None = None
        try:
            for since, until in self._rows.slices(self.until_us, until_us):
                pieces = await (making or self._make(since, until))
                # The next one is made while this one is written.
                following = min(until + until - since, until_us)
                making = self._make(until, following) if following > until else None
                await self._make_room(since, until)
                waiting = deque(pieces)
                await asyncio.gather(*(self._copy(connection, waiting) for connection in self._connections))
                self.until_us = until
                self.rows += sum(piece.rows for piece in pieces)
                self._tell(self.seconds + time.monotonic() - started)
        finally:
            if making is not None:
                await asyncio.wait({making})  # a thread cannot be cancelled
            self.seconds += time.monotonic() - started
        self._note()

    async def finish(self) -> None:
        """Tell the server of the hosts, their containers and how much log they have, and end the ledger.

        Raises:
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError: the database or the ledger failed.
        """
        connection = self._connections[0]
        counts = [(count.container_id, to_datetime(count.until), count.bytes) for count in self._rows.log_bytes()]
        async with connection.transaction():
            await _write(connection, UPSERT_HOSTS, [self._host_row(host) for host in self._rows.hosts])
            await _write(
                connection, UPSERT_CONTAINERS, [row for host in self._rows.hosts for row in self._container_rows(host)]
            )
            await _write(connection, _INSERT_SEGMENTS, counts)
        for target in (self._storage.metrics, self._storage.logs):
            await connection.execute(f"ANALYZE {target.table}")
        self.close()

    def close(self) -> None:
        """End the ledger with what is written. Idempotent; without `finish` the server knows nothing of the hosts."""
        if self._ledger is not None:
            self._note()
            self._ledger.close(self.until_us)
            self._ledger = None

    # ------------------------------------------------------------ parts

    def _make(self, since_us: int, until_us: int) -> "asyncio.Future[list[Piece]]":
        return asyncio.ensure_future(asyncio.to_thread(self._rows.make, since_us, until_us))

    async def _make_room(self, since_us: int, until_us: int) -> None:
        """What a server does as time goes on. Lines lie up to an interval before their tick."""
        since_us -= self._wanted.interval_us
        window = Window(now=since_us, retention_us=self._wanted.retention_us, ahead_us=until_us - since_us)
        await self._storage.prepare(self._connections[0], window)
        await self._storage.make_room(self._connections[0], since_us, until_us)

    async def _copy(self, connection: asyncpg.Connection, waiting: deque[Piece]) -> None:
        """Write pieces until there are none left; each is a transaction of its own."""
        while waiting:
            piece = waiting.popleft()
            target = piece.target
            await connection.copy_to_table(
                target.table, source=BytesIO(piece.data), columns=target.columns, format="binary"
            )

    def _note(self) -> None:
        """Into the ledger: what is being written may be there, what was written must be."""
        if self._ledger is not None:
            reached = [
                (host.fake.agent, host.fake.first_tick_at(self._reached_us), host.fake.first_tick_at(self.until_us))
                for host in self._rows.hosts
            ]
            self._ledger.flush(self.until_us, [(agent, 0, sent, sent, done) for agent, sent, done in reached])

    def _tell(self, seconds: float) -> None:
        now = time.monotonic()
        if now - self._told_at < _TELL_SECONDS:
            return
        self._told_at = now
        behind = max(0, self._reached_us - self.until_us)
        done = 1 - behind / max(1, self._reached_us - self.t0_us)
        self._say(f"{done:4.0%}  {self.rows:,} rows  {self.rows / seconds:,.0f} rows/s  {behind / 3.6e9:.1f} h to go")

    def _host_row(self, host: KnownHost) -> HostRow:
        fake, ticks = host.fake, host.fake.first_tick_at(self.until_us)
        return HostRow(
            self._wanted.org, fake.host_id, fake.machine_id, fake.hostname, AGENT_VERSION, fake.cores, str(uuid.uuid4()),
            ticks, to_datetime(fake.at(ticks - 1)),
        )  # fmt: skip

    def _container_rows(self, host: KnownHost) -> list[ContainerRow]:
        """What is there at the end, and what was and is gone."""
        fake, last = host.fake, host.fake.first_tick_at(self.until_us) - 1
        refs = fake.lives.refs(0, last)
        return [
            ContainerRow(
                host.ids[ref], self._wanted.org, fake.host_id, info.id, info.name, series_name(info.name, info.labels),
                info.image, info.state, json.dumps(info.labels), info.memory_limit_bytes, info.protected,
                to_datetime(fake.at(last)) if info.state == "removed" else None,
            )
            for ref, info in zip(refs, fake.inventory(refs, last), strict=True)
        ]  # fmt: skip


_INSERT_SEGMENTS: Final = (
    "INSERT INTO log_segment SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::bigint[]) ON CONFLICT DO NOTHING"
)


async def _write(connection: asyncpg.Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    for start in range(0, len(rows), _RECORDS):
        await connection.execute(statement, *columns(rows[start : start + _RECORDS]))


@asynccontextmanager
async def backfilling(
    wanted: Wanted, storage: Storage, dsn: str, ledger: Path, say: Callable[[str], None]
) -> AsyncIterator[Backfill]:
    """A history that has begun: write it, then `finish`. However it ends, its ledger tells what is written.

    Raises:
        BackfillError: it is refused.
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError: the database or the ledger failed.
    """
    async with AsyncExitStack() as stack:
        connections = []
        for _ in range(wanted.connections):
            connection = await asyncpg.connect(
                dsn, timeout=10, command_timeout=_STATEMENT_SECONDS, server_settings={"application_name": "backfill"}
            )
            stack.callback(connection.terminate)
            connections.append(connection)
        backfill = Backfill(wanted, storage, connections, ledger, say)
        stack.callback(backfill.close)
        await backfill.begin()
        yield backfill
