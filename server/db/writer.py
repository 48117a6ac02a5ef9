"""Lanes: where accepted batches become committed rows.

A lane is one task with one connection. It takes what has gathered, sorts it by key, and stores it in one transaction:
fresh rows by COPY, rows that may have been stored before through a temporary table and INSERT ... ON CONFLICT DO NOTHING,
values compared; with them, what marks their minutes for the rollup. Only after COMMIT does an agent hear of it.

What can fail, and what follows:

- the database is away, too busy or full: back-off and again; nothing is acknowledged, nobody is closed;
- the outcome of a COMMIT is unknown: the same rows again, merged instead of copied;
- a row is a duplicate after all: the flush is merged, the agent's rows are merged from then on;
- a partition is missing: the strategy makes it, and the same rows go again; it is no fault of the row;
- Postgres refuses a row: halve until it stands alone, reject it by name, store the rest.
"""

import asyncio
import logging
import random
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import asyncpg

from server.agents import Progress
from server.counters import Counters
from server.db.copying import copy_in
from server.db.dirty_marks import mark_statement
from server.db.pool import BROKEN
from server.db.storage.base import CopyTarget, Storage
from server.db.storage.times import to_datetime
from server.ingest import PendingBatch
from server.protocol.error_codes import RejectReason
from server.protocol.messages import Rejected
from server.rows import log_line_number, row_key
from server.windows import Budget

_log = logging.getLogger("seatrial.writer")

Seam = Callable[[str], Awaitable[None]]
"""A named place between two steps where a test may cut: before_begin, before_commit, after_commit."""

FLUSH_MOST = 2
"""What a flush takes at most, in `flush_bytes`: a backlog goes in several, or one statement would hold up the loop, take as
much memory again, and not be done in time."""
RETRY_FIRST_SECONDS = 0.1
RETRY_MOST_SECONDS = 5.0

_ROW_FAULTS = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
"""SQLSTATE classes 22 and 23: this row, not this moment."""
_FAILURES = (asyncpg.PostgresError, *BROKEN)
_KEY_IN_DETAIL = re.compile(r"\(container_id, .*?\)=\((\d+), ")
"""In whatever language the server words the sentence around it."""


@dataclass(slots=True)
class _Rows:
    """Packed rows of one table, and where each came from."""

    target: CopyTarget
    rows: list[bytes]
    origins: list[tuple[PendingBatch, str]]
    """Per row: its batch, and its place in the frame."""

    def in_order(self) -> list[bytes]:
        """The rows by key, kind to the index: they begin with it in network byte order, so byte order is key order."""
        self.rows.sort()
        return self.rows

    def part(self, start: int, stop: int) -> "_Rows":
        return _Rows(self.target, self.rows[start:stop], self.origins[start:stop])


class _OutcomeUnknownError(Exception):
    """The connection broke while COMMIT was on its way."""


