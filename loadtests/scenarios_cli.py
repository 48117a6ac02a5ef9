"""`seatrial scenarios` and `seatrial new`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

_USAGE, _ENVIRONMENT = 2, 3
_MOST_NAME = 100


def scenarios(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array on standard output.")] = False,
) -> None:
    """List the scenarios that are shipped: what each asks, how long its load lasts, and of how many agents it is.

    `seatrial run NAME` runs one. Exit code: 0 listed, 2 one of them is not good.
    """
    from simulator.scenario import ScenarioError, load
    from simulator.scenario_files import shipped
    from simulator.scenario_format import seconds

    try:
        found = [load(path) for path in shipped()]
    except ScenarioError as error:
        _fail(_USAGE, str(error))
    if as_json:
        listed: list[dict[str, Any]] = [
            {
                "name": one.name, "question": one.question, "duration_seconds": one.duration_seconds,
                "agents": one.fleet.agents, "path": one.path,
            }
            for one in found
        ]  # fmt: skip
        typer.echo(json.dumps(listed, indent=2))
        return
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        load_told = f"{seconds(one.duration_seconds):>5}  {one.fleet.agents:>6,} agents"
        typer.echo(f"{one.name:<{width}}  {load_told}  {one.question}")


def new(
    name: Annotated[str, typer.Argument(help="Of the scenario, NAME.toml in this directory, or of a file to be.")],
) -> None:
    """Write a scenario to begin with: every key with its unit, its default and its meaning. It runs as it is.

    Exit code: 0 written, 2 there is such a file, or the name is none, 3 it cannot be written.
    """
    from simulator.scenario_files import SUFFIX
    from simulator.scenario_template import template

    path = Path(name if name.endswith(SUFFIX) else f"{name}{SUFFIX}")
    stem = path.name.removesuffix(SUFFIX)
    if not stem.strip(".") or not stem.isprintable() or len(stem) > _MOST_NAME:
        _fail(_USAGE, f"NAME = {name!r}: expected a name such as my-scenario, of {_MOST_NAME} characters at most")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template(stem))
    except FileExistsError:
        _fail(_USAGE, f"{path}: is there already, and is not overwritten")
    except OSError as error:
        _fail(_ENVIRONMENT, f"{path}: cannot be written: {error.strerror or error}")
    typer.echo(f"{path}: seatrial run {path}")


def _fail(code: int, message: str) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    raise typer.Exit(code)
