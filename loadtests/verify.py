"""Row by row: what the fleet's ledger says must be stored, against what is stored.

Order makes the comparison fair while everything still runs. First the ledger: what is acknowledged by then must be stored.
Then the database. Then the ledger again, once it tells of a later moment: what is stored must have been sent by then.
A ledger that does not get there in time leaves rows unverified: they may have been sent after its last word.

- missing: acknowledged, not stored.
- foreign: stored, and no agent of the fleet sent it; or twice under one key; or rejected, and stored all the same.
- altered: stored with other values than were sent.
"""

import asyncio
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import asyncpg
import numpy as np

from loadtests.compare import NOBODY, Compared, compare_lines, compare_samples
from loadtests.copy_rows import unpacked, unpacked_lines
from loadtests.database import AWAY, Connect
from loadtests.findings import Finding, Findings
from server.db.storage.base import Storage
from simulator.expected import Acked, ExpectedRows, agents_of
from simulator.expected_samples import ExpectedSamples
from simulator.ledger import LedgerError, LedgerReader
from simulator.samples import NO_SAMPLES

LEDGER_TIMEOUT_SECONDS = 10.0
PATIENCE_SECONDS = 30.0
"""How long a slice waits for ledgers that do not grow."""
RETRY_SECONDS = 0.5
"""Pause before a slice is tried again that the database could not answer."""
_POLL_SECONDS = 0.05
_SLICE_ROWS = 250_000
"""About as many rows are read and compared at once: little memory, and no burst that a server would feel beside it."""
_NICENESS = 10
"""Of the thread that compares: where processors are short, server and fleet come first. Our own loop may wait for it, as both
take turns in one interpreter: its looks come late then, and nothing that is measured is its own."""


class _Stored(NamedTuple):
    """A slice as COPY gave it; empty: it was not read."""

    samples: bytes | bytearray = b""
    lines: bytes | bytearray = b""


