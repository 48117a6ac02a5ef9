"""docs/ci.md: both pipelines are YAML of the right shape, and every command in them is one that there is."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml  # type: ignore[import-untyped, unused-ignore]
from typer.exceptions import TyperException

from loadtests.thresholds import validate_thresholds
from seatrial import app
from simulator.scenario import load

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(yaml|sh)\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)
GITHUB, GITLAB = (yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml")
_LEFT = {"report.html", "plots", "result.json", "summary.md", "junit.xml", "*.log"}


def commands(text: str) -> Iterator[list[str]]:
    """The words of each `make` and `seatrial` command of a script."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\|\||&&|;", line):
            words = shlex.split(part, comments=True)
            if words and words[0].rpartition("/")[2] in {"make", "seatrial"}:
                yield [words[0].rpartition("/")[2], *words[1:]]


def scripts() -> dict[str, str]:
    """Every script of the document, by where it stands."""
    steps = GITHUB["jobs"]["smoke"]["steps"]
    return {
        "github": "\n".join(step["run"] for step in steps if "run" in step),
        "gitlab": "\n".join((*GITLAB["seatrial"]["script"], *GITLAB["seatrial"]["after_script"])),
        "shell": "\n".join(text for kind, text in BLOCKS if kind == "sh"),
    }


def check_seatrial(words: list[str]) -> None:
    """The command, its options and its scenario exist.

    Raises:
        TyperException: one does not.
        ScenarioError: the scenario has no such key or threshold.
    """
    group = typer.main.get_group(app)
    context = group.make_context("seatrial", list(words))
    name, command, rest = group.resolve_command(context, words)
    assert command is not None
    parsed = command.make_context(name, list(rest), parent=context).params
    if name == "run":
        settings = dict(item.partition("=")[::2] for item in parsed["setting"] or ())
        validate_thresholds(load(ROOT / parsed["scenario"], settings))


@pytest.mark.parametrize("where", scripts())
def test_every_command_of_the_pipelines_exists(where: str) -> None:
    """Make targets are in the Makefile; options, scenarios and keys are known to the commands themselves."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    found = list(commands(scripts()[where]))

    assert found
    for program, *words in found:
        if program == "make":
            assert set(words) <= targets, words
        else:
            check_seatrial(words)


def test_a_wrong_command_would_be_noticed() -> None:
    """An option, a command and a key that do not exist."""
    for words in (["run", "scenarios/smoke.toml", "--run", "x"], ["rum"], ["run"]):
        with pytest.raises(TyperException):
            check_seatrial(words)


def test_the_pipelines_keep_what_a_run_leaves_and_know_its_exit_codes() -> None:
    """Artifacts even of a red run, JUnit where it is read, 12 apart from the others, and a deadline."""
    smoke, job = GITHUB["jobs"]["smoke"], GITLAB["seatrial"]
    kept = next(step for step in smoke["steps"] if step.get("uses", "").startswith("actions/upload-artifact@"))
    shown = next(step for step in smoke["steps"] if "GITHUB_STEP_SUMMARY" in step.get("run", ""))
    names: dict[str, Any] = {
        "github": {Path(path).name for path in kept["with"]["path"].split()},
        "gitlab": {Path(path).name for path in (*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"])},
    }

    assert kept["if"] == shown["if"] == "always()"
    assert job["artifacts"]["when"] == "always"
    assert names["github"] <= _LEFT
    assert names["gitlab"] == _LEFT
    assert {"report.html", "junit.xml", "result.json"} <= names["github"]
    assert job["allow_failure"] == {"exit_codes": [12]}
    assert '"$code" -eq 12' in scripts()["github"]
    assert smoke["timeout-minutes"]
    assert job["timeout"]
    assert "services" not in job
    assert "services" not in smoke
