"""Verdicts, result.json, and what people see."""

import io
import json
import os
import pty
from pathlib import Path

import pytest

from loadtests.fingerprint import Environment, Postgres
from loadtests.measure import Latency, Series
from loadtests.result import (
    MEANING,
    FaultDone,
    Result,
    Verdict,
    create_run_directory,
    decide,
    show,
    summarise,
    write_result,
)
from loadtests.thresholds import Judged, Measured, judge
from simulator.scenario import Scenario, load

ROOT = Path(__file__).parents[2]
MACHINE = Environment(
    cores=2, memory_bytes=1, processor="p", kernel="k", python="3", packages={}, postgres=None, git_commit=None
)
SOUND: dict[str, Latency | Series | float] = {
    "ledger_missing": 0,
    "ledger_foreign": 0,
    "ledger_altered": 0,
    "ledger_verified_fraction": 1.0,
    "live_foreign": 0,
    "live_violations": 0,
}


def judged(metric: str, *, passed: bool) -> Judged:
    """A judgement."""
    return Judged(metric=metric, stat="count", unit="", value=1, limit="== 0", passed=passed)


@pytest.fixture
def scenario() -> Scenario:
    """The smoke scenario."""
    return load(ROOT / "scenarios" / "smoke.toml")


def result(scenario: Scenario, measured: Measured, *invalid: str) -> Result:
    """A run's outcome."""
    return summarise(
        scenario, started_at_us=5, ended_at_us=9, environment=MACHINE, measured=measured,
        judged=judge(scenario, measured), faults=[FaultDone(at_us=7, ended_at_us=8, kind="server_kill")], invalid=invalid,
    )  # fmt: skip


GOOD, SLOW = judged("ack_latency_ms", passed=True), judged("ack_latency_ms", passed=False)
LOST, UNVERIFIED = judged("ledger_missing", passed=False), judged("ledger_verified_fraction", passed=False)


@pytest.mark.parametrize(
    ("judgements", "invalid", "verdict"),
    [
        ([], [], Verdict.PASSED),
        ([GOOD], [], Verdict.PASSED),
        ([GOOD, SLOW], [], Verdict.THRESHOLD_FAILED),
        ([GOOD, SLOW, LOST], [], Verdict.CORRECTNESS_FAILED),
        ([UNVERIFIED], [], Verdict.CORRECTNESS_FAILED),
        ([GOOD], ["late"], Verdict.INVALID),
        ([SLOW], ["late"], Verdict.INVALID),
        ([SLOW, LOST], ["late"], Verdict.CORRECTNESS_FAILED),
    ],
)
def test_lost_data_beats_an_invalid_run_which_beats_a_threshold(
    judgements: list[Judged], invalid: list[str], verdict: Verdict
) -> None:
    """11 beats 12 beats 10, and an interrupted run is told as such."""
    assert decide(judgements, invalid) is verdict
    assert decide(judgements, invalid, interrupted=True) is Verdict.INTERRUPTED


def test_the_exit_codes_are_fixed() -> None:
    """Scripts rely on these numbers; each has a meaning."""
    assert {verdict.name: int(verdict) for verdict in Verdict} == {
        "PASSED": 0, "USAGE": 2, "ENVIRONMENT": 3, "THRESHOLD_FAILED": 10, "CORRECTNESS_FAILED": 11, "INVALID": 12,
        "INTERRUPTED": 130,
    }  # fmt: skip
    assert MEANING.keys() == set(Verdict)


def test_reasons_come_worst_first(scenario: Scenario) -> None:
    """Lost data, then what made the run invalid, then the rest."""
    found = result(scenario, SOUND | {"ledger_missing": 4}, "the fleet was late")

    assert found.reasons[:3] == (
        "ledger_missing.count == 0: 4 is not == 0",
        "invalid: the fleet was late",
        "ack_latency_ms.p99 < 1000: no samples",
    )
    assert (found.verdict, found.exit_code) == ("CORRECTNESS_FAILED", 11)


def test_a_result_holds_the_whole_run(tmp_path: Path, scenario: Scenario) -> None:
    """The file has the scenario as run, the machine, metrics with their samples, faults, thresholds and verdict."""
    latency = Latency()
    latency.record_us(1500)
    measured = SOUND | {"ack_latency_ms": latency, "table_bytes": Series([(6, 10.0)])}
    path = write_result(tmp_path, result(scenario, measured))
    read = json.loads(path.read_text())

    assert path == tmp_path / "result.json"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]
    assert (read["version"], read["seed"], read["started_at_us"], read["ended_at_us"]) == (1, 1, 5, 9)
    assert read["scenario"]["fleet"]["agents"] == 200
    assert read["environment"]["cores"] == 2
    assert read["metrics"]["ack_latency_ms"]["statistics"]["max"] == pytest.approx(1.5, rel=0.001)
    assert Latency.decode([read["metrics"]["ack_latency_ms"]["hdr"]]).count == 1
    assert read["metrics"]["table_bytes"]["points"] == [[6, 10.0]]
    assert read["metrics"]["ledger_missing"]["statistics"] == {"count": 0}
    assert read["faults"] == [{"at_us": 7, "ended_at_us": 8, "kind": "server_kill", "detail": ""}]
    assert read["thresholds"][0]["limit"] == "== 0"
    assert (read["verdict"], read["exit_code"]) == ("THRESHOLD_FAILED", 10)


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, scenario: Scenario) -> None:
    """Writing is all or nothing."""
    (tmp_path / "result.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_result(tmp_path, result(scenario, SOUND))

    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_each_run_has_a_directory_and_latest_points_at_the_last(tmp_path: Path) -> None:
    """Runs of the same second do not share one; the link is relative, so that `runs` can be moved."""
    runs = tmp_path / "runs"
    first, second = (create_run_directory(runs, "smoke") for _ in range(2))

    assert first != second
    assert first.name.startswith("smoke-")
    assert (runs / "latest").resolve() == second.resolve()
    assert os.readlink(runs / "latest") == second.name  # noqa: PTH115 - the text of the link
    assert {path.name for path in runs.iterdir()} == {first.name, second.name, "latest"}


def test_latest_is_never_in_the_way(tmp_path: Path) -> None:
    """A directory by that name is not removed: the error is told, and no half-made link stays."""
    (tmp_path / "latest").mkdir()
    with pytest.raises(OSError, match="latest"):
        create_run_directory(tmp_path, "smoke")

    assert (tmp_path / "latest").is_dir()
    assert not list(tmp_path.glob(".latest*"))


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
        stream.flush()
        text = os.read(master.fileno(), 65_536).decode()

    assert "\x1b[" in text
    for part in ("ledger_missing.count", "no samples", "THRESHOLD_FAILED (exit 10)", "runs/x/result.json"):
        assert part in text


def test_a_weakened_database_is_named() -> None:
    """Each durability setting that is off or unknown is a reason for an invalid run."""
    settings = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}

    assert Postgres(version="18", settings=settings).weaknesses() == []
    for name in settings:
        for weak in (settings | {name: "off"}, {key: value for key, value in settings.items() if key != name}):
            assert [name in reason for reason in Postgres(version="18", settings=weak).weaknesses()] == [True]