class Lane:
    """One writer. `run` owns the connection; `offer` may be called by anybody on the loop."""

    def __init__(
        self,
        index: int,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        storage: Storage,
        counters: Counters,
        budget: Budget,
        *,
        flush_seconds: float,
        flush_bytes: int,
        seam: Seam | None = None,
    ) -> None:
        self.index = index
        self._connect = connect
        self._storage = storage
        self._counters = counters
        self._budget = budget
        self._flush_seconds = flush_seconds
        self._flush_bytes = flush_bytes
        self._seam = seam
        self._pending: deque[PendingBatch] = deque()
        self._pending_bytes = 0
        self._offered = self._committed = 0
        """Batches ever; they are committed in the order in which they were offered."""
        self._some = asyncio.Event()
        self._enough = asyncio.Event()
        self._flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connection: asyncpg.Connection | None = None
        self.failing_since: float | None = None
        """Monotonic time since when no flush succeeded; None: all is well."""
        self._flush_began: float | None = None
        self._last_flush_seconds = 0.0

    def offer(self, batch: PendingBatch) -> None:
        """Take a batch for the next flush."""
        self._pending.append(batch)
        self._offered += 1
        self._pending_bytes += batch.memory_bytes
        self._some.set()
        if self._pending_bytes >= self._flush_bytes:
            self._enough.set()

    @property
    def pending(self) -> int:
        """Batches that wait for a flush, the one under way not counted."""
        return len(self._pending)

    @property
    def idle(self) -> bool:
        """Whether everything offered is committed."""
        return not self._pending and self._flush_began is None

    @property
    def flush_takes_seconds(self) -> float:
        """How long the last flush took, or the one under way has taken so far, whichever is longer; 0 while nothing waits."""
        if self._flush_began is None:
            return self._last_flush_seconds if self._pending else 0.0
        return max(self._last_flush_seconds, asyncio.get_running_loop().time() - self._flush_began)

    async def barrier(self, timeout_seconds: float) -> None:
        """Wait until everything offered before this call is committed.

        Raises:
            TimeoutError: the database did not get there in time.
        """
        async with asyncio.timeout(timeout_seconds):
            last = self._offered
            while self._committed < last:
                self._enough.set()
                await asyncio.shield(self._flushed)

    async def run(self) -> None:
        """Flush until cancelled. Cancel only after `drain`, or what waits is lost (unacknowledged, so it comes again)."""
        try:
            while True:
                await self._some.wait()
                if not self._enough.is_set():
                    try:
                        async with asyncio.timeout(self._flush_seconds):
                            await self._enough.wait()
                    except TimeoutError:
                        pass
                batches = self._take()
                loop = asyncio.get_running_loop()
                began = self._flush_began = loop.time()
                try:
                    batches = await self._store(batches)
                    if self._seam:
                        await self._seam("after_commit")
                finally:
                    self._flush_began, self._last_flush_seconds = None, loop.time() - began
                self._committed += len(batches)
                self._acknowledge(batches)
                flushed, self._flushed = self._flushed, asyncio.get_running_loop().create_future()
                flushed.set_result(None)
        finally:
            await self._disconnect()

    async def drain(self, timeout_seconds: float) -> bool:
        """Flush everything that was offered. False: the deadline passed before."""
        try:
            await self.barrier(timeout_seconds)
        except TimeoutError:
            return False
        return True

    # -- a flush

    def _take(self) -> list[PendingBatch]:
        """What goes into the next flush: all there is, but no more than a statement and the loop bear."""
        taken: list[PendingBatch] = []
        size = 0
        while self._pending and size < FLUSH_MOST * self._flush_bytes:
            taken.append(self._pending.popleft())
            size += taken[-1].memory_bytes
        self._pending_bytes -= size
        self._look_at_pending()
        return taken

    def _give_back(self, batches: list[PendingBatch]) -> None:
        """They wait for a flush of their own, before all others."""
        self._pending.extendleft(reversed(batches))
        self._pending_bytes += sum(batch.memory_bytes for batch in batches)
        self._look_at_pending()

    def _look_at_pending(self) -> None:
        for event, due in ((self._some, bool(self._pending)), (self._enough, self._pending_bytes >= self._flush_bytes)):
            if due:
                event.set()
            else:
                event.clear()

    async def _store(self, batches: list[PendingBatch]) -> list[PendingBatch]:
        """Until they are committed; returns those that are: too much for one statement's time is halved."""
        merge_all = made_room = False
        attempt = 0
        started = asyncio.get_running_loop().time()
        while True:
            try:
                await self._flush(batches, merge_all=merge_all)
            except _ROW_FAULTS as error:
                reason = error.sqlstate
                _suspect(error, batches)
                if _lacks_partition(error):
                    reason = "missing_partition"
                    if not made_room and await self._made_room(batches):
                        made_room = True
                        self._count_retry(reason)
                        continue
                elif not merge_all:
                    # One of these rows is at fault: the merge finds which, right now, on the same connection.
                    merge_all = True
                    if await self._rolled_back():
                        self._count_retry(reason)
                        continue
            except _OutcomeUnknownError as error:
                reason = "commit_unknown"
                merge_all = True
                batches = self._halved(batches, error.__cause__, replay=True)
            except _FAILURES as error:
                reason = getattr(error, "sqlstate", None) or type(error).__name__
                batches = self._halved(batches, error, replay=merge_all)
                _log.warning(
                    "flush failed, will be tried again",
                    extra={"lane": self.index, "reason": reason, "error": str(error), "batches": len(batches)},
                )
            else:
                self.failing_since = None
                self._counters.flushes += 1
                self._counters.flush_seconds.observe(asyncio.get_running_loop().time() - started)
                return batches
            self._count_retry(reason)
            if self.failing_since is None:
                self.failing_since = asyncio.get_running_loop().time()
            await self._disconnect()
            delay = min(RETRY_MOST_SECONDS, RETRY_FIRST_SECONDS * 2**attempt)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            attempt += 1

    def _halved(self, batches: list[PendingBatch], error: BaseException | None, *, replay: bool) -> list[PendingBatch]:
        """What is tried next: the first half, if all was too much for a statement's time, which it would be again."""
        if not isinstance(error, TimeoutError | asyncpg.QueryCanceledError) or len(batches) == 1:
            return batches
        rest = batches[len(batches) // 2 :]
        for batch in rest:
            batch.replay = batch.replay or replay
        self._give_back(rest)
        return batches[: len(batches) // 2]

    async def _flush(self, batches: list[PendingBatch], *, merge_all: bool) -> None:
        fresh = [] if merge_all else [b for b in batches if not b.replay]
        maybe_stored = batches if merge_all else [b for b in batches if b.replay]
        if not any(b.metric_rows or b.log_rows for b in batches):
            return  # everything in them was rejected: there is nothing to commit
        connection = await self._connected()
        if self._seam:
            await self._seam("before_begin")
        copied = self._collect(fresh, origins=False)
        to_copy = [rows for rows in copied if rows.rows]
        # What ends the transaction travels with the last of its rows, what begins it with the first.
        last = to_copy.pop() if to_copy and not maybe_stored else None
        # What marks minutes for the rollup travels with BEGIN: committed with the rows, without a trip of its own.
        marking = mark_statement((container.id, minute) for batch in batches for container, minute in batch.marks)
        begin = f"BEGIN; {marking}" if marking else "BEGIN"
        for rows in to_copy:
            await copy_in(connection, rows.target, rows.in_order(), before=begin)
            begin = ""
        rejected: list[tuple[PendingBatch, Rejected]] = []
        merged = [0, 0]
        replayed = 0
        if maybe_stored and begin:
            await connection.execute(begin)
        for i, rows in enumerate(self._collect(maybe_stored, origins=True)):
            if rows.rows:
                stored, equal = await self._merge(connection, rows, rejected)
                merged[i] += stored
                replayed += equal
        if self._seam:
            await self._seam("before_commit")
        try:
            if last is not None:
                done = await copy_in(connection, last.target, last.in_order(), before=begin, after="COMMIT")
            else:
                done = await connection.execute("COMMIT")
        except _FAILURES as error:
            if _says_rolled_back(error):
                raise
            raise _OutcomeUnknownError(str(error)) from error
        if done != "COMMIT":  # Postgres ends an aborted transaction with another word, and no error
            raise _OutcomeUnknownError(f"COMMIT was answered with {done}")
        # From here on it is stored: count and note, nothing that can fail.
        self._counters.metric_rows_stored += len(copied[0].rows) + merged[0]
        self._counters.log_rows_stored += len(copied[1].rows) + merged[1]
        self._counters.rows_replayed += replayed
        self._counters.flushes_merged += bool(maybe_stored)
        for batch, row in rejected:
            batch.progress.suspect = True
            batch.rejected.append(row)
            self._counters.rows_rejected[row.reason] += 1

    def _collect(self, batches: list[PendingBatch], *, origins: bool) -> tuple[_Rows, _Rows]:
        """The rows of some batches, per table; where each came from only if it is asked for."""
        metrics, logs = _Rows(self._storage.metrics, [], []), _Rows(self._storage.logs, [], [])
        for batch in batches:
            metrics.rows += batch.metric_rows
            logs.rows += batch.log_rows
            if origins:
                metrics.origins += [(batch, f"metrics[{i}]") for i in batch.metric_positions]
                logs.origins += [(batch, f"logs[{i}]") for i in batch.log_positions]
        return metrics, logs

    async def _merge(
        self, connection: asyncpg.Connection, rows: _Rows, rejected: list[tuple[PendingBatch, Rejected]]
    ) -> tuple[int, int]:
        """Store what is not there, compare what is. Returns rows stored, and rows that were there with equal values."""
        await connection.execute("SAVEPOINT merging")
        try:
            stored, conflicts = await _merge_rows(connection, rows)
        except _ROW_FAULTS as error:
            if _lacks_partition(error):
                raise
            await connection.execute("ROLLBACK TO SAVEPOINT merging")
            if len(rows.rows) == 1:
                rejected.append(_reject(rows, 0, RejectReason.UNSTORABLE, f"{error.sqlstate}: {error}"))
                return 0, 0
            middle = len(rows.rows) // 2
            first = await self._merge(connection, rows.part(0, middle), rejected)
            second = await self._merge(connection, rows.part(middle, len(rows.rows)), rejected)
            return first[0] + second[0], first[1] + second[1]
        await connection.execute("RELEASE SAVEPOINT merging")
        for index in conflicts:
            detail = "a row with this identity is stored with other values"
            rejected.append(_reject(rows, index, RejectReason.CONFLICTING_DUPLICATE, detail))
        return stored, len(rows.rows) - stored - len(conflicts)

    def _acknowledge(self, batches: list[PendingBatch]) -> None:
        """One cumulative ack per agent."""
        progresses: dict[int, Progress] = {}
        now, observe = time.monotonic(), self._counters.ack_seconds.observe
        for batch in batches:
            observe(now - batch.received_at)
            batch.progress.committed(batch.seq, 1, batch.frame_bytes, batch.rejected)
            self._budget.give(batch.record.organisation, batch.memory_bytes)
            batch.record.epoch_dirty = True
            progresses[id(batch.progress)] = batch.progress
        for progress in progresses.values():
            if progress.on_change is not None:
                progress.on_change()

    def _count_retry(self, reason: str) -> None:
        self._counters.flush_retries[reason] += 1

    # -- the connection

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            # Kept before it is prepared: if that fails, `_disconnect` closes it, and no try leaves a connection behind.
            self._connection = await self._connect()
            for target in (self._storage.metrics, self._storage.logs):
                await self._connection.execute(
                    f"CREATE TEMP TABLE incoming_{target.table} (LIKE {target.table}, ord bigserial) ON COMMIT DELETE ROWS"
                )
        return self._connection

    async def _made_room(self, batches: list[PendingBatch]) -> bool:
        """Let the strategy make what these rows lack; False: it could not, so they wait."""
        if not await self._rolled_back():
            return False
        times = [row_key(row)[1] for batch in batches for row in (*batch.metric_rows, *batch.log_rows)]
        try:
            await self._storage.make_room(await self._connected(), min(times), max(times))
        except _FAILURES as error:
            _log.warning("no partition could be made", extra={"lane": self.index, "error": str(error)})
            return False
        return True

    async def _rolled_back(self) -> bool:
        """End the failed transaction; False: the connection is gone too."""
        if self._connection is None:
            return False
        try:
            await self._connection.execute("ROLLBACK")
        except _FAILURES:
            return False
        return True

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


async def _merge_rows(connection: asyncpg.Connection, rows: _Rows) -> tuple[int, list[int]]:
    """Insert what is new; returns how many rows that were, and the indexes of rows stored with other values."""
    target = rows.target
    incoming = f"incoming_{target.table}"
    columns, key = ", ".join(target.columns), ", ".join(target.key)
    values = [column for column in target.columns if column not in target.key]
    await connection.execute(f"DELETE FROM {incoming}")  # noqa: S608 - our own names, here and below
    await copy_in(connection, replace(target, table=incoming), rows.rows)
    status = await connection.execute(
        f"INSERT INTO {target.table} ({columns}) SELECT DISTINCT ON ({key}) {columns} FROM {incoming}"  # noqa: S608
        f" ORDER BY {key}, ord ON CONFLICT DO NOTHING"
    )
    ours, theirs = (", ".join(f"{alias}.{column}" for column in values) for alias in ("i", "t"))
    times = [row_key(row)[1] for row in rows.rows]
    conflicts = await connection.fetch(
        f"SELECT i.ord - (SELECT min(ord) FROM {incoming}) AS index FROM {incoming} i"  # noqa: S608
        f" JOIN {target.table} t USING ({key}) WHERE ({ours}) IS DISTINCT FROM ({theirs})"
        " AND t.timestamp BETWEEN $1 AND $2 ORDER BY i.ord",  # or the plan reads every range of a table that has them
        to_datetime(min(times)),
        to_datetime(max(times)),
    )
    return int(status.rsplit(" ", 1)[1]), [record["index"] for record in conflicts]


def _lacks_partition(error: asyncpg.PostgresError) -> bool:
    """Whether there is no place for a row: Postgres calls it a violated check, without the name of one."""
    return isinstance(error, asyncpg.CheckViolationError) and error.constraint_name is None


def _says_rolled_back(error: BaseException) -> bool:
    """Whether Postgres itself says that nothing was committed.

    A FATAL error may come after the transaction was committed, and so may a cancellation (57014) that arrives while Postgres
    logs the duration; any other ERROR would be a PANIC by then.
    """
    return (
        isinstance(error, asyncpg.PostgresError)
        and getattr(error, "severity_en", None) == "ERROR"
        and not isinstance(error, asyncpg.QueryCanceledError)
    )


def _suspect(error: asyncpg.PostgresError, batches: list[PendingBatch]) -> None:
    """Merge from now on what the agent sends whose row was stored already: Postgres names the key."""
    found = _KEY_IN_DETAIL.search(error.detail or "")
    if found is None or not isinstance(error, asyncpg.UniqueViolationError):
        return
    container = int(found.group(1))
    for batch in batches:
        if container in batch.record.by_id:
            batch.progress.suspect = True


def _reject(rows: _Rows, index: int, reason: RejectReason, detail: str) -> tuple[PendingBatch, Rejected]:
    batch, place = rows.origins[index]
    row = rows.rows[index]
    container, at = row_key(row)
    ref = next((ref for ref, known in batch.record.containers.items() if known.id == container), None)
    line = log_line_number(row) if place.startswith("logs") else None
    return batch, Rejected(seq=batch.seq, row=place, reason=reason, ref=ref, at=at, line=line, detail=detail)
