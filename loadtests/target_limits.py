"""What cannot be done to a server that is not the run's own, told by name before anything is sent, with what can."""

from typing import Protocol

from loadtests.catalogue import SOURCES
from loadtests.probes.catalogue import PROCESS_SERIES
from simulator.fault_kinds import FAULTS
from simulator.scenario import Problem, Scenario, ScenarioError
from simulator.scenario_format import seconds

_INSTEAD = {
    "server_kill": "reconnect_storm of the fleet, or stop the target yourself while the run goes on",
    "server_term": "reconnect_storm of the fleet, or restart the target yourself while the run goes on",
    "postgres_kill": "stop the target's Postgres yourself while the run goes on",
    "postgres_stop": "stop the target's Postgres yourself while the run goes on",
    "acks_withheld": "half_open or unread_acks of the fleet",
    "resets": "disconnect of the fleet",
}
"""What comes closest to each fault of the runner."""
_RUNNERS_OWN = frozenset(
    {"server_restarts", "server_failures"}
    | {name for name in PROCESS_SERIES if name.startswith(("server_", "postgres_"))}
)
"""Metrics of processes that only their owner sees."""


class Kept(Protocol):
    """How a server keeps rows. Times in seconds."""

    @property
    def retention_seconds(self) -> float:
        """Age at which they are removed."""

    @property
    def prune_interval_seconds(self) -> float:
        """Pause between two removals."""


def check_targetable(scenario: Scenario) -> None:
    """Check that a scenario asks nothing of a target that only the owner of its processes can do.

    Raises:
        ScenarioError: with everything that it asks.
    """
    problems = [
        _problem(scenario, "fault.kind", fault.kind,
                 f"breaks what is not this run's own, and --target is not: instead: {_INSTEAD[fault.kind]}")
        for fault in scenario.faults if not FAULTS[fault.kind].of_fleet
    ]  # fmt: skip
    server, storage = scenario.server, scenario.storage
    if server.restart:
        problems.append(
            _problem(scenario, "server.restart", True, "the runner cannot start a target: --set server.restart=false")
        )
    problems += [
        _problem(
            scenario,
            f"server.env.{name}",
            value,
            "a target has settings of its own: set it there, and leave it out here",
        )
        for name, value in server.env.items()
    ]
    problems += [
        _problem(
            scenario, f"postgres.{name}", value, f"the Postgres of a target has its own: --set postgres.{name}=none"
        )
        for name, value in scenario.postgres.items()
    ]
    if server.log_level != "info":
        problems.append(
            _problem(
                scenario, "server.log_level", server.log_level, "a target has its own: --set server.log_level=info"
            )
        )
    if storage.backfill_seconds:
        problems.append(
            _problem(
                scenario, "storage.backfill", seconds(storage.backfill_seconds),
                "writes past the server, into a database that is not this run's own: --set storage.backfill=0s",
            )
        )  # fmt: skip
    problems += [
        _problem(scenario, f"thresholds.{threshold.key}", threshold.bound,
                 f"nobody but its owner sees the processes of a target: --set thresholds.{threshold.key}=none")
        for threshold in scenario.thresholds if threshold.metric in _RUNNERS_OWN
    ]  # fmt: skip
    _raise(problems)


def check_storage(scenario: Scenario, strategy: str, kept: Kept | None) -> None:
    """Check that a scenario says of the storage what is true of the target: verification goes by it.

    Args:
        scenario: what shall be run.
        strategy: the one that keeps the target's rows.
        kept: how long it keeps them; None: it does not tell.

    Raises:
        ScenarioError: with everything that it says otherwise.
    """
    said = scenario.storage
    found = [("storage.strategy", said.strategy, strategy)]
    if kept is not None:
        found += [
            ("storage.retention", seconds(said.retention_seconds), seconds(kept.retention_seconds)),
            ("storage.prune_interval", seconds(said.prune_interval_seconds), seconds(kept.prune_interval_seconds)),
        ]
    _raise(
        [
            _problem(scenario, key, ours, f"the target has {theirs}, and a run does not change it: --set {key}={theirs}")
            for key, ours, theirs in found if ours != theirs
        ]
    )  # fmt: skip


def check_seen(scenario: Scenario, metrics_url: str, *, seen: bool) -> None:
    """Check that no threshold is about what the target does not show.

    Raises:
        ScenarioError: with every threshold that is.
    """
    if seen:
        return
    _raise(
        [
            _problem(scenario, f"thresholds.{threshold.key}", threshold.bound,
                     f"{metrics_url} shows no /metrics: give --metrics-url with an address that does, or"
                     f" --set thresholds.{threshold.key}=none")
            for threshold in scenario.thresholds if SOURCES[threshold.metric].startswith(("/metrics", "/readyz"))
        ]
    )  # fmt: skip


def _problem(scenario: Scenario, key: str, value: object, why: str) -> Problem:
    return Problem(scenario.path, key, value, why)


def _raise(problems: list[Problem]) -> None:
    if problems:
        raise ScenarioError(*problems)
