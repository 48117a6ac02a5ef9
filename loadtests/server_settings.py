"""The variables of `[server.env]` and the settings of `[postgres]`, checked before anything starts."""

import os
from typing import Any

from simulator.scenario import Problem, Scenario, ScenarioError
from simulator.scenario_format import unknown

_PREFIX = "SEATRIAL_"
_SECTION = "server.env."


def validate_settings(scenario: Scenario, database_url: str | None, *, target: bool = False) -> None:
    """Check both.

    Args:
        scenario: which may set some.
        database_url: of a Postgres that is there already; None: the run starts its own.
        target: against a server that is there already: `check_targetable` refuses settings of its Postgres.

    Raises:
        ScenarioError: see `validate_server_settings` and `validate_postgres_settings`.
    """
    validate_server_settings(scenario)
    if not target:
        validate_postgres_settings(scenario, database_url)


def validate_server_settings(scenario: Scenario) -> None:
    """Check that the server under test knows every variable, and takes its value.

    Raises:
        ScenarioError: with every mistake: a name that is none, a size with a unit, values that do not go together.
    """
    if not scenario.server.env:
        return
    from pydantic import ValidationError

    from server.settings import Settings

    known = [f"{_PREFIX}{name.upper()}" for name in Settings.model_fields]
    problems = [
        Problem(scenario.path, _SECTION + name, value, unknown(name, known, "setting of the server"))
        for name, value in scenario.server.env.items()
        if name not in known
    ]
    values: dict[str, Any] = {
        "database_url": "postgresql://u@h/d",
        "jwt_secret": "x" * 32,
        "storage": scenario.storage.strategy,
        "retention_seconds": scenario.storage.retention_seconds,
        "prune_interval_seconds": scenario.storage.prune_interval_seconds,
    }
    # What surrounds us is no part of the run: the server gets none of it either.
    before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(_PREFIX)}
    try:
        os.environ.update(scenario.server.env)
        Settings(**values)
    except ValidationError as error:
        problems += [_problem(scenario, item) for item in error.errors(include_url=False)]
    finally:
        for name in scenario.server.env:
            os.environ.pop(name, None)
        os.environ.update(before)
    if problems:
        raise ScenarioError(*problems)


def validate_postgres_settings(scenario: Scenario, database_url: str | None) -> None:
    """Check that there is a Postgres of the run's own for the settings of `[postgres]`, and that they may be set.

    Raises:
        ScenarioError: with every mistake.
    """
    if not scenario.postgres:
        return
    from server.db.embedded import EmbeddedPostgresError
    from server.db.postgres_settings import checked_settings

    problems = []
    for name, value in scenario.postgres.items():
        if database_url is not None:
            trouble = f"the Postgres of --database-url has its own: --set postgres.{name}=none"
            problems.append(Problem(scenario.path, f"postgres.{name}", value, trouble))
            continue
        try:
            checked_settings({name: value})
        except EmbeddedPostgresError as error:
            problems.append(Problem(scenario.path, f"postgres.{name}", value, f"{error.reason} Instead: {error.fix}"))
    if problems:
        raise ScenarioError(*problems)


def _problem(scenario: Scenario, item: Any) -> Problem:
    name = f"{_PREFIX}{str(item['loc'][0]).upper()}" if item["loc"] else ""
    said = item["msg"].removeprefix("Value error, ")
    if name not in scenario.server.env:
        return Problem(scenario.path, "server.env", ..., said)
    return Problem(scenario.path, _SECTION + name, scenario.server.env[name], said)
