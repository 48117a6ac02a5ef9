"""The verifier and its patience: what a ledger does not tell of yet is neither foreign nor passed."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest
from typer.testing import CliRunner

from loadtests.findings import Findings
from loadtests.verify import RollingVerifier, Verifier
from seatrial import app
from server.db.storage.base import CopyTarget, Storage
from server.rows import copy_data
from simulator.expected import ExpectedRows, pool_digest
from simulator.ledger import Header, LedgerReader, LedgerWriter, Map
from simulator.loglines import LogLines
from simulator.names import Names
from simulator.samples import Sample
from tests.support.rows import metrics_out

INTERVAL_US = 1_000_000
CONTAINERS = 3
START_US = 1_700_000_000_000_000


class Rows:
    """A database of two lists, as a strategy and as the connection to it."""

    metrics = CopyTarget("container_metric", (), ())
    logs = CopyTarget("container_log", (), ())

    def __init__(self, metrics: Sequence[Sample]) -> None:
        self.stored = list(metrics)
        self.read = asyncio.Event()

    async def copy_metrics(
        self, _: object, since: int, until: int, take: Callable[[bytes], Coroutine[Any, Any, None]]
    ) -> None:
        """The samples of a slice, in two pieces."""
        data = metrics_out([row for row in self.stored if since <= row.at < until])
        await take(data[:30])
        await take(data[30:])

    async def copy_logs(
        self, _: object, since: int, until: int, take: Callable[[bytes], Coroutine[Any, Any, None]]
    ) -> None:
        """No lines; read last."""
        del since, until
        self.read.set()
        await take(copy_data([]))

    async def fetchval(self, _: str) -> None:
        """There is no table of containers."""


class Ledger:
    """The ledger of one agent whose tick 0, in its first second, is its first batch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer = LedgerWriter(
            path,
            Header(
                seed=5, org="acme", agents=1, first_agent=1, containers=CONTAINERS, log_lines=0, interval_us=INTERVAL_US,
                t0_us=START_US, profiles={"web": 1}, churn_ticks=0, pool_digest=pool_digest(LogLines(5), Names(5)),
            ),
        )  # fmt: skip
        self.writer.add(Map(agent=1, epoch=0, seq=1, tick=0))

    def progress(self, at_us: int, produced: int, sent: int, acked: int) -> None:
        """Write how far the agent is."""
        self.writer.flush(at_us, [(1, 0, produced, sent, acked)])

    def samples(self, batches: int) -> list[Sample]:
        """The samples of the first batches, by their time; the agent's progress need not tell of them."""
        twin = Ledger(self.path.with_name(f"twin-{batches}"))
        twin.progress(1, batches, batches, batches)
        twin.writer.close(2)
        with LedgerReader(twin.path) as reader:
            reader.poll()
            rows = [Sample(*row) for row, _ in ExpectedRows(reader).metrics(0, 2**62)]
        return sorted(rows, key=lambda row: row.at)


def verifier_of(ledger: Ledger, rows: Rows, patience_seconds: float) -> Verifier:
    """A verifier of all that is stored in `rows`."""
    connection = cast("asyncpg.Connection", rows)
    return Verifier(
        [ledger.path], cast("Storage", rows), lambda: nullcontext(connection), patience_seconds=patience_seconds
    )


async def verified(ledger: Ledger, rows: Rows, patience_seconds: float = 0.1) -> Findings:
    """Compare everything in one slice."""
    with verifier_of(ledger, rows, patience_seconds) as verifier:
        await verifier.begin()
        async with asyncio.timeout(10):
            assert await verifier.verify(0, 2**61)
        return verifier.findings


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger without progress, and without an end while the test runs."""
    made = Ledger(tmp_path / "ledger")
    yield made
    made.writer.close(1)


async def test_a_row_beyond_a_silent_ledger_is_unverified(ledger: Ledger) -> None:
    """Stored after the ledger's last word, a row may be honest: it is not foreign, and it lowers what was verified."""
    ledger.progress(START_US + 2 * INTERVAL_US, 2, 2, 2)

    findings = await verified(ledger, Rows(ledger.samples(3)))

    assert not findings.counts
    assert (findings.acked, findings.verified, findings.unverified, findings.stored) == (6, 6, 3, 9)
    assert findings.verified_fraction == pytest.approx(6 / 9)


async def test_a_row_that_was_not_sent_when_the_ledger_fell_silent_is_unverified(ledger: Ledger) -> None:
    """It may have been sent since."""
    ledger.progress(START_US + 60 * INTERVAL_US, 3, 2, 2)

    findings = await verified(ledger, Rows(ledger.samples(3)))

    assert not findings.counts
    assert (findings.verified, findings.unverified) == (6, 3)


async def test_a_silent_ledger_hides_neither_lost_nor_altered_nor_older_foreign_rows(ledger: Ledger) -> None:
    """What it told of before is judged all the same: its fleet made no other row of that time."""
    ledger.progress(START_US + 60 * INTERVAL_US, 2, 2, 2)
    lost, altered, *others = ledger.samples(2)
    invented = altered._replace(at=altered.at + 1)

    findings = await verified(ledger, Rows([altered._replace(rx=0), invented, *others]))

    assert findings.counts == {"missing": 1, "altered": 1, "foreign": 1}
    assert lost.container_id != altered.container_id
    assert findings.unverified == 0


