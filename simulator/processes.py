"""A fleet of several processes: one shard each, one timeline, one report.

The parent simulates nothing. It starts a child per shard, lets all begin at the same moment once each has built its agents,
adds up what they tell, and passes signals on. If a child ends that should not, the others are stopped, and it is told which.
"""

import asyncio
import contextlib
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from simulator.child_messages import Done, Go, Job, Ready, Said, Second
from simulator.ledger import ledger_files
from simulator.plan import Plan, PlanError
from simulator.status import Status, add

BUILD_SECONDS = 300.0
"""Longest wait for the agents to be built: 30,000 take about 10 s."""
END_SECONDS = 30.0
"""How long the others may go on when one has ended, or a stop was asked for: the last acks, goodbyes, the report."""
START_AFTER_US = 100_000
"""The timeline begins so long after the last child was ready: all have got the word by then."""
_MAX_LINE_BYTES = 64 << 20
_KEPT_SECONDS = 60
_decode = msgspec.json.Decoder(Said).decode


def check_processes(plan: Plan, count: int) -> None:
    """Make sure that a fleet can be split so.

    Raises:
        PlanError: not into so many processes.
    """
    most = len(plan.numbers)
    if not 1 <= count <= most:
        raise PlanError("processes", count, "at least 1" if count < 1 else f"at most {most}, an agent for each")


class _Child:
    """One process, and what it told."""

    def __init__(self, plan: Plan, ledger: Path | None) -> None:
        self.plan = plan
        self.ready = asyncio.Event()
        self.report: dict[str, Any] | None = None
        self._ledger = ledger
        self._process: asyncio.subprocess.Process | None = None
        self._statuses: deque[Status] = deque(maxlen=_KEPT_SECONDS)
        self._last: Status | None = None

    async def start(self) -> None:
        """Start it, and give it its job.

        Raises:
            OSError: the system does not let us.
        """
        # A session of its own: Ctrl-C reaches the parent alone, which passes it on once.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "simulator.child", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            start_new_session=True, limit=_MAX_LINE_BYTES,
        )  # fmt: skip
        self.say(Job(plan=self.plan, ledger=None if self._ledger is None else str(self._ledger)))

    @property
    def exit_code(self) -> int | None:
        """Its exit code, minus the number of the signal that ended it; None: it runs, or was never started."""
        return None if self._process is None else self._process.returncode

    def say(self, message: Job | Go) -> None:
        """Tell it something; without effect once it has ended."""
        if self._process is not None and self._process.stdin is not None and self.exit_code is None:
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")

    async def work(self) -> None:
        """Take in what it says, until it has ended."""
        if self._process is None or self._process.stdout is None:
            return
        async for line in self._process.stdout:
            match _decode(line):
                case Ready():
                    self.ready.set()
                case Second(status=status):
                    self._statuses.append(status)
                case Done(report=report):
                    self.report = report
        await self._process.wait()

    def take(self) -> list[Status]:
        """Every status since the last call; if there was none, the last one without its latencies."""
        found = list(self._statuses)
        self._statuses.clear()
        if not found and self._last is not None:
            found = [msgspec.structs.replace(self._last, ack={}, lag={})]
        self._last = found[-1] if found else None
        return found

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self._process is not None and self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def problem(self, *, stopped: bool) -> str | None:
        """What was wrong with its end; None: nothing.

        Args:
            stopped: whether it was asked to end. That may come before it could answer.
        """
        if self.exit_code == 0 and self.report is not None:
            return None
        if stopped and self.exit_code == -signal.SIGTERM:
            return None
        return f"the process of shard {self.plan.shard} ended with exit code {self.exit_code}"


class Processes:
    """A fleet of several processes. Build it, `run` it once, read what it found.

    Args:
        plan: of all of them together; it may be a shard itself.
        count: of processes.
        ledger: each writes one, named after this; None: no ledgers.
        on_second: called about once a second with how the whole fleet stands.
        start_us: of the timeline, Unix microseconds; None: as soon as all are ready.

    Attributes:
        failures: why it is not whole: children that ended when they should not have.

    Raises:
        PlanError: on creation: not into so many processes.
    """

    def __init__(
        self,
        plan: Plan,
        count: int,
        ledger: Path | None,
        on_second: Callable[[Status], None],
        start_us: int | None = None,
    ) -> None:
        check_processes(plan, count)
        ledgers: Sequence[Path | None] = [None] * count if ledger is None else ledger_files(ledger, count)
        self._children = [
            _Child(replace(plan, shard=plan.shard.part(number, count)), own) for number, own in enumerate(ledgers, 1)
        ]
        self._on_second = on_second
        self._start_us = start_us
        self.failures: list[str] = []

    @property
    def reports(self) -> list[dict[str, Any]]:
        """Those of the children that left one."""
        return [child.report for child in self._children if child.report is not None]

    async def run(self, stop: asyncio.Event) -> None:
        """Run until all have ended; `stop` stops them in order.

        Cancelled, it cuts that short, and still leaves no child behind.

        Raises:
            OSError: a child could not be started.
        """
        works: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        stopping = loop.create_task(stop.wait())
        others: list[asyncio.Task[Any]] = [stopping]
        try:
            for child in self._children:
                await child.start()
                works.append(loop.create_task(child.work()))
            others += [loop.create_task(self._all_ready()), loop.create_task(self._show())]
            await self._begin([stopping, others[1], *works])
            await asyncio.wait([stopping, *works], return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set() or any(child.problem(stopped=False) for child in self._ended()):
                self._signal_all(signal.SIGTERM)
            await asyncio.wait(works, timeout=END_SECONDS)
        except asyncio.CancelledError:
            self._signal_all(signal.SIGTERM)  # for each of them the second one
            if works:
                await asyncio.wait(works, timeout=END_SECONDS)
            raise
        finally:
            self._signal_all(signal.SIGKILL)
            for task in others:
                task.cancel()
            told = await asyncio.gather(*works, *others, return_exceptions=True)
            self.failures += [
                f"a process could not be followed: {error}" for error in told if isinstance(error, Exception)
            ]
            problems = (child.problem(stopped=stop.is_set()) for child in self._ended())
            self.failures += [problem for problem in problems if problem is not None]

    async def _begin(self, first_of: Sequence[asyncio.Task[Any]]) -> None:
        """Let all begin at one moment. One that is stopped before still begins: it then ends in order, with a report."""
        done, _ = await asyncio.wait(first_of, timeout=BUILD_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            self.failures.append(f"the agents were not built within {BUILD_SECONDS:g} s")
            self._signal_all(signal.SIGKILL)
        start_us = self._start_us or time.time_ns() // 1000 + START_AFTER_US
        for child in self._children:
            child.say(Go(start_us=start_us))

    async def _all_ready(self) -> None:
        for child in self._children:
            await child.ready.wait()

    async def _show(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            parts = [child.take() for child in self._children]
            if all(parts):
                self._on_second(add(parts))

    def _ended(self) -> list[_Child]:
        return [child for child in self._children if child.exit_code is not None]

    def _signal_all(self, number: signal.Signals) -> None:
        for child in self._children:
            child.signal(number)
