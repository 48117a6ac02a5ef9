"""The Locust processes of a run: their command, what they are told, and the files that they leave."""

import time
from pathlib import Path

from loadtests.children import Child, python
from loadtests.consent import OWNED
from loadtests.recorded import Recorded, read_measurements
from loadtests.shapes import shape_text
from loadtests.stage import Site, outer_environment
from server.db.embedded import free_port
from simulator.scenario import Scenario

MEASUREMENTS, ATTEMPTS, LOG = "users.json", "attempts.jsonl", "users.log"
"""With several processes each worker leaves its measurements as `users-<machine>-<random>-<pid>.json`."""
QUIET_SECONDS = 3.0
"""So long before the fleet leaves no attempt is begun any more: its outcome would be that nobody is there."""
CHECK_SECONDS = 30.0
"""How far back browsers look at what is stored, at most."""
WORKERS_WAIT_SECONDS = 30
"""Longest wait of the master for its workers."""


def check_seconds(scenario: Scenario) -> float:
    """How far back browsers look at what is stored; what is asked for must still be there when it is read."""
    return min(CHECK_SECONDS, scenario.storage.retention_seconds / 2)


def make_users(scenario: Scenario, server: Site, directory: Path) -> Child:
    """The simulated users of a scenario, not started yet; their actions end with a fleet that starts now.

    Args:
        scenario: says how many of each kind, and in how many processes: several are workers, forked by a master.
        server: whom they use.
        directory: gets `MEASUREMENTS`, `ATTEMPTS`, `LOG` and Locust's CSV; its name is the run's.
    """
    ui, actions = scenario.ui, scenario.actions
    arguments = [
        "-f", str(Path(__file__).with_name("locustfile.py")), "--headless", "--host", server.http,
        "--users", str(scenario.users), "--spawn-rate", f"{ui.spawn_rate:g}", "--stop-timeout", "2",
        "--csv", str(directory / "locust"), "--only-summary", "--seed", str(scenario.seed),
        "--visit-seconds", f"{ui.visit_seconds:g}",
        "--check-seconds", f"{check_seconds(scenario):g}",
        "--actions-per-second", f"{actions.per_second:g}",
        "--actions-until", f"{time.time() + scenario.duration_seconds - QUIET_SECONDS:.3f}",
    ]  # fmt: skip
    if ui.processes > 1:
        port = str(free_port())
        arguments += [
            "--processes", str(ui.processes), "--expect-workers-max-wait", str(WORKERS_WAIT_SECONDS),
            "--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port,
        ]  # fmt: skip
    variables = {
        **server.credentials,
        "SEATRIAL_ORG": server.org,
        OWNED: "1",  # whether it may be loaded was settled before anything began
        "SEATRIAL_MEASUREMENTS": str(directory / MEASUREMENTS),
        "SEATRIAL_ATTEMPTS": str(directory / ATTEMPTS),
        "SEATRIAL_RUN": directory.name,
        "SEATRIAL_SHAPE": shape_text(ui.shape),
        "SEATRIAL_MEASURED_FROM": f"{time.time() + scenario.warm_up_seconds:.3f}" if scenario.warm_up_seconds else "0",
        "SEATRIAL_ONE_CLOCK": "1",  # the fleet runs here too, wherever the server is
        "SEATRIAL_ORGANISATIONS": str(scenario.fleet.organisations),
        "SEATRIAL_AGENTS": str(scenario.fleet.agents),
        "SEATRIAL_OPERATORS": str(actions.operators),
        "SEATRIAL_SLOW_BROWSERS": str(ui.slow),
        "SEATRIAL_RECONNECTING_BROWSERS": str(ui.reconnecting),
        "SEATRIAL_CHART_READERS": str(ui.chart_readers),
        "SEATRIAL_LOG_DOWNLOADERS": str(ui.log_downloaders),
        "SEATRIAL_AUDITORS": str(ui.auditors),
    }
    return Child("users", python("locust", *arguments), outer_environment() | variables, directory / LOG)


def measured_by_users(directory: Path) -> list[Recorded]:
    """What the processes of `make_users` wrote last; empty: nothing yet.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file holds something else.
    """
    name = Path(MEASUREMENTS)
    return [read_measurements(path) for path in sorted(directory.glob(f"{name.stem}*{name.suffix}"))]
