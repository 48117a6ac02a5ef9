"""The receivers' process as a benchmark sees it: started, measuring, done."""

import asyncio
from pathlib import Path

from loadtests.bench.live_listener import OPEN_SECONDS
from loadtests.bench.planned_process import PlannedProcess, busy, signing
from loadtests.bench.receivers_plan import READY_SUFFIX, Received, ReceiversPlan
from loadtests.measure import Latency
from loadtests.stage import ServerUnderTest

LEAVE_SECONDS = 30.0
"""After the measuring: time to leave and to write."""
_LOOK_SECONDS = 0.02


class ReceiversProcess:
    """One use of the receivers.

    Args:
        plan: what they shall do.
        server: whose sockets these are.
        directory: gets the files.
        name: of this use.
    """

    def __init__(self, plan: ReceiversPlan, server: ServerUnderTest, directory: Path, name: str) -> None:
        self._plan = plan
        self._process = PlannedProcess("loadtests.bench.receivers", plan, Received, signing(server), directory, name)
        self.child = self._process.child

    async def start(self) -> None:
        """Start it; it dials and warms up by itself.

        Raises:
            ChildError: the system does not let us.
        """
        await self._process.start()

    async def measuring(self) -> None:
        """Wait until it measures.

        Raises:
            ChildError: it ended, or did not come to that in time.
        """
        loop = asyncio.get_running_loop()
        # Readers dial some at a time, so all of them together may take a few of one's deadlines.
        deadline = loop.time() + 5 * OPEN_SECONDS + self._plan.warm_up_seconds
        ready = self._process.out.with_suffix(READY_SUFFIX)
        while not ready.exists():
            if not self.child.running or loop.time() > deadline:
                raise self.child.failure("did not get what it asked for")
            await asyncio.sleep(_LOOK_SECONDS)

    async def received(self) -> Received:
        """Wait for its end.

        Raises:
            ChildError: it ended without a result, or nothing was received.
        """
        received = await self._process.found(self._plan.seconds + LEAVE_SECONDS)
        if not received.deliveries:
            raise self.child.failure("received no sample while it measured")
        return received


def live_latency(received: Received) -> dict[str, float]:
    """Percentiles of the live latency in milliseconds."""
    return Latency.decode([received.latency]).statistics()


def lag_p99_ms(received: Received) -> float:
    """How late the receivers themselves were."""
    return Latency.decode([received.lag]).statistics().get("p99", 0.0)


def weaknesses(received: Received) -> list[str]:
    """Why what was received says nothing about the server, or that it broke a promise; empty: neither."""
    return [
        *busy("receivers", received.cpu_seconds, received.seconds),
        *(f"{count} x {kind} in what was received" for kind, count in received.failures.items()),
        *(f"{count} readers were closed with {code}" for code, count in received.reader_closes.items()),
    ]
