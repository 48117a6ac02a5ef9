"""What is known of hosts and containers, written behind: the hot path never looks anything up.

Once a second what changed goes to the database in a few statements; while the database is away changes gather
(bounded by the containers there are) and new containers are accepted all the same. A record that Postgres refuses is left
out and named in the log; those of others are written. The progress of an epoch is written
here too, after the commits it tells of: at most 5 s behind, never ahead.
"""

import asyncio
import itertools
import json
import logging
import time
from datetime import UTC, datetime
from typing import Any

import asyncpg

from server.agents import AgentRecord, TrackedContainer
from server.counters import Counters
from server.db.directory_rows import UPSERT_CONTAINERS, UPSERT_HOSTS, ContainerRow, HostRow, columns
from server.db.pool import Database
from server.db.storage.times import to_datetime, to_micros
from server.errors import DatabaseDownError
from server.protocol.messages import Container, Hello
from server.registry import Registry

WRITE_EVERY_SECONDS = 1.0
TURNS = 3
"""How many writes it takes to come round to every agent's progress, which changes with each of its batches. What changes
seldom goes at once."""
_ROWS = 1_000
"""Records a statement: bounds its time, and halving a refused one its repetitions."""
_ROW_FAULTS = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
"""SQLSTATE classes 22, 23 and 54: this record, not this moment."""

_log = logging.getLogger("seatrial.db")


class Directory:
    """Writes the registry behind, and reads back what a restart must know."""

    def __init__(self, database: Database, registry: Registry, counters: Counters) -> None:
        self._database = database
        self._registry = registry
        self._counters = counters
        self._true_at = [time.monotonic()] * TURNS
        """For each turn: the time at which what the database has of its agents' progress was true."""

    @property
    def progress_age_seconds(self) -> float:
        """How far the progress in the database may be behind, at most."""
        return time.monotonic() - min(self._true_at)

    async def load(self) -> None:
        """Take every host's newest epoch and progress into the registry: hellos then need no look-up."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch("SELECT * FROM host")
            containers = await connection.fetch("SELECT * FROM container WHERE removed_at IS NULL")
        for row in containers:
            # Its number of then means nothing in the epoch to come.
            info = Container(
                ref=0, id=row["docker_id"], name=row["name"], image=row["image"], state=row["state"],
                labels=json.loads(row["labels"]), memory_limit_bytes=row["memory_limit_bytes"], protected=row["protected"],
            )  # fmt: skip
            self._registry.restore(row["org"], row["host"], info)
        for row in rows:
            record = self._registry.record(row["org"], row["host"])
            record.progress.epoch = str(row["epoch"])
            record.progress.acked = record.progress.received = row["acked_seq"]
            record.last_seen_us = to_micros(row["last_seen"])
            record.hello = Hello(
                protocol=1, epoch=str(row["epoch"]), connection=1, machine_id=row["machine_id"], oldest=1, next_seq=1,
                agent_version=row["agent_version"], hostname=row["hostname"], cores=row["cores"],
            )  # fmt: skip

    async def run(self) -> None:
        """Write once a second until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        for turn in itertools.cycle(range(TURNS)):
            due = max(due + WRITE_EVERY_SECONDS, loop.time())  # a write that took long does not put the next ones off
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self.write(turn)

    async def write(self, turn: int | None = None) -> bool:
        """Write what changed; with a `turn`, the progress of those agents only whose turn it is.

        False: the database did not take it; it is kept for the next time.
        """
        registry, begun = self._registry, time.monotonic()
        records = registry.dirty | {
            r for r in registry.records.values() if r.epoch_dirty and (turn is None or r.number % TURNS == turn)
        }
        records = {r for r in records if r.hello is not None}
        if records and not await self._write(records):
            return False
        for index in range(TURNS) if turn is None else (turn,):
            self._true_at[index] = begun
        return True

    async def _write(self, records: set[AgentRecord]) -> bool:
        registry = self._registry
        registry.dirty = set()
        taken: dict[AgentRecord, set[int]] = {}
        for record in records:
            record.epoch_dirty = False
            taken[record], record.dirty = record.dirty, set()
        containers = [
            (record, record.by_id[key]) for record, keys in taken.items() for key in keys if key in record.by_id
        ]
        try:
            async with self._database.acquire() as connection, connection.transaction():
                await self._write_hosts(connection, sorted(records, key=lambda r: (r.org, r.host)))
                await self._write_containers(connection, sorted(containers, key=lambda pair: pair[1].id))
        except (DatabaseDownError, asyncpg.PostgresError) as error:
            _log.warning("directory not written, will be tried again", extra={"error": str(error)})
            registry.dirty |= records
            for record, keys in taken.items():
                record.epoch_dirty = True
                record.dirty |= keys
            return False
        return True

    async def _execute(self, connection: asyncpg.Connection, statement: str, rows: list[tuple[Any, ...]]) -> set[Any]:
        """Write rows; what Postgres refuses is halved until it stands alone, and left out.

        Returns the first column of those that it passed over without an error: their key is another's.
        """
        passed_over: set[Any] = set()
        waiting = [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]
        while waiting:
            part = waiting.pop()
            try:
                async with connection.transaction():  # a savepoint: the transaction outside goes on
                    found = await connection.fetch(statement, *columns(part))
                passed_over |= {row[0] for row in part} - {row[0] for row in found}
            except _ROW_FAULTS as error:
                if len(part) > 1:
                    middle = len(part) // 2
                    waiting += [part[:middle], part[middle:]]
                    continue
                self._counters.directory_rows_refused += 1
                _log.error("not written", extra={"record": part[0][:4], "error": f"{error.sqlstate}: {error}"})
        return passed_over

    async def _write_hosts(self, connection: asyncpg.Connection, records: list[AgentRecord]) -> None:
        rows: list[tuple[Any, ...]] = [
            HostRow(r.org, r.host, h.machine_id, h.hostname, h.agent_version, h.cores, r.progress.epoch, r.progress.acked,
                    to_datetime(r.seen_us()))
            for r in records if (h := r.hello) is not None
        ]  # fmt: skip
        await self._execute(connection, UPSERT_HOSTS, rows)

    async def _write_containers(
        self, connection: asyncpg.Connection, containers: list[tuple[AgentRecord, TrackedContainer]]
    ) -> None:
        if not containers:
            return
        rows: list[tuple[Any, ...]] = [
            ContainerRow(
                c.id, r.org, r.host, c.info.id, c.info.name, c.series, c.info.image, c.info.state,
                json.dumps(c.info.labels), c.info.memory_limit_bytes, c.info.protected, _moment(c.removed_at),
            )
            for r, c in containers
        ]  # fmt: skip
        if lost := await self._execute(connection, UPSERT_CONTAINERS, rows):
            self._counters.container_collisions += len(lost)
            _log.error("container ids taken by other containers", extra={"container_ids": sorted(lost)})


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
