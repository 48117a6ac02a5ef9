"""Small fleets against a fake server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from simulator.agent import WELCOME_SECONDS
from simulator.fleet import Fleet
from simulator.plan import Plan
from tests.support.fake_server import SECRET, FakeServer


def plan_for(url: str, **changes: Any) -> Plan:
    """One agent with three containers, ten ticks a second."""
    values: dict[str, Any] = {
        "url": url, "secret": SECRET, "org": "acme", "agents": 1, "containers": 3, "log_lines": 1, "seed": 5,
        "interval_us": 100_000, "ramp_us": 0,
    }  # fmt: skip
    return Plan(**(values | changes))


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that nobody announces, with a deadline."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running_fleet(
    server: FakeServer, ledger: Path | None = None, *, chance: float = 0.0, settle: float = 1.0, **changes: Any
) -> AsyncIterator[Fleet]:
    """A fleet that runs; at the end it is stopped in order, and what it raised is raised.

    Args:
        server: to connect to.
        ledger: the fleet's.
        chance: what back-off gets for a random number; 0 gives its shortest pauses.
        settle: seconds that the end waits for acks; 0 where the server never sends them.
        changes: to the values of `plan_for`.
    """
    stop = asyncio.Event()
    fleet = Fleet(plan_for(server.url, **changes), ledger, chance=lambda: chance, settle_seconds=settle)
    task = asyncio.create_task(fleet.run(stop))
    try:
        yield fleet
    finally:
        stop.set()
        await task


async def pauses_of(url: str, count: int, *, chance: float, **changes: Any) -> list[float]:
    """The first pauses before an agent dials again; they are noted, and not waited for."""
    pauses: list[float] = []
    stop = asyncio.Event()
    fleet = Fleet(plan_for(url, **changes), chance=lambda: chance, settle_seconds=0)
    call_later = fleet.call_later

    def noted(seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        if seconds == WELCOME_SECONDS:
            return call_later(seconds, callback)
        pauses.append(seconds)
        if len(pauses) == count:
            stop.set()
        return call_later(0, callback)

    fleet.call_later = noted  # type: ignore[method-assign]
    await asyncio.wait_for(fleet.run(stop), 20)
    return pauses[:count]
