"""The fleet: all agents of one process, their clock, their connections and the ledger of what they did.

One task paces all agents along an absolute timeline: agent a's tick k is due at t0 + phase(a) + k * interval, however
late the one before was. What is late is still produced, with the time it was due; what is later than an interval is
skipped and counted.
"""

import asyncio
import gc
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from heapq import heapify, heappop, heapreplace
from itertools import count
from operator import attrgetter
from pathlib import Path
from typing import Any

from server.protocol.canonical import LOG_TEXT_BYTES
from server.protocol.messages import AGENT_SUBPROTOCOL
from simulator.agent import Agent
from simulator.backoff import Backoff
from simulator.counts import Counts
from simulator.delivery import Delivery
from simulator.expected import pool_digest
from simulator.faults import Faults
from simulator.host import FakeHost, host_id, share_blocks
from simulator.hosts import Host
from simulator.latency import Latency
from simulator.ledger import Header, LedgerWriter, Record
from simulator.link import Refused, Session, Unreachable, connect_by
from simulator.load import OwnLoad
from simulator.loglines import LogLines
from simulator.merge import CONNECTION_SECONDS
from simulator.names import Names
from simulator.organisations import organisation
from simulator.plan import Plan
from simulator.recorded_agents import Recording, open_replayed
from simulator.replay import ReplayHost
from simulator.spool import Spool
from simulator.timed_host import TimedHost
from simulator.tokens import agent_token

FLUSH_SECONDS = 0.25
SETTLE_SECONDS = 10.0
LEAVE_SECONDS = 3.0
"""How long it then waits for the connections to close."""
DIALS_PER_TURN = 8
"""As many dials begin in a turn of the loop. One takes 0.4 ms in all: where a server drops all its connections at once,
thousands that begin together would stand in the way of the ticks for seconds.
"""
GC_THRESHOLDS = (100_000, 50, 100)
"""When the garbage collector runs: objects made since the last time, and how often a younger generation comes before an
older one. Little that is made per batch is in a cycle, and what is held waits for its ack: with Python's own thresholds
(700, 10, 10) looking it through again and again took 6 % of the process' time at 10 000 agents.
"""
_LAG_SECONDS = 0.1
_SHORTEST_SLEEP_SECONDS = 0.001
"""A loop with timers of a millisecond takes a shorter one for none at all, and would spin."""
_NAP_FRACTION = 500
"""Pacing sleeps for at least this part of the interval: ticks that are due in the meantime share a turn of the loop. A turn
costs more than two batches; at 2 ms of a second 10 000 agents share it by twenties.
"""
_YIELD_US = 5000
"""A fleet that is behind still lets its connections have their turn this often."""
_Failed = Callable[[int | None, float | None], None]