class Verifier:
    """Compares slices of time.

    Args:
        ledgers: of every process of the fleet.
        storage: the strategy that keeps the rows.
        connect: to the database; the connection must be the verifier's own.
        patience_seconds: how long each slice waits for ledgers that do not grow.
        org: look at rows of organisations whose names begin so, and of the ledgers' own containers only; None: all that is
            stored must be the fleet's.
    """

    def __init__(
        self,
        ledgers: Sequence[Path],
        storage: Storage,
        connect: Connect,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        org: str | None = None,
    ) -> None:
        self._paths = ledgers
        self._org = org
        self._storage = storage
        self._connect = connect
        self._stack = ExitStack()
        self._readers = [self._stack.enter_context(LedgerReader(path)) for path in ledgers]
        self._comparing = ThreadPoolExecutor(1, "verify", _step_back)
        self._stack.callback(self._comparing.shutdown, cancel_futures=True)  # before the ledgers are closed
        self._expected: list[ExpectedRows] = []
        self._patience_polls = max(1, round(patience_seconds / _POLL_SECONDS))
        self._silent: dict[int, int] = {}
        """Ledgers that were given up: their place, and how far they told."""
        self.findings = Findings()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the ledgers, once what is being compared is. Safe to call twice."""
        self._stack.close()

    async def begin(self, timeout_seconds: float = LEDGER_TIMEOUT_SECONDS) -> tuple[int, int]:
        """Wait for the ledgers' headers; returns when the fleet's first tick can be, and its interval, in microseconds.

        Raises:
            LedgerError: a ledger has no header in time, is of another version, or goes on where one ends that is not given.
        """
        deadline = time.monotonic() + timeout_seconds
        for reader, path in zip(self._readers, self._paths, strict=True):
            while reader.header is None:
                reader.poll()
                if reader.header is None:
                    if time.monotonic() > deadline:
                        raise LedgerError(f"{path}: no header within {timeout_seconds:g} s")
                    await asyncio.sleep(_POLL_SECONDS)
        if not self._expected:
            self._expected = [ExpectedRows(reader) for reader in self._readers]
        headers = [reader.header for reader in self._readers if reader.header is not None]
        known = {(h.seed, h.org, h.t0_us) for h in headers if h.backfilled}
        for header, path in zip(headers, self._paths, strict=True):
            if header.continues_us is not None and (header.seed, header.org, header.t0_us) not in known:
                raise LedgerError(f"{path}: continues a history: expected the ledger of its backfill too")
        # Log lines lie up to an interval before their tick.
        starts = (h.t0_us - h.interval_us + h.clock_ahead_us[0] for h in headers)
        return min(starts), max(h.interval_us for h in headers)

    def last_at_us(self) -> int:
        """When everything that the ledgers tell of ends, in Unix microseconds, exclusive."""
        for reader in self._readers:
            reader.poll()
        headers = [(reader.progress_us, reader.header) for reader in self._readers if reader.header]
        return max((told + 2 * h.interval_us + h.clock_ahead_us[1] for told, h in headers), default=0)

    def samples_of(self, agent: int, since: int, until: int) -> ExpectedSamples:
        """What an agent sampled with since <= at < until (Unix microseconds), by the ledgers; once it has begun."""
        for reader in self._readers:
            reader.poll()
        found = [
            expected.samples(since, until, only=agent)
            for expected, reader in zip(self._expected, self._readers, strict=True)
            if reader.header is not None and agent in agents_of(reader.header)
        ]
        return ExpectedSamples(*(np.concatenate(column) for column in zip(*found, strict=True)))

    def executed(self) -> Counter[str]:
        """How many times the fleet carried out each command, by action id, as far as the ledgers tell."""
        total: Counter[str] = Counter()
        for reader in self._readers:
            reader.poll()
            total += reader.executed
        return total

    async def verify(self, since: int, until: int, *, still_whole: Callable[[], bool] | None = None) -> bool:
        """Compare everything with since <= at < until (Unix microseconds).

        Args:
            since: first moment.
            until: first moment after.
            still_whole: asked after the read; False: retention may have removed part of the slice meanwhile, so it is
                counted as acknowledged and not as verified.

        Returns:
            Whether it was compared.

        Raises:
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError: the database cannot be read. The slice
                counts for nothing then, and can be tried again.
        """
        acked = self._acked()
        stored = await self._read(since, until)
        if still_whole is not None and not still_whole():
            self.findings.acked += _required(await self._compared(since, until, acked, _Stored(), None))
            return False
        known_until = await self._known_until(time.time_ns() // 1000)
        await self._tell(await self._compared(since, until, acked, stored, known_until))
        return True

    async def verify_through(self, since: int, until: int) -> None:
        """Compare [since, until) slice by slice; while one is compared the next one is read.

        Raises:
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError: the database cannot be read. What was
                compared until then counts.
        """
        comparing: asyncio.Future[dict[str, Compared]] | None = None
        for start, end in self.slices(since, until):
            acked = self._acked()
            try:
                stored = await self._read(start, end)
            finally:
                if comparing is not None:
                    await self._tell(await comparing)
                    comparing = None
            known_until = await self._known_until(time.time_ns() // 1000)
            comparing = self._compared(start, end, acked, stored, known_until)
        if comparing is not None:
            await self._tell(await comparing)

    async def count_only(self, since: int, until: int) -> None:
        """Count what was acknowledged in a slice that can no longer be compared."""
        acked = self._acked()
        for start, end in self.slices(since, until):
            self.findings.acked += _required(await self._compared(start, end, acked, _Stored(), None))

    def slices(self, since: int, until: int) -> Iterator[tuple[int, int]]:
        """[since, until) in pieces that fit into memory, once it has begun."""
        headers = [reader.header for reader in self._readers if reader.header is not None]
        per_second = sum(h.agents * (h.containers + h.log_lines) * 1_000_000 // h.interval_us for h in headers)
        width = max(1_000_000, _SLICE_ROWS * 1_000_000 // max(1, per_second))
        while since < until:
            yield since, min(since + width, until)
            since += width

    def _acked(self) -> list[Acked]:
        """How far each ledger says by now that its fleet is acknowledged."""
        for reader in self._readers:
            reader.poll()
        return [expected.acked() for expected in self._expected]

    async def _read(self, since: int, until: int) -> "_Stored":
        metrics, logs = self._storage.copy_metrics, self._storage.copy_logs
        async with self._connect() as connection:
            if self._org is not None:
                ids = await self._containers(connection, self._org, since, until)
                metrics, logs = partial(metrics, container_ids=ids), partial(logs, container_ids=ids)
            return _Stored(
                await _copied(metrics, connection, since, until), await _copied(logs, connection, since, until)
            )

    async def _containers(self, connection: asyncpg.Connection, org: str, since: int, until: int) -> list[int]:
        """Those that the database knows of an organisation, and those that the ledgers tell of."""
        known = {
            row[0]
            for row in await connection.fetch("SELECT container_id FROM container WHERE starts_with(org, $1)", org)
        }
        return sorted(known.union(*(expected.containers(since, until) for expected in self._expected)))

    def _compare(
        self, since: int, until: int, acked: Sequence[Acked], there: "_Stored", known_until: int | None
    ) -> dict[str, Compared]:
        """What is stored of a slice against what was sent, by table. It waits for nothing, and takes its time.

        What was sent is a function of the ledgers, however much they have grown; what is required was acked before the read.
        """
        sent = [expected.samples(since, until, known) for expected, known in zip(self._expected, acked, strict=True)]
        every = ExpectedSamples(*(np.concatenate(column) for column in zip(*sent, strict=True)))
        said = [
            line
            for expected, known in zip(self._expected, acked, strict=True)
            for line in expected.lines(since, until, known)
        ]
        samples = unpacked(there.samples) if there.samples else NO_SAMPLES
        lines = unpacked_lines(there.lines) if there.lines else []
        return {
            self._storage.metrics.table: compare_samples(every, samples, known_until),
            self._storage.logs.table: compare_lines(said, lines, known_until),
        }

    def _compared(
        self, since: int, until: int, acked: Sequence[Acked], there: "_Stored", known_until: int | None
    ) -> asyncio.Future[dict[str, Compared]]:
        """The same in the thread that compares."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._comparing, self._compare, since, until, acked, there, known_until)

    async def _tell(self, compared: Mapping[str, Compared]) -> None:
        """Count a comparison, and put it into words."""
        findings = Findings()  # apart until it is whole: a cancelled comparison counts for nothing
        findings.acked = findings.verified = _required(compared)
        for table, part in compared.items():
            findings.stored += part.stored
            findings.unverified += part.unverified
            findings.counts += part.counts
            for kind, row, words in part.examples[: min(findings.room, self.findings.room)]:
                owner = await self._owner(row) if words is NOBODY else ""
                findings.examples.append(Finding(kind, table, f"{self._named(row)}: {words}{owner}"))
        self.findings.merge(findings)

    async def _known_until(self, moment: int) -> int | None:
        """Wait until every ledger tells of a later moment, or ended.

        Patience counts looks, not time: while the machine stands still the fleet cannot write either. A ledger that was
        given up is waited for again once it has grown.

        Returns:
            None: all do. Else the time (Unix microseconds) up to which every row that the fleet made is known.
        """
        polls = self._patience_polls
        for place, reader in enumerate(self._readers):
            reader.poll()
            while _behind(reader, moment) and self._silent.get(place) != reader.progress_us:
                if not polls:
                    self._silent[place] = reader.progress_us
                    break
                polls -= 1
                await asyncio.sleep(_POLL_SECONDS)
                reader.poll()
        # A tick is made an interval late at most, and its log lines lie up to an interval before it.
        return min(
            (
                reader.progress_us - 2 * reader.header.interval_us + reader.header.clock_ahead_us[0]
                for reader in self._readers
                if reader.header is not None and _behind(reader, moment)
            ),
            default=None,
        )

    def _named(self, row: Any) -> str:
        place = next((found for e in self._expected if (found := e.container(row.container_id)) is not None), None)
        name = f"agent {place[0]} container {place[1]}" if place else "no container of this fleet"
        line = f" line {row.line}" if hasattr(row, "line") else ""
        return f"container_id {row.container_id} ({name}) at {row.at}{line}"

    async def _owner(self, row: Any) -> str:
        """Whose container a foreign row claims to be of: that names a leak between tenants."""
        async with self._connect() as connection:
            if await connection.fetchval("SELECT to_regclass('container')") is None:
                return ""
            found = await connection.fetchrow(
                "SELECT org, host, name FROM container WHERE container_id = $1", row.container_id
            )
        return (
            f"; the key is {found['name']!r} of host {found['host']!r} of organisation {found['org']!r}"
            if found
            else ""
        )


