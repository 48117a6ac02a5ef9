"""What breaks on purpose, and how one knows that it did."""

import asyncio
from collections.abc import Awaitable, Callable

from loadtests.children import STOP_TIMEOUT_SECONDS
from loadtests.measure import now_us
from loadtests.network import Command, Network
from loadtests.result import FaultDone
from loadtests.scrape import status
from loadtests.stage import ServerUnderTest, StageError
from server.db.embedded import EmbeddedPostgres, EmbeddedPostgresError
from simulator.scenario import Fault, Problem, Scenario, ScenarioError
from simulator.scenario_format import seconds

_LOOK_SECONDS = 0.2
SEAM_TIMEOUT_SECONDS = 10.0
"""A lane commits several times a second while agents send."""
_UNREADY = 503


class FaultError(Exception):
    """A fault could not be done, so the run says nothing about it."""


def check_breakable(scenario: Scenario, database_url: str | None) -> None:
    """Check that the run may break what the scenario says.

    Raises:
        ScenarioError: with every fault of a Postgres that is not the run's own.
    """
    if database_url is None:
        return
    problems = [
        Problem(
            scenario.path, "fault.kind", fault.kind,
            "breaks the whole Postgres, and that of --database-url is not this run's own: leave --database-url out",
        )
        for fault in scenario.faults if fault.part == "postgres"
    ]  # fmt: skip
    if problems:
        raise ScenarioError(*problems)


class Faults:
    """Breaks the parts of a run.

    Args:
        server: the server.
        postgres: the run's own; None: no fault needs it.
        network: between fleet and server; None: no fault needs it.
    """

    def __init__(self, server: ServerUnderTest, postgres: EmbeddedPostgres | None, network: Network | None) -> None:
        self._server = server
        self._postgres = postgres
        self._network = network
        self._kinds: dict[str, Callable[[Fault], Awaitable[str]]] = {
            "server_kill": self._server_kill,
            "server_kill_before_ack": self._server_kill_before_ack,
            "server_term": self._server_term,
            "postgres_kill": self._postgres_kill,
            "postgres_stop": self._postgres_stop,
            "acks_withheld": self._acks_withheld,
            "resets": self._resets,
        }

    async def perform(self, fault: Fault) -> FaultDone:
        """Let it happen now, and wait until it is over. Cancelled, it ends what it began.

        Raises:
            FaultError: it did not happen.
            StageError, ChildError: what was broken could not be mended.
        """
        begun_us = now_us()
        detail = await self._kinds[fault.kind](fault)
        return FaultDone(at_us=begun_us, ended_at_us=now_us(), kind=fault.kind, detail=detail)

    # -- the server

    def _require_server(self) -> ServerUnderTest:
        if not self._server.ready:
            raise FaultError("the server was not up")
        return self._server

    async def _server_kill(self, _: Fault) -> str:
        server = self._require_server()
        pid = server.child.pid
        server.kill()
        return f"SIGKILL to process {pid}"

    async def _server_kill_before_ack(self, _: Fault) -> str:
        server = self._require_server()
        child = server.child
        server.kill_at_seam()
        try:
            async with asyncio.timeout(SEAM_TIMEOUT_SECONDS):
                await child.wait()
        except TimeoutError:
            raise FaultError(f"no writer lane came past a COMMIT within {SEAM_TIMEOUT_SECONDS:g} s") from None
        return f"SIGKILL by itself to process {child.pid}, between a COMMIT and its acks"

    async def _server_term(self, _: Fault) -> str:
        server = self._require_server()
        child, begun_us = server.child, now_us()
        server.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                code = await child.wait()
        except TimeoutError:
            await child.kill()
            return f"SIGTERM to process {child.pid}, which did not end within {STOP_TIMEOUT_SECONDS:g} s and was killed"
        return f"SIGTERM to process {child.pid}, exit code {code} after {(now_us() - begun_us) / 1e6:.1f} s"

    # -- Postgres

    def _require_postgres(self) -> EmbeddedPostgres:
        if self._postgres is None or not self._postgres.running:
            raise FaultError("Postgres was not up")
        return self._postgres

    async def _postgres_kill(self, fault: Fault) -> str:
        postgres = self._require_postgres()
        pid = postgres.pid
        try:
            await asyncio.to_thread(postgres.kill)
            await asyncio.sleep(fault.for_seconds)
            await asyncio.to_thread(postgres.start)
        except EmbeddedPostgresError as error:
            raise StageError(f"postgres, after postgres_kill: {error}") from None
        return f"SIGKILL to postmaster {pid}, {seconds(fault.for_seconds)} later started again as {postgres.pid}"

    async def _postgres_stop(self, fault: Fault) -> str:
        postgres = self._require_postgres()
        pid = postgres.pid
        try:
            try:
                await asyncio.to_thread(postgres.pause)
                noticed = await self._unready_within(fault.for_seconds)
            finally:
                await asyncio.to_thread(postgres.resume)
        except EmbeddedPostgresError as error:
            raise StageError(f"postgres, after postgres_stop: {error}") from None
        if not noticed:
            raise FaultError(f"the server did not notice it: /readyz never answered {_UNREADY}")
        return f"SIGSTOP to postmaster {pid} and its backends, {seconds(fault.for_seconds)} later SIGCONT"

    async def _unready_within(self, for_seconds: float) -> bool:
        """Stay so long; returns whether the server said meanwhile that it is not ready."""
        loop = asyncio.get_running_loop()
        until = loop.time() + for_seconds
        try:
            async with asyncio.timeout_at(until):
                while True:
                    if await status(f"{self._server.http}/readyz") == _UNREADY:
                        break
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            return False
        await asyncio.sleep(until - loop.time())
        return True

    # -- the network

    def _require_network(self) -> Network:
        if self._network is None:
            raise FaultError("there is no proxy between the fleet and the server")
        return self._network

    async def _acks_withheld(self, fault: Fault) -> str:
        network = self._require_network()
        before = network.carried.withheld_bytes
        try:
            await network.ask(Command(withhold=True))
            await asyncio.sleep(fault.for_seconds)
        finally:
            carried = await network.ask(Command(withhold=False))
        withheld = carried.withheld_bytes - before
        if not withheld:
            raise FaultError(f"of {carried.connections} connections there was nothing to withhold")
        return f"{withheld} bytes of {carried.connections} connections withheld for {seconds(fault.for_seconds)}"

    async def _resets(self, fault: Fault) -> str:
        network = self._require_network()
        before = network.carried.resets
        open_before = (await network.ask(Command())).connections
        resets = (await network.ask(Command(reset=fault.fraction))).resets - before
        if not resets:
            raise FaultError(f"of {open_before} connections none was reset")
        return f"{resets} of {open_before} connections reset"