class Fleet:
    """A fleet of simulated agents. Build it, `run` it once, read its figures.

    Args:
        plan: what it shall be.
        ledger: file to write what it did to; it must not exist yet. None: keep no ledger.
        on_second: called about once a second while it runs.
        owns_process: whether the process is nothing but this fleet, so that its garbage collector may be tuned.
        chance: a number in [0, 1) for the jitter of back-off. It is not seeded: processes that share a seed must not
            come back together.
        settle_seconds: how long the end waits for outstanding acknowledgements.
        begin: awaited once all is built; gives the start of the timeline in Unix microseconds, which is waited for. None:
            it begins at once. Fleets that share a start are parts of one.

    Attributes:
        counts: totals.
        ack_latency: from the time a batch was due to its acknowledgement; without one, to the fleet's end.
        bystander_ack_latency: the same, of the agents that no fault of the fleet strikes; empty where there is no fault.
        faults: the fleet's own.
        schedule_lag: from the time a tick was due to its production.
        load: of this process.
        agents: in the order of their numbers.
        connections: of each second in which they changed: Unix microseconds, agents connected at its end, welcomes by then,
            agents at its end that got an ack on their connection.
        t0_us: Unix microseconds of the timeline's start.
        started_us: when the fleet itself started; later than `t0_us` where it continues a history.
        stopped_us: when the last tick was over; None: it still runs.
    """

    def __init__(
        self,
        plan: Plan,
        ledger: Path | None = None,
        on_second: Callable[["Fleet"], None] | None = None,
        *,
        owns_process: bool = False,
        chance: Callable[[], float] | None = None,
        settle_seconds: float = SETTLE_SECONDS,
        begin: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        self.plan = plan
        self.counts = Counts()
        self.ack_latency, self.schedule_lag = Latency(), Latency()
        self.bystander_ack_latency = Latency()
        self.load = OwnLoad()
        self.agents: list[Agent] = []
        self.faults = Faults(plan, self)
        self.connections: deque[tuple[int, int, int, int]] = deque(maxlen=CONNECTION_SECONDS)
        self.t0_us = self.started_us = self._measured_from_us = 0
        self.stopped_us: int | None = None
        self._ledger_path = ledger
        self._ledger: LedgerWriter | None = None
        self._on_second = on_second
        self._begin = begin
        self._recording: Recording | None = None
        self._owns_process = owns_process
        self._connect = connect_by(plan.transport)
        self._settle_seconds = settle_seconds
        self._chance = chance or random.Random().random
        self._changed: list[Delivery] = []
        self._wanted: deque[tuple[int, Session, _Failed, int]] = deque()
        self._dial_wanted = asyncio.Event()
        self._dials: set[asyncio.Task[None]] = set()
        self._settled = asyncio.Event()
        self._all_gone = asyncio.Event()
        self._ending = False
        self._failure: BaseException | None = None
        self._failed = asyncio.Event()
        self._wall0_us, self._mono0_ns = time.time_ns() // 1000, time.monotonic_ns()

    # ------------------------------------------------------------ its life

    async def run(self, stop: asyncio.Event) -> None:
        """Run until the plan's duration is over or `stop` is set, then leave in order.

        Raises:
            OSError: the ledger cannot be written.
            Exception: an agent failed; that is a fault of the simulator.
        """
        hosts, digest = self._build()
        self._set_out(hosts, digest, self.now_us() if self._begin is None else await self._begin())
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()
        loop.set_exception_handler(self._on_failure)
        self._loop = loop
        self.faults.start(self.agents, self.started_us)
        works = self._ramp(), self._begin_dials(), self._flush(), self._watch_loop(), self._seconds()
        tasks = [loop.create_task(work) for work in works]
        pace = loop.create_task(self._pace())
        ends = [loop.create_task(event.wait()) for event in (stop, self._failed)]
        try:
            await asyncio.wait([pace, *ends, *tasks[1:]], return_when=asyncio.FIRST_COMPLETED)
            self.stopped_us = self.now_us()
            self.faults.stop()
            await _cancel(pace, tasks[0])
            if not any(task.done() for task in tasks[1:]) and self._failure is None:
                await self._settle()
                self._note_connections()
                await _cancel(tasks[1], *self._dials)
                await self._leave()
                self._note_unacked()
        finally:
            self.faults.stop()
            for agent in self.agents:
                agent.leave("stopped")
                agent.abort()
            try:
                await _cancel(pace, *ends, *tasks, *self._dials)
            finally:
                loop.set_exception_handler(before)
                self._close_ledger()
        if self._failure is not None:
            raise self._failure

    def _build(self) -> tuple[Sequence[Host], str]:
        """Make the agents; their hosts, and the digest of the words that they use."""
        plan = self.plan
        hosts, digest = self._hosts()
        max_ticks = max(1, plan.spool_us // plan.interval_us)
        for host in hosts:
            first_tick = 0
            if plan.t0_us is not None and plan.continues_us is not None:
                host.t0_us = plan.t0_us
                first_tick = host.first_tick_at(plan.continues_us)
            delivery = Delivery(host, Spool(plan.spool_bytes, max_ticks), self, first_tick)
            backoff = Backoff(self._chance, plan.refused_seconds)
            self.agents.append(Agent(host, delivery, self, backoff, LOG_TEXT_BYTES))
        self._freeze()
        return hosts, digest

    def _hosts(self) -> tuple[Sequence[Host], str]:
        """The hosts, and the digest of the words of their seed; empty: they say what others said."""
        plan = self.plan
        if plan.replayed is not None:
            self._recording = recording = open_replayed(plan.replayed)
            return [
                ReplayHost(recording, seed=plan.seed, agent=number, t0_us=0, start_us=plan.start_us(number))
                for number in plan.numbers
            ], ""
        lines, names = LogLines(plan.seed), Names(plan.seed)
        hosts = [
            self._host(
                seed=plan.seed,
                agent=number,
                containers=plan.containers,
                log_lines=plan.log_lines,
                t0_us=0,
                interval_us=plan.interval_us,
                lines=lines,
                names=names,
                profiles=plan.profiles,
                churn_ticks=plan.churn_ticks,
                troubled_commands=plan.troubled_commands,
            )
            for number in plan.numbers
        ]
        share_blocks(sorted(hosts, key=attrgetter("phase_us")))
        return hosts, pool_digest(lines, names)

    def _host(self, **values: Any) -> FakeHost:
        return TimedHost(self.load, **values) if self.plan.split_cpu else FakeHost(**values)

    def _set_out(self, hosts: Sequence[Host], digest: str, start_us: int) -> None:
        """Begin the timeline. Building took a while, and is no part of it."""
        self.started_us = start_us
        self.t0_us = start_us if self.plan.t0_us is None else self.plan.t0_us
        self._measured_from_us = start_us + self.plan.warm_up_us
        self.load.begin()
        for host in hosts:
            host.t0_us = self.t0_us
        if self._ledger_path is not None:
            self._ledger = LedgerWriter(self._ledger_path, self._header(digest))

    def _header(self, digest: str) -> Header:
        plan, recording = self.plan, self._recording
        return Header(
            seed=plan.seed,
            org=plan.org,
            organisations=plan.organisations,
            agents=len(plan.numbers),
            first_agent=plan.numbers.start,
            containers=plan.containers,
            log_lines=plan.log_lines,
            interval_us=plan.interval_us if recording is None else max(plan.interval_us, recording.slack_us),
            t0_us=self.t0_us,
            profiles=dict(plan.profiles),
            churn_ticks=plan.churn_ticks,
            pool_digest=digest,
            replayed=plan.replayed,
            ramp=None if plan.replayed is None else plan.ramp,
            continues_us=plan.continues_us,
            clock_ahead_us=self.faults.clock_ahead_us,
        )

    def _freeze(self) -> None:
        """Take what was built out of the collector's sight: it stays, and looking it through costs schedule lag."""
        if self._owns_process:
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)

    async def _ramp(self) -> None:
        """Let the agents dial for the first time, evenly over the ramp."""
        for number, agent in zip(self.plan.numbers, self.agents, strict=True):
            await self._until(self._dial_us(number))
            agent.start()
        if self._owns_process:
            gc.freeze()

    async def _pace(self) -> None:
        """Produce every tick when it is due."""
        plan, counts = self.plan, self.counts
        interval_us = plan.interval_us
        nap_seconds = interval_us / 1e6 / _NAP_FRACTION
        end_us = None if plan.duration_us is None else self.started_us + plan.duration_us
        # What a history lacks is made up for, and need not come in time; but it must not take longer than it lasts.
        since_us = plan.continues_us
        caught_up_us = 0 if since_us is None else 2 * self.started_us - since_us
        yielded_us = self.now_us()
        for due_us, tick, agent in self._by_seed() if self._recording is None else self._by_recording():
            if end_us is not None and due_us >= end_us:
                break
            now_us = self.now_us()
            if now_us < due_us:
                caught_up_us = 0
            if now_us < due_us or now_us - yielded_us > _YIELD_US:
                await self._until(due_us, nap_seconds)
                now_us = yielded_us = self.now_us()
            late_us = now_us - due_us
            catching_up = due_us < caught_up_us
            if not catching_up:
                self.schedule_lag.record(late_us, due_us, counts=due_us >= self._measured_from_us)
            if late_us > interval_us and not catching_up:
                counts.skipped_ticks += 1
            else:
                counts.ticks += 1
                agent.tick(tick)
        if end_us is not None:
            await self._until(end_us)

    def _by_seed(self) -> Iterator[tuple[int, int, Agent]]:
        """Every tick in the order in which they are due, Unix microseconds, without end: one round per interval."""
        interval_us, since_us = self.plan.interval_us, self.plan.continues_us
        # The agents of a history have been there all the time; others begin when they dial for the first time.
        starts = (self._dial_us(number) if since_us is None else since_us for number in self.plan.numbers)
        ring = sorted(zip((agent.phase_us for agent in self.agents), starts, self.agents, strict=True), key=_phase)
        first = 0 if since_us is None else max(0, (since_us - self.t0_us) // interval_us - 1)
        for tick in count(first):
            for phase_us, start_us, agent in ring:
                due_us = self.t0_us + phase_us + tick * interval_us
                if due_us >= start_us:
                    yield due_us, tick, agent

    def _by_recording(self) -> Iterator[tuple[int, int, Agent]]:
        """The same for hosts whose ticks do not come at equal times; a replay that is sent once ends."""
        once = self._recording.period_us if self.plan.replay_once and self._recording is not None else None
        # Of a round all is due within a period of the host's start, what follows after it.
        ends_us = [None if once is None else self._dial_us(number) + once for number in self.plan.numbers]
        waiting = [(agent.due_us(0), i, 0) for i, agent in enumerate(self.agents)]
        heapify(waiting)
        while waiting:
            due_us, i, tick = waiting[0]
            agent, next_us, end_us = self.agents[i], self.agents[i].due_us(tick + 1), ends_us[i]
            if end_us is None or next_us < end_us:
                heapreplace(waiting, (next_us, i, tick + 1))
            else:
                heappop(waiting)
            yield due_us, tick, agent

    async def _settle(self) -> None:
        """Wait for what is still to be acknowledged; what no server ever welcomed is not waited for."""
        self._ending = True
        if self._outstanding() and self.counts.welcomes:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), self._settle_seconds)

    async def _leave(self) -> None:
        """Say goodbye on every connection, and wait for them to close."""
        for agent in self.agents:
            agent.leave("stopped")
        if not all(agent.gone for agent in self.agents):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_gone.wait(), LEAVE_SECONDS)

    def _note_unacked(self) -> None:
        """What was never acknowledged has waited until now: it took so long at least, and counts in the latencies."""
        now_us = self.now_us()
        for number, agent in zip(self.plan.numbers, self.agents, strict=True):
            for due_us in agent.delivery.waiting_since():
                self._took(number, due_us, now_us)

    def _dial_us(self, number: int) -> int:
        """When an agent dials for the first time, Unix microseconds."""
        return self.started_us + self.plan.start_us(number)

    async def _until(self, at_us: int, nap_seconds: float = 0.0) -> None:
        """Sleep until a time, never less, and for `nap_seconds` at least; give the loop one turn if it has passed."""
        left_us = at_us - self.now_us()
        if left_us <= 0:
            await asyncio.sleep(0)
        while left_us > 0:
            # uvloop rounds to milliseconds and fires up to 1.5 ms early: a batch must not leave before its own time.
            await asyncio.sleep(max(left_us / 1e6, nap_seconds, _SHORTEST_SLEEP_SECONDS))
            left_us = at_us - self.now_us()

    def _outstanding(self) -> int:
        counts = self.counts
        return counts.batches_produced - counts.batches_acked - counts.batches_dropped

    def _on_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An agent raised where nobody could catch it: stop, and let `run` raise it."""
        error = context.get("exception")
        # An exception that some future never handed over is a library's leftover: our own tasks are all awaited.
        if not isinstance(error, BaseException) or "future" in context or "task" in context:
            loop.default_exception_handler(context)
            return
        self._failure = self._failure or error
        self._failed.set()

    # ------------------------------------------------------------ its steady work

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self._write_progress()

    def _write_progress(self) -> None:
        """Write the ledger up to now."""
        begun = time.thread_time()
        changed, self._changed = self._changed, []
        agents = [delivery.progress() for delivery in changed]
        if self._ledger is not None:
            self._ledger.flush(self.now_us(), agents)
        self.load.ledger_seconds += time.thread_time() - begun
        self._check_settled()

    def _close_ledger(self) -> None:
        if self._ledger is not None:
            try:
                self._write_progress()
            finally:
                self._ledger.close(self.now_us())

    async def _watch_loop(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(_LAG_SECONDS)
            self.load.lag(time.monotonic() - before - _LAG_SECONDS)

    async def _seconds(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.load.sample()
            self._note_connections()
            if self._on_second is not None:
                self._on_second(self)

    def _note_connections(self) -> None:
        connected, streaming = (
            sum(agent.connected for agent in self.agents),
            sum(agent.streaming for agent in self.agents),
        )
        now = connected, self.counts.welcomes, streaming
        if not self.connections or self.connections[-1][1:] != now:
            self.connections.append((self.now_us(), *now))

    def _check_settled(self) -> None:
        if self._ending and not self._outstanding():
            self._settled.set()

    # ------------------------------------------------------------ what the agents ask: see Services

    def now_us(self) -> int:
        """Unix microseconds, read off the monotonic clock: a step of the wall clock does not move the timeline."""
        return self._wall0_us + (time.monotonic_ns() - self._mono0_ns) // 1000

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """See `Services`."""
        return self._loop.call_later(seconds, callback)

    def dial(self, agent: int, session: Session, failed: _Failed) -> None:
        """See `Services`."""
        session = self.faults.session_for(agent, session)
        lifetime_seconds = self.faults.token_seconds(agent) or self.plan.token_seconds
        if not self.faults.holds(agent, lambda: self._want(agent, session, failed, lifetime_seconds)):
            self._want(agent, session, failed, lifetime_seconds)

    def dial_besides(self, agent: int, session: Session, failed: _Failed) -> None:
        """See `FaultServices`."""
        self._want(agent, session, failed, self.plan.token_seconds)

    def _want(self, agent: int, session: Session, failed: _Failed, lifetime_seconds: int) -> None:
        self._wanted.append((agent, session, failed, lifetime_seconds))
        self._dial_wanted.set()

    async def _begin_dials(self) -> None:
        while True:
            await self._dial_wanted.wait()
            self._dial_wanted.clear()
            while self._wanted:
                for _ in range(min(DIALS_PER_TURN, len(self._wanted))):
                    task = self._loop.create_task(self._dial(*self._wanted.popleft()))
                    self._dials.add(task)
                    task.add_done_callback(self._dialled)
                await asyncio.sleep(0)

    async def _dial(self, agent: int, session: Session, failed: _Failed, lifetime_seconds: int) -> None:
        plan = self.plan
        org = organisation(plan.org, plan.organisations, agent)
        token = agent_token(plan.secret, org, host_id(agent), lifetime_seconds, kid=plan.kid)
        try:
            await self._connect(plan.url, token, AGENT_SUBPROTOCOL, session, plan.source_address(agent))
        except Refused as refusal:
            failed(refusal.status, refusal.retry_after_seconds)
        except Unreachable:
            failed(None, None)

    def _dialled(self, task: asyncio.Task[None]) -> None:
        self._dials.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(self._loop, {"exception": error})

    def closed(self, code: int) -> None:
        """See `Services`."""
        self.counts.closes[code] += 1
        if self.counts.connects == self.counts.closes.total():
            self._all_gone.set()

    def record(self, record: Record) -> None:
        """See `Services`."""
        if self._ledger is not None:
            self._ledger.add(record)

    def changed(self, delivery: Delivery) -> None:
        """See `Services`."""
        self._changed.append(delivery)

    def acked(self, agent: int, due_us: int, at_us: int) -> None:
        """See `Services`."""
        self._took(agent, due_us, at_us)
        self._check_settled()

    def _took(self, agent: int, due_us: int, at_us: int) -> None:
        """A batch waited for its ack from one time to another."""
        # A batch of a history's gap waited for the fleet, not for the server.
        if self.plan.continues_us is None or due_us >= self.started_us + self.plan.ramp_us:
            measured = due_us >= self._measured_from_us
            self.ack_latency.record(at_us - due_us, due_us, counts=measured)
            if measured and self.faults and agent not in self.faults:
                self.bystander_ack_latency.record(at_us - due_us)


def _phase(entry: tuple[int, int, Agent]) -> int:
    return entry[0]


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for their end; what one of them raised before is raised here."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
