"""Verdicts, result.json, and what people see."""

import json
from pathlib import Path

import pytest

from loadtests.fingerprint import Environment, Postgres
from loadtests.measure import Latency, Series
from loadtests.result import (
    MEANING,
    Course,
    FaultDone,
    Result,
    Verdict,
    decide,
    summarise,
)
from loadtests.result_file import write_result
from loadtests.thresholds import Judged, Measured, judge
from simulator.scenario import Scenario, load
from tests.support.results import made_result

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
    "batches_unsettled": 0,
    "api_errors": 0,
    "live_errors": 0,
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
    course = Course(
        started_at_us=5, ended_at_us=9, faults=[FaultDone(at_us=7, ended_at_us=8, kind="server_kill")]
    )  # fmt: skip
    return summarise(
        scenario, course, environment=MACHINE, measured=measured, judged=judge(scenario, measured), invalid=invalid
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
    assert (read["version"], read["seed"], read["started_at_us"], read["ended_at_us"]) == (2, 1, 5, 9)
    assert read["scenario"]["fleet"]["agents"] == 200
    assert read["environment"]["cores"] == 2
    assert read["metrics"]["ack_latency_ms"]["statistics"]["max"] == pytest.approx(1.5, rel=0.001)
    assert Latency.decode([read["metrics"]["ack_latency_ms"]["hdr"]]).count == 1
    assert read["metrics"]["table_bytes"]["points"] == [[6, 10.0]]
    assert read["metrics"]["ledger_missing"]["statistics"] == {"count": 0}
    assert read["faults"] == [{"at_us": 7, "ended_at_us": 8, "kind": "server_kill", "detail": ""}]
    assert read["thresholds"][0]["limit"] == "== 0"
    assert (read["verdict"], read["exit_code"]) == ("THRESHOLD_FAILED", 10)


def test_a_weakened_database_is_named() -> None:
    """Each durability setting that is off or unknown is a reason for an invalid run."""
    settings = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}

    assert Postgres(version="18", settings=settings).weaknesses() == []
    for name in settings:
        for weak in (settings | {name: "off"}, {key: value for key, value in settings.items() if key != name}):
            assert [name in reason for reason in Postgres(version="18", settings=weak).weaknesses()] == [True]


def test_a_phase_has_figures_of_its_own(tmp_path: Path) -> None:
    """Before a fault all was quick, during it slow; both have statistics and a histogram."""
    phases = made_result(tmp_path).metrics["ack_latency_ms"].phases

    assert phases["before"].statistics["p99"] == pytest.approx(5, rel=0.02)
    assert phases["during"].statistics["p50"] == pytest.approx(800, rel=0.02)
    assert phases["after"].statistics["max"] == pytest.approx(5, rel=0.02)
    assert Latency.decode([phases["before"].hdr]).count == 50


def test_each_metric_says_where_it_comes_from(tmp_path: Path) -> None:
    """The way from a number to its data begins with a file or a probe."""
    found = made_result(tmp_path).metrics

    assert found["ack_latency_ms"].source == "fleet.json"
    assert found["wal_bytes_per_second"].source == "pg_current_wal_insert_lsn()"
    assert all(metric.source for metric in found.values())
