"""Row by row: what the fleet's ledger says must be stored, against what is stored.

Order makes the comparison fair while everything still runs. First the ledger: what is acknowledged by then must be stored.
Then the database. Then the ledger again, once it tells of a later moment: what is stored must have been sent by then.
A ledger that does not get there in time leaves rows unverified: they may have been sent after its last word.

- missing: acknowledged, not stored.
- foreign: stored, and no agent of the fleet sent it; or twice under one key; or rejected, and stored all the same.
- altered: stored with other values than were sent.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from heapq import merge
from pathlib import Path
from typing import Any, NamedTuple, Self

import asyncpg

from loadtests.database import AWAY, Connect
from server.db.storage.base import Storage
from simulator.expected import ExpectedRows
from simulator.ledger import LedgerError, LedgerReader, Status

EXAMPLES = 20
"""Findings that are told in full; the others are counted."""
LEDGER_TIMEOUT_SECONDS = 10.0
PATIENCE_SECONDS = 30.0
"""How long a slice waits for ledgers that do not grow."""
RETRY_SECONDS = 0.5
"""Pause before a slice is tried again that the database could not answer."""
_POLL_SECONDS = 0.05


class Finding(NamedTuple):
    """A row that is not as it must be."""

    kind: str
    """missing, foreign or altered."""
    table: str
    row: str
    """Which one, and what is wrong with it."""


@dataclass(slots=True)
class Findings:
    """What a verification found. Counts are rows."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[Finding] = field(default_factory=list)
    verified: int = 0
    """Acknowledged rows that were compared with what is stored."""
    acked: int = 0
    """Acknowledged rows, whether they could be compared in time or not."""
    stored: int = 0
    """Rows read from the database."""
    unverified: int = 0
    """Of those, rows that a ledger fell silent too early to judge: neither foreign nor passed."""

    @property
    def clean(self) -> bool:
        """Nothing missing, foreign or altered."""
        return not any(self.counts.values())

    @property
    def verified_fraction(self) -> float:
        """Of the acknowledged and the unverified rows, how many were compared: 0 to 1.

        0 if none was acknowledged: that proves nothing.
        """
        return self.verified / (self.acked + self.unverified) if self.acked else 0.0

    def merge(self, other: "Findings") -> None:
        """Add what another verification found."""
        self.counts += other.counts
        self.examples += other.examples[: EXAMPLES - len(self.examples)]
        self.verified += other.verified
        self.acked += other.acked
        self.stored += other.stored
        self.unverified += other.unverified

    def add(self, kind: str, table: str, row: str) -> None:
        """Count a finding, and keep it if there are few yet."""
        self.counts[kind] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(Finding(kind, table, row))


Rows = list[tuple[Any, Status]]


class Verifier:
    """Compares slices of time.

    Args:
        ledgers: of every process of the fleet.
        storage: the strategy that keeps the rows.
        connect: to the database; the connection must be the verifier's own.
        patience_seconds: how long each slice waits for ledgers that do not grow.
    """

    def __init__(
        self,
        ledgers: Sequence[Path],
        storage: Storage,
        connect: Connect,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._paths = ledgers
        self._storage = storage
        self._connect = connect
        self._stack = ExitStack()
        self._readers = [self._stack.enter_context(LedgerReader(path)) for path in ledgers]
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
        """Close the ledgers. Safe to call twice."""
        self._stack.close()

    async def begin(self, timeout_seconds: float = LEDGER_TIMEOUT_SECONDS) -> tuple[int, int]:
        """Wait for the ledgers' headers; returns when the fleet's first tick can be, and its interval, in microseconds.

        Raises:
            LedgerError: a ledger has no header in time, or is of another version.
        """
        deadline = time.monotonic() + timeout_seconds
        for reader, path in zip(self._readers, self._paths, strict=True):
            while reader.header is None:
                reader.poll()
                if reader.header is None:
                    if time.monotonic() > deadline:
                        raise LedgerError(f"{path}: no header within {timeout_seconds:g} s")
                    await asyncio.sleep(_POLL_SECONDS)
        self._expected = [ExpectedRows(reader) for reader in self._readers]
        headers = [reader.header for reader in self._readers if reader.header is not None]
        # Log lines lie up to an interval before their tick.
        return min(h.t0_us - h.interval_us for h in headers), max(h.interval_us for h in headers)

    def last_at_us(self) -> int:
        """When everything that the ledgers tell of ends, in Unix microseconds, exclusive."""
        for reader in self._readers:
            reader.poll()
        ends = [reader.progress_us + 2 * reader.header.interval_us for reader in self._readers if reader.header]
        return max(ends, default=0)

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
        required = {
            "metrics": await self._rows("metrics", since, until),
            "logs": await self._rows("logs", since, until),
        }
        readers: dict[str, Callable[[Any, int, int], AsyncIterator[Sequence[Any]]]] = {
            "metrics": self._storage.read_metrics,
            "logs": self._storage.read_logs,
        }
        async with self._connect() as connection:
            stored = {
                table: [row async for block in read(connection, since, until) for row in block]
                for table, read in readers.items()
            }
        if still_whole is not None and not still_whole():
            self.findings.acked += sum(status is Status.ACKED for rows in required.values() for _, status in rows)
            return False
        known_until = await self._known_until(time.time_ns() // 1000)
        found = Findings()  # apart until it is whole: a cancelled comparison counts for nothing
        for table, rows in stored.items():
            allowed = await self._rows(table, since, until)
            await self._compare(found, table, required[table], allowed, rows, known_until)
        self.findings.merge(found)
        return True

    async def count_only(self, since: int, until: int) -> None:
        """Count what was acknowledged in a slice that can no longer be compared."""
        for table in ("metrics", "logs"):
            self.findings.acked += sum(status is Status.ACKED for _, status in await self._rows(table, since, until))

    async def _rows(self, table: str, since: int, until: int) -> Rows:
        """What the ledgers say now of a slice, by key."""
        for reader in self._readers:
            reader.poll()
        parts: list[Rows] = []
        for expected in self._expected:
            rows: Rows = list(expected.metrics(since, until) if table == "metrics" else expected.logs(since, until))
            parts.append(rows)
            await asyncio.sleep(0)  # the runner's other duties
        return parts[0] if len(parts) == 1 else list(merge(*parts))

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
                reader.progress_us - 2 * reader.header.interval_us
                for reader in self._readers
                if reader.header is not None and _behind(reader, moment)
            ),
            default=None,
        )

    async def _compare(
        self,
        findings: Findings,
        table: str,
        required: Rows,
        allowed: Rows,
        stored: Sequence[Any],
        known_until: int | None,
    ) -> None:
        key = 2 if table == "metrics" else 3
        target = (self._storage.metrics if table == "metrics" else self._storage.logs).table
        known = {row[:key]: (row, status) for row, status in allowed}
        seen: set[tuple[Any, ...]] = set()
        findings.stored += len(stored)
        for row in stored:
            identity = tuple(row[:key])
            expected = known.get(identity)
            if identity in seen:
                findings.add("foreign", target, f"{self._named(row)}: stored twice under one key")
            elif known_until is not None and (
                row.at >= known_until if expected is None else expected[1] is Status.UNSENT
            ):
                findings.unverified += 1
            elif expected is None:
                findings.add("foreign", target, f"{self._named(row)}: nobody sent it{await self._owner(row, findings)}")
            elif expected[1] in {Status.REJECTED, Status.UNSENT}:
                findings.add("foreign", target, f"{self._named(row)}: {expected[1]}, and stored all the same")
            elif expected[1] is not Status.CONFLICTED and tuple(row) != tuple(expected[0]):
                findings.add("altered", target, f"{self._named(row)}: {_difference(row, expected[0])}")
            seen.add(identity)
        for row, status in required:
            if status is Status.ACKED:
                findings.acked += 1
                findings.verified += 1
                if row[:key] not in seen:
                    findings.add("missing", target, f"{self._named(row)}: acknowledged, not stored")

    def _named(self, row: Any) -> str:
        place = next((found for e in self._expected if (found := e.container(row.container_id)) is not None), None)
        name = f"agent {place[0]} container {place[1]}" if place else "no container of this fleet"
        line = f" line {row.line}" if hasattr(row, "line") else ""
        return f"container_id {row.container_id} ({name}) at {row.at}{line}"

    async def _owner(self, row: Any, findings: Findings) -> str:
        """Whose container a foreign row claims to be of, for the first few: that names a leak between tenants."""
        if len(findings.examples) >= EXAMPLES:
            return ""
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


