"""A run's outcome, without the run."""

import asyncio
import io
import signal
import sys
from pathlib import Path

import pytest

from loadtests.children import Child
from loadtests.database import Reconnecting
from loadtests.faults import Faults
from loadtests.findings import Findings
from loadtests.progress import Progress
from loadtests.run import Run
from loadtests.sampling import Sampler
from loadtests.stage import ServerUnderTest
from server.db.storage.plain import PlainStorage
from simulator.scenario import Fault, load

ROOT = Path(__file__).parents[2]


def test_unverified_rows_make_a_run_invalid(tmp_path: Path) -> None:
    """Rows that nobody could judge are told as a reason, however small a fraction they are."""
    run = Run(load(ROOT / "scenarios" / "smoke.toml"), tmp_path, None, Progress(io.StringIO()))
    run._outcome.findings = Findings(verified=99_999, acked=99_999, stored=100_000, unverified=1)

    result = run._outcome.result()

    assert result.metrics["ledger_verified_fraction"].statistics["value"] == 0.99999
    assert "invalid: 1 stored rows unverified: the fleet's ledger fell silent" in result.reasons


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault(at_seconds=0, kind="server_kill"), "server_kill at 0s did not happen: the server was not up"),
        (Fault(at_seconds=0, kind="server_term"), "server_term at 0s did not happen: the server was not up"),
        (
            Fault(at_seconds=0, kind="postgres_stop", for_seconds=2),
            "postgres_stop at 0s for 2s did not happen: Postgres was not up",
        ),
        (
            Fault(at_seconds=0, kind="resets", fraction=0.25),
            "resets of 0.25 at 0s did not happen: there is no proxy between the fleet and the server",
        ),
    ],
)
async def test_a_fault_that_did_not_happen_makes_a_run_invalid(tmp_path: Path, fault: Fault, why: str) -> None:
    """What was down already was not broken by us."""
    scenario = load(ROOT / "scenarios" / "server-kill.toml")
    run = Run(scenario, tmp_path, None, Progress(io.StringIO()))
    server = ServerUnderTest(scenario, "postgresql://nowhere", tmp_path)
    await run._break(Faults(server, None, None), fault)

    assert run._outcome.invalid == [f"the fault {why}"]
    assert run._outcome.faults == []


async def test_a_server_that_does_not_come_back_ends_the_load(tmp_path: Path) -> None:
    """The fleet is sent home, the reason is told with the end of its log, and the run goes on to its verdict."""

    class Broken(Child):
        """A server that ends at once, whatever it is told."""

        async def wait(self) -> int:
            return -9

    scenario = load(ROOT / "scenarios" / "server-kill.toml")
    run = Run(scenario, tmp_path, None, Progress(io.StringIO()))
    server = ServerUnderTest(scenario, "postgresql://nowhere", tmp_path)
    server._command = [sys.executable, "-c", "raise SystemExit('no table fits')"]
    server.child = Broken("server", server._command, {}, tmp_path / "server.log")
    nowhere = Reconnecting("", statement_seconds=1)
    sampler = Sampler(server.http, PlainStorage(), nowhere, nowhere)
    fleet = Child("fleet", [sys.executable, "-c", "import time; time.sleep(60)"], {}, tmp_path / "fleet.log")
    await fleet.start()
    try:
        await run._watch_server(server, sampler, fleet)
        async with asyncio.timeout(20):
            assert await fleet.wait() == -signal.SIGTERM
    finally:
        await fleet.kill()

    (reason,) = run._outcome.invalid
    assert reason.startswith("the server did not come back: server ended with exit code 1 before it was ready")
    assert "no table fits" in reason
    assert run._outcome.server_failures == 2


def test_a_fault_that_was_not_over_makes_a_run_invalid(tmp_path: Path) -> None:
    """The load did not meet all of it."""
    run = Run(load(ROOT / "scenarios" / "server-kill.toml"), tmp_path, None, Progress(io.StringIO()))
    run._outcome.count_faults()

    assert run._outcome.invalid == ["1 of 1 faults were not over when the load ended"]