def _step_back() -> None:
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        thread = threading.get_native_id()
        with suppress(OSError):  # it is a courtesy
            os.setpriority(os.PRIO_PROCESS, thread, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))


def _required(compared: Mapping[str, Compared]) -> int:
    return sum(part.required for part in compared.values())


async def _copied(copy: Any, connection: asyncpg.Connection, since: int, until: int) -> bytearray:
    """A whole COPY of a slice."""
    data = bytearray()

    async def take(piece: bytes) -> None:
        data.extend(piece)

    await copy(connection, since, until, take)
    return data


def _behind(reader: LedgerReader, moment: int) -> bool:
    """Whether a ledger may still tell of something that happened up to a moment (Unix microseconds)."""
    return reader.progress_us <= moment and not reader.ended


async def verify_all(ledgers: Sequence[Path], storage: Storage, connection: asyncpg.Connection) -> Findings:
    """Verify everything that the ledgers tell of, slice by slice. For a database that is not being pruned.

    Raises:
        LedgerError: a ledger cannot be read.
    """
    with Verifier(ledgers, storage, lambda: nullcontext(connection)) as verifier:
        since, _ = await verifier.begin()
        await verifier.verify_through(since, verifier.last_at_us())
        return verifier.findings


class RollingVerifier:
    """Verifies slices while they are between a quarter and three quarters of the retention old, as the run goes on.

    A slice is a quarter of the window wide, and looked at as late as is safe: rows that were resent after a fault are
    acknowledged by then. While the database is away a slice is tried again, until it is too old: then it was not verified.
    What lies before `since_us` (Unix microseconds) was verified before.
    """

    def __init__(self, verifier: Verifier, retention_seconds: float, *, since_us: int = 0) -> None:
        self._verifier = verifier
        self._window_us = int(retention_seconds * 1e6)
        self._next = since_us
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let `run` end after the slice it is at."""
        self._stopping.set()

    async def run(self) -> None:
        """Follow the fleet until `stop`; then call `finish`.

        Raises:
            LedgerError: a ledger cannot be read.
        """
        begins, _ = await self._verifier.begin()
        self._next = self._next or begins
        width = self._window_us // 4
        pause = 0.0
        while True:
            due = self._next + self._window_us * 13 // 20
            try:
                async with asyncio.timeout(max(pause, (due - _now_us()) / 1e6)):
                    await self._stopping.wait()
            except TimeoutError:
                pass
            else:
                return
            # A slice that does not fit into memory is looked at in parts.
            since, until = next(self._verifier.slices(self._next, self._next + width))
            pause = 0.0
            if _now_us() - since > self._window_us * 3 // 4:
                await self._verifier.count_only(since, until)
            else:
                try:
                    await self._verifier.verify(since, until, still_whole=lambda s=since: self._whole(s))  # type: ignore[misc]
                except AWAY:
                    pause = RETRY_SECONDS
                    continue
            self._next = until

    async def finish(self, pruned_until: int, *, pruning: bool = False) -> None:
        """Compare what is left; what is older than `pruned_until` may be gone.

        Args:
            pruned_until: Unix microseconds.
            pruning: whether the server goes on to remove rows; else nothing is pruned any more.
        """
        begins, _ = await self._verifier.begin()
        self._next = self._next or begins
        end = self._verifier.last_at_us()
        if self._next < pruned_until:
            cut = min(pruned_until, end)
            await self._verifier.count_only(self._next, cut)
            self._next = cut
        if pruning:
            for since, until in self._verifier.slices(self._next, end):
                await self._verifier.verify(since, until, still_whole=lambda s=since: self._whole(s))  # type: ignore[misc]
        else:
            await self._verifier.verify_through(self._next, end)
        self._next = end

    def _whole(self, since: int) -> bool:
        return _now_us() - since < self._window_us


def _now_us() -> int:
    return time.time_ns() // 1000
