"""What a benchmark needs of a scenario: the server's environment and the storage, nothing to judge."""

from collections.abc import Mapping

from simulator.scenario import Actions, Fleet, Scenario, Server, Storage, Ui

RETENTION_SECONDS, PRUNE_INTERVAL_SECONDS = 86_400.0, 3_600.0
"""So long that nothing is pruned."""


def plan(
    name: str,
    *,
    env: Mapping[str, str],
    storage: str = "plain",
    agents: int = 1,
    containers: int = 1,
    log_lines: int = 0,
    seconds: float = 60.0,
    ramp_seconds: float = 0.0,
    seed: int = 1,
    retention_seconds: float = RETENTION_SECONDS,
    prune_interval_seconds: float = PRUNE_INTERVAL_SECONDS,
) -> Scenario:
    """A scenario without users, faults and thresholds. By default nothing is pruned while it runs."""
    return Scenario(
        name=name, path="", question="", duration_seconds=seconds, seed=seed,
        settle_seconds=0.0,
        fleet=Fleet(
            agents=agents, containers=containers, interval_seconds=1.0, log_lines=log_lines, ramp_seconds=ramp_seconds,
            processes=1, transport="picows",
        ),
        ui=Ui(subscribers=0, chart_readers=0, log_downloaders=0, auditors=0, spawn_rate=1.0),
        actions=Actions(operators=0, per_second=0.0),
        server=Server(restart=False, log_level="warning", env=dict(env)),
        storage=Storage(
            strategy=storage, retention_seconds=retention_seconds, prune_interval_seconds=prune_interval_seconds,
            backfill_seconds=0.0,
        ),
        faults=(), thresholds=(),
    )  # fmt: skip