def _behind(reader: LedgerReader, moment: int) -> bool:
    """Whether a ledger may still tell of something that happened up to a moment (Unix microseconds)."""
    return reader.progress_us <= moment and not reader.ended


def _difference(stored: Any, expected: Any) -> str:
    """The fields in which two rows differ."""
    parts = [
        f"{name} = {_short(found)}, sent {_short(sent)}"
        for name, found, sent in zip(expected._fields, stored, expected, strict=True)
        if found != sent
    ]
    return ", ".join(parts)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def slices(since: int, until: int, width: int) -> Iterator[tuple[int, int]]:
    """[since, until) in pieces of at most `width`."""
    while since < until:
        yield since, min(since + width, until)
        since += width


async def verify_all(ledgers: Sequence[Path], storage: Storage, connection: asyncpg.Connection) -> Findings:
    """Verify everything that the ledgers tell of, minute by minute. For a database that is not being pruned.

    Raises:
        LedgerError: a ledger cannot be read.
    """
    with Verifier(ledgers, storage, lambda: nullcontext(connection)) as verifier:
        since, _ = await verifier.begin()
        for start, end in slices(since, verifier.last_at_us(), 60_000_000):
            await verifier.verify(start, end)
        return verifier.findings


class RollingVerifier:
    """Verifies slices while they are between a quarter and three quarters of the retention old, as the run goes on.

    A slice is a quarter of the window wide, and looked at as late as is safe: rows that were resent after a fault are
    acknowledged by then. While the database is away a slice is tried again, until it is too old: then it was not verified.
    """

    def __init__(self, verifier: Verifier, retention_seconds: float) -> None:
        self._verifier = verifier
        self._window_us = int(retention_seconds * 1e6)
        self._next = 0
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let `run` end after the slice it is at."""
        self._stopping.set()

    async def run(self) -> None:
        """Follow the fleet until `stop`; then call `finish`.

        Raises:
            LedgerError: a ledger cannot be read.
        """
        self._next, _ = await self._verifier.begin()
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
            since, until = self._next, self._next + width
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

    async def finish(self, pruned_until: int) -> None:
        """Compare what is left. Nothing is pruned any more; what is older than `pruned_until` may be gone."""
        if not self._next:
            self._next, _ = await self._verifier.begin()
        end = self._verifier.last_at_us()
        if self._next < pruned_until:
            cut = min(pruned_until, end)
            await self._verifier.count_only(self._next, cut)
            self._next = cut
        for since, until in slices(self._next, end, max(self._window_us // 4, 10_000_000)):
            await self._verifier.verify(since, until)
        self._next = end

    def _whole(self, since: int) -> bool:
        return _now_us() - since < self._window_us


def _now_us() -> int:
    return time.time_ns() // 1000
