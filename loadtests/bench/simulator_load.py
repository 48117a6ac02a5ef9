"""The loads of `bench simulator`: a fleet, or a program beside it, against a sink of its own."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtests.bench.simulator_peers import Peer
from loadtests.bench.sink import COUNT_PATH
from loadtests.bench.usage import Component
from loadtests.children import MAX_GENERATOR_CPU, Child, python
from loadtests.fleet_process import last_status, leave, read_report
from loadtests.measure import Latency
from loadtests.scrape import get
from loadtests.stage import outer_environment
from server.db.embedded import free_port

SETTLE_SECONDS = 5.0
"""Between the last connection and the measuring: memory finds its size, and the load's window of CPU forgets the ramp."""
CONNECT_SECONDS = 60.0
KEPT = 0.95
"""Share of the offered rate that must arrive."""
SECRET = "the sink checks no token, so anybody may know this"  # noqa: S105 - it opens nothing
_LOOK_SECONDS = 0.1

Pins = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """A fleet to be measured."""

    name: str
    agents: int
    containers: int
    log_lines: int
    seed: int
    transport: str
    ramp_seconds: float
    seconds: float


@dataclass(slots=True)
class Load:
    """What a load cost while it was measured."""

    seconds: float = 0.0
    messages: int = 0
    cpu_seconds: float = 0.0
    generation_seconds: float = 0.0
    ledger_seconds: float = 0.0
    rss_bytes: int = 0
    skipped_ticks: int = 0
    lag: Latency = field(default_factory=Latency)
    sink_cores: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds if self.seconds else math.nan

    @property
    def cost_us(self) -> float:
        """CPU of a message in microseconds, all of it."""
        return self.per_message_us(self.cpu_seconds)

    def per_message_us(self, cpu_seconds: float) -> float:
        """CPU time as microseconds of a message."""
        return cpu_seconds / self.messages * 1e6 if self.messages else math.nan


@dataclass(slots=True)
class Sink:
    """A sink that runs."""

    url: str
    component: Component
    count_url: str
    """Where it tells how many batches it has got."""

    async def count(self) -> int:
        """How many batches it has got.

        Raises:
            OSError: it does not answer.
        """
        body = await get(self.count_url)
        if body is None:
            raise OSError("the sink does not answer")
        return int(body)


@asynccontextmanager
async def sink(directory: Path, name: str, pins: Pins) -> AsyncIterator[Sink]:
    """A sink for one load.

    Raises:
        ChildError: it did not start.
    """
    port = free_port()
    child = Child(
        "sink", python("loadtests.bench.sink", str(port)), outer_environment(), directory / f"{name}-sink.log"
    )
    await child.start()
    try:
        running = Sink(f"ws://127.0.0.1:{port}", Component("sink", child.pid), f"http://127.0.0.1:{port}{COUNT_PATH}")
        deadline = asyncio.get_running_loop().time() + 30.0
        while await get(running.count_url) is None:
            if not child.running or asyncio.get_running_loop().time() > deadline:
                raise child.failure("did not start")
            await asyncio.sleep(_LOOK_SECONDS)
        _pin(running.component, "sink", pins)
        yield running
    finally:
        await child.stop()


async def measure_fleet(options: FleetOptions, directory: Path, pins: Pins) -> Load:
    """Let a fleet connect and settle, and measure it; its own counters say what it did and what that cost.

    Raises:
        ChildError: it could not be run.
    """
    load, own = Load(), directory / options.name
    own.mkdir()
    async with sink(directory, options.name, pins) as peer:
        child = _fleet(options, peer.url, own)
        await child.start()
        try:
            _pin(Component("fleet", child.pid), "fleet", pins)
            deadline = asyncio.get_running_loop().time() + options.ramp_seconds + CONNECT_SECONDS
            await _status(child, lambda now: now["connected"] == options.agents, deadline)
            await asyncio.sleep(SETTLE_SECONDS)
            before, sink_before = await _next_status(child), peer.component.cpu_seconds()
            await asyncio.sleep(options.seconds)
            after, sink_after = await _next_status(child), peer.component.cpu_seconds()
            await leave(child)
        finally:
            await child.stop()
    load.seconds = (after["at_us"] - before["at_us"]) / 1e6
    load.messages = after["batches_sent"] - before["batches_sent"]
    load.cpu_seconds = after["cpu_seconds"] - before["cpu_seconds"]
    load.generation_seconds = after["generation_cpu_seconds"] - before["generation_cpu_seconds"]
    load.ledger_seconds = after["ledger_cpu_seconds"] - before["ledger_cpu_seconds"]
    load.rss_bytes = after["rss_bytes"]
    load.skipped_ticks = after["skipped_ticks"] - before["skipped_ticks"]
    load.sink_cores = (sink_after - sink_before) / load.seconds
    report = read_report(own)
    load.lag = Latency.decode([report["schedule_lag_ms"]["hdr"]])
    load.failures += [f"{options.name}: {reason}" for reason in report["invalid"]]
    load.failures += _bottlenecks(options.name, load, options.agents)
    return load


