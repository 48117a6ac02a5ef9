"""`bench message`: CPU of a batch received, decoded, packed and acked, beside the bare echo of two WebSocket servers."""

import asyncio
import time
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from loadtests.bench.figures import Figure, Report, median
from loadtests.bench.plan import plan
from loadtests.bench.usage import Component
from loadtests.children import Child, python
from loadtests.fingerprint import environment
from loadtests.stage import ServerUnderTest, database, outer_environment
from server.db.embedded import free_port
from simulator.tokens import agent_token

CONNECTIONS = 50
CONTAINERS = 10


async def run(directory: Path, *, seconds: float, rounds: int, pins: dict[str, tuple[int, ...]]) -> Report:
    """Drive the three servers in turn with the same frames, `rounds` times; the median counts.

    Raises:
        StageError, ChildError: the environment could not be set up.
    """
    found: dict[str, list[float]] = {"seatrial": [], "uvicorn echo": [], "picows echo": []}
    rates: dict[str, list[float]] = {name: [] for name in found}
    async with AsyncExitStack() as stack:
        dsn, _ = await stack.enter_async_context(database(None, directory / "postgres.log"))
        server = ServerUnderTest(plan("bench-message", env={}), dsn, directory)
        stack.push_async_callback(server.child.stop)
        await server.start()
        echoes = {
            name: await _echo(stack, directory, module) for name, module in
            (("uvicorn echo", "loadtests.bench.echo_uvicorn"), ("picows echo", "loadtests.bench.echo_picows"))
        }  # fmt: skip
        targets = {"seatrial": (server.ws + "/ws/agent", server.child), **echoes}
        for child in (child for _, child in targets.values()):
            if "server" in pins:
                Component("server", child.pid).pin(pins["server"])
        for _ in range(rounds):
            for name, (url, child) in targets.items():
                cpu, count, took = await _drive(directory, url, child, server.secret, seconds, pins)
                found[name].append(cpu / count * 1e6)
                rates[name].append(count / took)
    ours = median(found["seatrial"])
    figures = [
        *(Figure(name=f"{name}: CPU per message", value=median(values), unit="us", note=_spread(values))
          for name, values in found.items()),
        *(Figure(name=f"{name}: messages", value=median(values), unit="1/s") for name, values in rates.items()),
        Figure(name="seatrial to uvicorn echo", value=ours / median(found["uvicorn echo"]), unit="ratio"),
        Figure(name="seatrial to picows echo", value=ours / median(found["picows echo"]), unit="ratio"),
    ]  # fmt: skip
    return Report(
        benchmark="message",
        options={"seconds": seconds, "connections": CONNECTIONS, "containers": CONTAINERS, "rounds": rounds, "pins": pins},
        environment=await asyncio.to_thread(environment), figures=tuple(figures),
    )  # fmt: skip


def _spread(values: list[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f} in {len(values)} rounds"


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
    directory: Path, url: str, child: Child, secret: str, seconds: float, pins: dict[str, tuple[int, ...]]
) -> tuple[float, int, float]:
    """CPU seconds of the server, messages and seconds of one round."""
    out = directory / f"drive-{uuid.uuid4().hex}.json"
    tokens = ",".join(agent_token(secret, "bench", f"bench-{i}") for i in range(CONNECTIONS))
    driver = Child(
        "driver", python("loadtests.bench.driver", url, str(seconds), str(CONTAINERS), str(out)),
        outer_environment() | {"BENCH_TOKENS": tokens}, directory / "driver.log",
    )  # fmt: skip
    component = Component("server", child.pid)
    await driver.start()
    if "peers" in pins:
        Component("peers", driver.pid).pin(pins["peers"])
    try:
        ready = out.with_suffix(".ready")
        deadline = time.monotonic() + 30
        while not ready.exists():
            if not driver.running or time.monotonic() > deadline:
                raise driver.failure("did not connect")
            await asyncio.sleep(0.02)
        before = component.cpu_seconds()
        if await asyncio.wait_for(driver.wait(), seconds + 30) != 0:
            raise driver.failure(f"ended with exit code {driver.exit_code}")
        used = component.cpu_seconds() - before
    finally:
        await driver.stop()
    done: dict[str, Any] = msgspec.json.decode(out.read_bytes())
    return used, done["messages"], done["seconds"]
