"""The table at the end of a run."""

import io
import os
import pty
from pathlib import Path

import pytest

from loadtests.result import Course, Result, summarise
from loadtests.summary import show
from loadtests.thresholds import Measured, judge
from simulator.scenario import Scenario, load
from tests.support.results import MACHINE
from tests.support.results import SOUND as LEDGER

ROOT = Path(__file__).parents[2]
SOUND = dict(LEDGER) | {"live_foreign": 0, "live_violations": 0}


@pytest.fixture
def scenario() -> Scenario:
    """The smoke scenario."""
    return load(ROOT / "scenarios" / "smoke.toml")


def result(scenario: Scenario, measured: Measured, *invalid: str) -> Result:
    """A run's outcome."""
    course = Course(started_at_us=5, ended_at_us=9)
    return summarise(
        scenario, course, environment=MACHINE, measured=measured, judged=judge(scenario, measured), invalid=invalid
    )


def test_plain_text_is_aligned(scenario: Scenario) -> None:
    """Elsewhere than on a terminal: one line per threshold in columns, then what is invalid, verdict and path."""
    stream = io.StringIO()
    show(result(scenario, SOUND | {"ledger_foreign": 3}, "the fleet was late"), Path("runs/x/result.json"), stream)
    lines = stream.getvalue().splitlines()

    assert "\x1b" not in stream.getvalue()
    assert lines[0].split() == ["metric", "value", "unit", "limit"]
    assert lines[1].split() == ["ledger_missing.count", "0", "==", "0", "✓"]
    assert lines[2].split() == ["ledger_foreign.count", "3", "==", "0", "✗", "3", "is", "not", "==", "0"]
    assert {line.index("✓") for line in lines if "✓" in line} == {line.index("✗") for line in lines if "✗" in line}
    assert any(line.endswith("✗  no samples") for line in lines)
    assert lines[-2] == "invalid: the fleet was late"
    assert lines[-1] == "CORRECTNESS_FAILED (exit 11)  runs/x/result.json"


def test_a_terminal_that_has_no_ticks_gets_words(scenario: Scenario) -> None:
    """A stream that cannot encode the marks is no reason to fail at the very end of a run."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show(result(scenario, SOUND), Path("r"), stream)
    stream.seek(0)
    text = stream.read()

    assert " ok\n" in text
    assert " FAILED  no samples\n" in text


def test_a_terminal_gets_colours(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the same facts come as a table."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb") as master, os.fdopen(theirs, "w", encoding="utf-8") as stream:
        show(result(scenario, SOUND), Path("runs/x/result.json"), stream)
        print("THE END", file=stream, flush=True)
        text = ""
        # A terminal hands over what it holds, which need not be all that was written: read until the mark.
        while "THE END" not in text:
            text += os.read(master.fileno(), 65_536).decode()

    assert "\x1b[" in text
    for part in ("ledger_missing.count", "no samples", "THRESHOLD_FAILED (exit 10)", "runs/x/result.json"):
        assert part in text