async def measure_peer(peer: Peer, sink_: Sink, users: int, ramp_seconds: float, seconds: float, pins: Pins) -> Load:
    """Let another program send, and measure it with all that it started; the sink counts its messages.

    Raises:
        ChildError: it could not be run.
        OSError: the sink does not answer.
    """
    load, child = Load(), peer.child
    if child is None:
        raise ValueError(f"{peer.name} is not here")
    loop = asyncio.get_running_loop()
    await child.start()
    try:
        component = Component("peers", child.pid)
        _pin(component, "peers", pins)
        deadline = loop.time() + ramp_seconds + CONNECT_SECONDS
        while await sink_.count() < users:
            if not child.running or loop.time() > deadline:
                raise child.failure("did not send")
            await asyncio.sleep(_LOOK_SECONDS)
        await asyncio.sleep(ramp_seconds + SETTLE_SECONDS)
        begun, count, cpu = loop.time(), await sink_.count(), component.cpu_seconds()
        sink_cpu = sink_.component.cpu_seconds()
        await asyncio.sleep(seconds)
        load.messages = await sink_.count() - count
        load.cpu_seconds = component.cpu_seconds() - cpu
        load.seconds = loop.time() - begun
        load.sink_cores = (sink_.component.cpu_seconds() - sink_cpu) / load.seconds
        if not child.running:
            raise child.failure("ended while it was measured")
    finally:
        await child.kill()
    load.failures += _bottlenecks(peer.name, load, users)
    return load


def _fleet(options: FleetOptions, url: str, directory: Path) -> Child:
    command = python(
        "seatrial", "simulate", "--url", url, "--agents", str(options.agents), "--containers", str(options.containers),
        "--log-lines", str(options.log_lines), "--seed", str(options.seed), "--transport", options.transport,
        "--ramp", f"{options.ramp_seconds:g}s", "--warm-up", f"{options.ramp_seconds + SETTLE_SECONDS:g}s",
        "--ledger", str(directory / "ledger.jsonl"), "--report", str(directory / "fleet.json"), "--json", "--split-cpu",
    )  # fmt: skip
    environ = outer_environment() | {"SEATRIAL_JWT_SECRET": SECRET}
    return Child(f"fleet {options.name}", command, environ, directory / "fleet.log")


async def _status(child: Child, wanted: Any, deadline: float) -> dict[str, Any]:
    """The first status of a fleet that is as wanted.

    Raises:
        ChildError: the fleet ended, or there was none in time.
    """
    while not ((now := await asyncio.to_thread(last_status, child.log)) and wanted(now)):
        if not child.running:
            raise child.failure(f"ended with exit code {child.exit_code}")
        if asyncio.get_running_loop().time() > deadline:
            raise child.failure(f"was not ready: its last word was {now}")
        await asyncio.sleep(_LOOK_SECONDS)
    return now


async def _next_status(child: Child) -> dict[str, Any]:
    """The next status that a fleet tells."""
    last = (await asyncio.to_thread(last_status, child.log)).get("at_us", 0)
    return await _status(child, lambda now: now["at_us"] > last, asyncio.get_running_loop().time() + 10.0)


def _bottlenecks(name: str, load: Load, agents: int) -> list[str]:
    """Why a load's figures are worthless; an agent sends once a second."""
    told = []
    if load.sink_cores > MAX_GENERATOR_CPU:
        told.append(f"{name}: the sink used {load.sink_cores:.0%} of a core: it was the limit")
    if load.rate < KEPT * agents:
        told.append(f"{name}: {load.rate:.0f} of {agents} messages/s arrived")
    return told


def _pin(component: Component, name: str, pins: Pins) -> None:
    if name in pins:
        component.pin(pins[name])
