"""The Locust process of a run: its command, what it is told, and the files that it leaves."""

import time
from pathlib import Path

from loadtests.children import Child, python
from loadtests.stage import ORG, ServerUnderTest, outer_environment
from simulator.scenario import Scenario

MEASUREMENTS, ATTEMPTS, LOG = "users.json", "attempts.jsonl", "users.log"
QUIET_SECONDS = 3.0
"""So long before the fleet leaves no attempt is begun any more: its outcome would be that nobody is there."""


def make_users(scenario: Scenario, server: ServerUnderTest, directory: Path) -> Child:
    """The simulated users of a scenario, not started yet; their actions end with a fleet that starts now.

    Args:
        scenario: says how many of each kind.
        server: whom they use.
        directory: gets `MEASUREMENTS`, `ATTEMPTS`, `LOG` and Locust's CSV; its name is the run's.
    """
    ui, actions = scenario.ui, scenario.actions
    arguments = [
        "-f", str(Path(__file__).with_name("locustfile.py")), "--headless", "--host", server.http,
        "--users", str(scenario.users), "--spawn-rate", f"{ui.spawn_rate:g}", "--stop-timeout", "2",
        "--csv", str(directory / "locust"), "--only-summary",
        "--actions-per-second", f"{actions.per_second:g}",
        "--actions-until", f"{time.time() + scenario.duration_seconds - QUIET_SECONDS:.3f}",
    ]  # fmt: skip
    variables = {
        "SEATRIAL_JWT_SECRET": server.secret,
        "SEATRIAL_ORG": ORG,
        "SEATRIAL_MEASUREMENTS": str(directory / MEASUREMENTS),
        "SEATRIAL_ATTEMPTS": str(directory / ATTEMPTS),
        "SEATRIAL_RUN": directory.name,
        "SEATRIAL_OPERATORS": str(actions.operators),
        "SEATRIAL_CHART_READERS": str(ui.chart_readers),
        "SEATRIAL_LOG_DOWNLOADERS": str(ui.log_downloaders),
        "SEATRIAL_AUDITORS": str(ui.auditors),
    }
    return Child("users", python("locust", *arguments), outer_environment() | variables, directory / LOG)