async def test_a_row_of_a_batch_that_was_never_sent_is_foreign(ledger: Ledger) -> None:
    """Produced, not sent to the end, and stored all the same: somebody invented it."""
    ledger.progress(START_US + 3 * INTERVAL_US, 3, 2, 2)
    ledger.writer.close(START_US + 4 * INTERVAL_US)

    findings = await verified(ledger, Rows(ledger.samples(3)))

    assert findings.counts == {"foreign": 3}
    assert "unsent, and stored all the same" in findings.examples[0].row
    assert findings.unverified == 0


async def test_a_ledger_that_tells_late_is_waited_for(ledger: Ledger) -> None:
    """Rows that were sent before the read and told of after it are no finding."""
    ledger.progress(START_US + 2 * INTERVAL_US, 2, 2, 2)
    rows = Rows(ledger.samples(3))
    comparing = asyncio.create_task(verified(ledger, rows, 8.0))
    await rows.read.wait()
    assert not comparing.done()
    ledger.progress(time.time_ns() // 1000 + 60_000_000, 3, 3, 2)

    findings = await comparing

    assert not findings.counts
    assert (findings.acked, findings.verified, findings.unverified, findings.stored) == (6, 6, 0, 9)


async def test_each_slice_has_its_own_patience(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice waits although the one before it waited in vain, once the ledger has grown; if it has not, it need not."""
    honest = asyncio.sleep
    pauses: list[float] = []

    async def counted(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
        await honest(0)

    monkeypatch.setattr(asyncio, "sleep", counted)
    ledger.progress(START_US + INTERVAL_US, 1, 1, 1)
    waits = []
    with verifier_of(ledger, Rows(ledger.samples(1)), 1.0) as verifier:
        await verifier.begin()
        for grown in (False, False, True):
            if grown:
                ledger.progress(START_US + 2 * INTERVAL_US, 2, 2, 1)
            pauses.clear()
            await verifier.verify(0, 2**61)
            waits.append(sum(pauses))

    assert waits == [pytest.approx(1.0), 0, pytest.approx(1.0)]


async def test_a_slice_is_tried_again_while_the_database_is_away(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two failures cost the rolling verification nothing: the third time the slice is compared, once."""
    window_seconds = 8
    now_us = START_US - INTERVAL_US + window_seconds * 700_000  # the first slice is due, and not too old
    monkeypatch.setattr("loadtests.verify._now_us", lambda: now_us)
    monkeypatch.setattr("loadtests.verify.RETRY_SECONDS", 0.01)
    ledger.progress(now_us, 2, 2, 2)
    rows = Rows(ledger.samples(2))
    failures = [ConnectionRefusedError(), asyncpg.CannotConnectNowError()]

    @asynccontextmanager
    async def connect() -> AsyncIterator[asyncpg.Connection]:
        if failures:
            raise failures.pop()
        yield cast("asyncpg.Connection", rows)

    with Verifier([ledger.path], cast("Storage", rows), connect, patience_seconds=0.1) as verifier:
        rolling = RollingVerifier(verifier, window_seconds)
        running = asyncio.create_task(rolling.run())
        async with asyncio.timeout(10):
            while not verifier.findings.verified:
                await asyncio.sleep(0.01)
            rolling.stop()
            await running

    assert failures == []
    assert (verifier.findings.verified, verifier.findings.acked) == (CONTAINERS, CONTAINERS)
    assert verifier.findings.clean


def test_unverified_rows_do_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`seatrial verify` says how many rows nobody could judge, and fails, however clean the others are."""
    path = tmp_path / "ledger"
    path.touch()

    def found(*_: Any) -> Findings:
        return Findings(verified=9, acked=9, stored=10, unverified=1)

    monkeypatch.setattr("loadtests.cli._verified", found)
    done = CliRunner().invoke(app, ["verify", "--ledger", str(path), "--database-url", "postgresql://nowhere"])

    assert done.exit_code == 11
    assert "1 stored rows unverified: a ledger fell silent before they were read" in done.output


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
@pytest.mark.parametrize("nice", [0, 15])
def test_the_comparing_thread_steps_back(nice: int) -> None:
    """It alone, and never to a higher priority than its process has, which most users may not ask for."""
    code = (
        "import os, threading\nfrom concurrent.futures import ThreadPoolExecutor\nfrom loadtests.verify import _step_back\n"
        "ask = lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())\n"
        "pool = ThreadPoolExecutor(1, initializer=_step_back)\nprint(pool.submit(ask).result(60), ask())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        preexec_fn=lambda: os.nice(nice),
    )

    base = os.getpriority(os.PRIO_PROCESS, 0)
    assert [int(word) for word in ran.stdout.split()] == [max(10, min(19, base + nice)), min(19, base + nice)]
