"""`seatrial scenarios` and `seatrial new`, as commands."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seatrial import app
from simulator.scenario import load
from simulator.scenario_files import shipped


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_scenarios_are_listed() -> None:
    """One line each, with name, duration, agents and question; the same as JSON."""
    plain = CliRunner().invoke(app, ["scenarios"])
    listed = json.loads(CliRunner().invoke(app, ["scenarios", "--json"]).stdout)
    lines = plain.stdout.splitlines()

    assert plain.exit_code == 0
    assert [one["name"] for one in listed] == [line.split()[0] for line in lines] == [path.stem for path in shipped()]
    for one, line in zip(listed, lines, strict=True):
        scenario = load(Path(one["name"]))
        assert one == {
            "name": scenario.name, "question": scenario.question, "duration_seconds": scenario.duration_seconds,
            "agents": scenario.fleet.agents, "path": scenario.path,
        }  # fmt: skip
        assert line.endswith(f"{scenario.fleet.agents:,} agents  {scenario.question}")


def test_a_new_scenario_can_be_described_and_is_not_overwritten(directory: Path) -> None:
    """What was written is good for `simulate --describe`; a second time the file stays as it is."""
    made = CliRunner().invoke(app, ["new", "mine"])
    assert (made.exit_code, made.stdout) == (0, "mine.toml: seatrial run mine.toml\n")
    told = CliRunner().invoke(app, ["simulate", "--describe", "--scenario", "mine.toml"])
    assert told.exit_code == 0
    assert "100 (host-00001 to host-00100)" in told.stdout

    (directory / "mine.toml").write_text("mine")
    again = CliRunner().invoke(app, ["new", "mine.toml"])
    assert again.exit_code == 2
    assert "mine.toml: is there already, and is not overwritten" in again.stderr
    assert (directory / "mine.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        ("", 2, "NAME = '': expected a name such as my-scenario"),
        ("a\nb", 2, "expected a name such as my-scenario"),
        ("x" * 101, 2, "of 100 characters at most"),
        ("nowhere/mine", 3, "nowhere/mine.toml: cannot be written: No such file or directory"),
    ],
)
def test_a_scenario_that_cannot_be_written_is_told(name: str, code: int, sentence: str) -> None:
    """Name and cause."""
    found = CliRunner().invoke(app, ["new", name])

    assert found.exit_code == code
    assert sentence in found.stderr
