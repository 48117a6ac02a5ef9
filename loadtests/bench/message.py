"""`bench message`: CPU of a batch received, decoded, packed and acked, beside the bare echo of two WebSocket servers."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg

from loadtests.bench.driver_plan import Driven, DriverPlan
from loadtests.bench.figures import Figure, Report, median
from loadtests.bench.plan import plan
from loadtests.bench.planned_process import PlannedProcess, signing
from loadtests.bench.usage import Component
from loadtests.children import Child, python
from loadtests.fingerprint import Postgres, environment
from loadtests.measure import Latency
from loadtests.stage import ServerUnderTest, database, fingerprint, outer_environment
from server.db.embedded import free_port

CONNECTIONS = 300
CONTAINERS = 10
WARM_UP_SECONDS = 2.0
"""Of each round: containers are registered, and pools and windows find their size."""
LATE_MS = 50.0
"""A driver later than that at p99 did not keep the rate, and its batches came in bursts."""
KEPT = 0.95
"""Share of the rate that must be answered."""
_END_SECONDS = 60.0
"""Of a round beyond its own time: to connect, and to leave."""


async def run(
    directory: Path, *, seconds: float, rounds: int, per_second: float, pins: dict[str, tuple[int, ...]]
) -> Report:
    """Drive the three servers in turn with the same frames at the same rate, `rounds` times; the median counts.

    Raises:
        StageError, ChildError: the environment could not be set up.
    """
    async with AsyncExitStack() as stack:
        dsn, _ = await stack.enter_async_context(database(None, directory / "postgres.log"))
        # Admission paces storms; here nobody storms, and 300 connections are not what is measured.
        server = ServerUnderTest(
            plan("bench-message", env={"SEATRIAL_RECONNECTS_PER_SECOND": "100000"}), dsn, directory
        )
        stack.push_async_callback(server.child.stop)
        await server.start()
        postgres = await _postgres(dsn)
        echoes = {
            name: await _echo(stack, directory, module) for name, module in
            (("uvicorn echo", "loadtests.bench.echo_uvicorn"), ("picows echo", "loadtests.bench.echo_picows"))
        }  # fmt: skip
        targets = {"seatrial": (server.ws + "/ws/agent", server.child), **echoes}
        for child in (child for _, child in targets.values()):
            if "server" in pins:
                Component("server", child.pid).pin(pins["server"])
        found: dict[str, list[Driven]] = {name: [] for name in targets}
        for number in range(1, rounds + 1):
            for name, (url, child) in targets.items():
                wanted = DriverPlan(
                    url=url, agent=name == "seatrial", pid=child.pid, connections=CONNECTIONS, containers=CONTAINERS,
                    per_second=per_second, warm_up_seconds=WARM_UP_SECONDS, seconds=seconds,
                )  # fmt: skip
                found[name].append(await _drive(wanted, server, directory, f"drive-{number}-{name.split()[0]}", pins))
    options = {
        "seconds": seconds, "connections": CONNECTIONS, "containers": CONTAINERS, "rounds": rounds, "rate": per_second,
        "pins": pins,
    }  # fmt: skip
    return Report(
        benchmark="message", options=options, environment=await asyncio.to_thread(environment, postgres),
        figures=tuple(_figures(found)), failures=tuple(failures(found, per_second)),
    )  # fmt: skip


def failures(found: dict[str, list[Driven]], per_second: float) -> list[str]:
    """Why the servers did not have the same load; empty: they had."""
    told = []
    for name, rounds in found.items():
        for number, driven in enumerate(rounds, 1):
            if (late_ms := _late_ms(driven)) > LATE_MS:
                told.append(
                    f"{name}, round {number}: the driver was {late_ms:.0f} ms late at p99, at most {LATE_MS:g} ms"
                )
            if (answered := driven.answered / driven.seconds) < KEPT * per_second:
                told.append(f"{name}, round {number}: {answered:.0f} of {per_second:g} messages/s were answered")
    return told


def _figures(found: dict[str, list[Driven]]) -> list[Figure]:
    costs = {name: [_cost_us(driven) for driven in rounds] for name, rounds in found.items()}
    ours = median(costs["seatrial"])
    return [
        *(Figure(name=f"{name}: CPU per message", value=median(values), unit="us", note=_spread(values))
          for name, values in costs.items()),
        *(Figure(name=f"{name}: messages", value=median(driven.answered / driven.seconds for driven in rounds), unit="1/s")
          for name, rounds in found.items()),
        *(Figure(name=f"{name}: driver late p99", value=max(map(_late_ms, rounds)), unit="ms")
          for name, rounds in found.items()),
        Figure(name="seatrial to uvicorn echo", value=ours / median(costs["uvicorn echo"]), unit="ratio"),
        Figure(name="seatrial to picows echo", value=ours / median(costs["picows echo"]), unit="ratio"),
    ]  # fmt: skip


def _cost_us(driven: Driven) -> float:
    return driven.cpu_seconds / driven.sent * 1e6


def _late_ms(driven: Driven) -> float:
    return Latency.decode([driven.lag]).statistics().get("p99", 0.0)


def _spread(values: list[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f} in {len(values)} rounds"


async def _postgres(dsn: str) -> Postgres:
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=60)
    try:
        return await fingerprint(connection)
    finally:
        await connection.close(timeout=5)


async def _echo(stack: AsyncExitStack, directory: Path, module: str) -> tuple[str, Child]:
    port = free_port()
    child = Child("echo", python(module, str(port)), outer_environment(), directory / f"{module}.log")
    stack.push_async_callback(child.stop)
    await child.start()
    deadline = time.monotonic() + 30
    while not await _listens(port):
        if time.monotonic() > deadline or not child.running:
            raise child.failure("did not start")
        await asyncio.sleep(0.1)
    return f"ws://127.0.0.1:{port}/", child


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def _drive(
    wanted: DriverPlan, server: ServerUnderTest, directory: Path, name: str, pins: dict[str, tuple[int, ...]]
) -> Driven:
    """One round."""
    driver = PlannedProcess("loadtests.bench.driver", wanted, Driven, signing(server), directory, name)
    await driver.start()
    if "peers" in pins:
        Component("peers", driver.child.pid).pin(pins["peers"])
    try:
        return await driver.found(wanted.warm_up_seconds + wanted.seconds + _END_SECONDS)
    finally:
        await driver.child.stop()
