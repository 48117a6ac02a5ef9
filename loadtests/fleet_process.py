"""The fleet of a run: its process, as users start it, and the files that it leaves."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from loadtests.children import Child, python
from loadtests.scrape import scrape
from loadtests.stage import Site, outer_environment
from simulator.ledger import ledger_files
from simulator.profiles import mix_text
from simulator.scenario import Scenario

LEDGER, REPORT, HISTORY = "ledger.jsonl", "fleet.json", "history.jsonl"
CONNECT_SECONDS = 60.0
"""Longest wait for the last agent after the ramp."""
_LOOK_SECONDS = 0.2


def make_fleet(
    scenario: Scenario,
    server: Site,
    directory: Path,
    *,
    url: str | None = None,
    endless: bool = False,
    history: Path | None = None,
    warm_up_seconds: float | None = None,
) -> Child:
    """The fleet of a scenario, not started yet.

    Args:
        scenario: says how many agents, of what kind, and how long.
        server: to which they connect.
        url: the way there, if not straight.
        history: the ledger of a backfill on which it goes on.
        directory: gets the ledgers, `REPORT` and the log.
        warm_up_seconds: from its start; latencies of this time are left out of its report. None: the scenario's.
        endless: it stays until it is stopped, however long the scenario is.
    """
    fleet = scenario.fleet
    warm_up_seconds = scenario.warm_up_seconds if warm_up_seconds is None else warm_up_seconds
    arguments = [
        "simulate", "--url", url or server.ws, "--org", server.org, "--agents", str(fleet.agents),
        "--containers", str(fleet.containers), "--interval", f"{fleet.interval_seconds:g}s",
        "--log-lines", str(fleet.log_lines), "--ramp", f"{fleet.ramp_seconds:g}s", "--seed", str(scenario.seed),
        "--profiles", mix_text(fleet.profiles), "--churn-per-hour", f"{fleet.churn_per_hour:g}",
        "--troubled-commands", f"{fleet.troubled_commands:g}", "--organisations", str(fleet.organisations),
        "--token-lifetime", f"{fleet.token_lifetime_seconds:.0f}s",
        "--processes", str(fleet.processes), "--transport", fleet.transport,
        "--ledger", str(directory / LEDGER), "--report", str(directory / REPORT),
        "--warm-up", f"{warm_up_seconds:g}s", "--json", "--i-own-this",
    ]  # fmt: skip
    if history is not None:
        arguments += ["--continue", str(history)]
    for fault in scenario.faults:
        if fault.of_fleet:
            arguments += ["--fault", fault.option()]
    if not endless:
        arguments += ["--duration", f"{scenario.duration_seconds:g}s"]
    environ = outer_environment() | dict(server.credentials)
    return Child("fleet", python("seatrial", *arguments), environ, directory / "fleet.log")


def ledgers(scenario: Scenario, directory: Path) -> tuple[Path, ...]:
    """The ledgers of the fleet, one of each process."""
    return ledger_files(directory / LEDGER, scenario.fleet.processes)


async def until_connected(fleet: Child, scenario: Scenario, server: Site) -> None:
    """Wait for the last agent.

    Raises:
        ChildError: the fleet ended, or agents were missing `CONNECT_SECONDS` after the ramp.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + scenario.fleet.ramp_seconds + CONNECT_SECONDS
    connected = 0.0
    while connected < scenario.fleet.agents:
        if not fleet.running:
            raise fleet.failure(f"ended with exit code {fleet.exit_code}")
        if loop.time() > deadline:
            raise fleet.failure(f"had {connected:.0f} agents connected, expected {scenario.fleet.agents}")
        await asyncio.sleep(_LOOK_SECONDS)
        counters = await scrape(f"{server.http}/metrics")
        connected = counters.get(("seatrial_agents_connected", ""), 0.0) if counters else 0.0


async def leave(fleet: Child) -> None:
    """Let it leave in order.

    Raises:
        ChildError: it had ended with an error.
    """
    await fleet.stop()
    if fleet.exit_code not in {0, 12}:  # 12: its own report says why
        raise fleet.failure(f"ended with exit code {fleet.exit_code}")


def read_report(directory: Path) -> dict[str, Any]:
    """What the fleet reported at its end.

    Raises:
        OSError, msgspec.DecodeError: it left none.
    """
    report: dict[str, Any] = msgspec.json.decode((directory / REPORT).read_bytes())
    return report


def last_status(log: Path) -> dict[str, Any]:
    """The newest line that a fleet told with `--json`, from its log; empty until there is one."""
    with suppress(OSError, ValueError):
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            lines = [line for line in file.read().split(b"\n") if line.startswith(b"{")]
        for line in reversed(lines):
            with suppress(ValueError):
                found: dict[str, Any] = json.loads(line)
                return found
    return {}
