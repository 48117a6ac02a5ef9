"""What Locust's processes of a run are told."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadtests import users_process
from simulator.scenario import load

ROOT = Path(__file__).parents[2]


def test_users_of_a_run_know_that_the_fleet_has_their_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the server is, fleet and users are on one machine."""
    told: dict[str, str] = {}

    def child(_name: str, _command: object, environment: Mapping[str, str], _log: Path) -> None:
        told.update(environment)

    monkeypatch.setattr(users_process, "Child", child)
    site: Any = SimpleNamespace(http="http://elsewhere", credentials={}, org="demo")
    users_process.make_users(load(ROOT / "scenarios" / "smoke.toml"), site, tmp_path)

    assert told["SEATRIAL_ONE_CLOCK"] == "1"
