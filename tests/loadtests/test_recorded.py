"""What simulated users record, and the file of it."""

import logging
from pathlib import Path

import pytest

from loadtests.catalogue import METRICS
from loadtests.measure import Latency, now_us
from loadtests.recorded import (
    API_VIOLATIONS,
    CHART_RANGES,
    FAILURES,
    FIRST_DETAILS,
    LIVE_VIOLATIONS,
    Measurements,
    Recorded,
    catalogue,
    clocks_apart,
    read_measurements,
)


def test_processes_add_up_to_the_catalogue(tmp_path: Path) -> None:
    """What two Locust processes wrote becomes metrics under their names."""
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        measurements = Measurements(lambda **_: None)
        measurements.message("metrics", 10, [5_000, 6_000])
        measurements.message("logs", 10, [7_000])
        measurements.message("snapshot", 10)
        measurements.write(file)
    found = catalogue(map(read_measurements, files))

    live, log = found["live_latency_ms"], found["log_latency_ms"]
    assert isinstance(live, Latency)
    assert isinstance(log, Latency)
    assert (live.count, log.count, found["live_messages"]) == (4, 2, 6)
    assert log.statistics()["max"] == pytest.approx(7, rel=0.001)


def test_charts_are_told_by_range_and_all_together(tmp_path: Path) -> None:
    """Each range has its own latency, and the whole is their sum; all count from the intended time."""
    measurements = Measurements(lambda **_: None)
    for number, name in enumerate(CHART_RANGES, 1):
        for _ in range(number):
            measurements.took(f"chart_query_{name}_ms", now_us() - number * 100_000)
    measurements.write(tmp_path / "m.json")
    found = catalogue([read_measurements(tmp_path / "m.json")])

    counts = {}
    for name in ("chart_query_ms", *(f"chart_query_{name}_ms" for name in CHART_RANGES)):
        latency = found[name]
        assert isinstance(latency, Latency)
        counts[name] = latency.count
        assert latency.statistics()["p50"] >= 99
    assert list(counts.values()) == [10, 1, 2, 3, 4]


@pytest.mark.parametrize(("early", "apart"), [(1, False), (2, True)])
def test_clocks_that_disagree_are_noticed(tmp_path: Path, early: int, apart: bool) -> None:
    """Over 1 % of a latency's values before their time, over all processes, are a reason; 1 % is none."""
    files = [tmp_path / f"{number}.json" for number in range(early)]
    for file in files:
        measurements = Measurements(lambda **_: None)
        measurements.message("metrics", 10, [-1_000, *([5_000] * (100 // early - 1))])
        measurements.message("logs", 10, [7_000] * 10_000)
        measurements.write(file)
    found = clocks_apart(catalogue(map(read_measurements, files)))

    assert found == (["live_latency_ms: 2 of 100 values are below 1 us: the clocks disagree"] if apart else [])


def test_what_is_recorded_are_metrics_of_the_catalogue() -> None:
    """Every name has its entry, and every violation is a kind of failure."""
    assert set(catalogue([])) <= set(METRICS)
    assert {*LIVE_VIOLATIONS, *API_VIOLATIONS} <= set(FAILURES)


def test_broken_promises_of_the_api_are_counted_apart(tmp_path: Path) -> None:
    """A failed request is no violation, an attempt that was not denied is one."""
    measurements = Measurements(lambda **_: None)
    for kind in ("http", "action_unknown", "not_denied", "chart_empty", "time_back"):
        measurements.failure(kind, "x")
    measurements.write(tmp_path / "m.json")
    found = catalogue([read_measurements(tmp_path / "m.json")])

    assert (found["api_violations"], found["live_violations"]) == (2, 1)


def test_every_failure_is_judged_somewhere(tmp_path: Path) -> None:
    """Each kind counts in exactly one metric that is judged by default, so that none passes unseen."""
    measurements = Measurements(lambda **_: None)
    for kind in FAILURES:
        measurements.failure(kind, "x")
    measurements.write(tmp_path / "m.json")
    found = catalogue([read_measurements(tmp_path / "m.json")])

    counted = ("live_violations", "api_violations", "live_errors", "api_errors", "live_foreign")
    assert (found["live_errors"], found["api_errors"]) == (5, 2)
    assert sum(float(str(found[name])) for name in counted) == len(FAILURES)


def test_no_process_makes_empty_metrics() -> None:
    """Without a file there are no samples, and so no pass."""
    found = catalogue([])

    assert isinstance(found["live_latency_ms"], Latency)
    assert found["live_latency_ms"].statistics() == {}


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    """A broken measurements file is told with its name."""
    file = tmp_path / "m.json"
    file.write_text("{}")

    with pytest.raises(ValueError, match=r"m\.json"):
        read_measurements(file)


def test_locust_gets_one_text_per_kind(caplog: pytest.LogCaptureFixture) -> None:
    """Locust keeps every text for ever, so details go to the log, and only the first of each kind."""
    texts = set()
    measurements = Measurements(lambda **told: texts.add(str(told["exception"])))
    with caplog.at_level(logging.WARNING):
        for i in range(FIRST_DETAILS + 30):
            measurements.failure("error", f"detail {i}")

    assert texts == {FAILURES["error"]}
    assert len(caplog.records) == FIRST_DETAILS


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    """Writing again replaces the file and leaves nothing beside it."""
    measurements = Measurements(lambda **_: None)
    measurements.write(tmp_path / "m.json")
    measurements.visit()
    measurements.write(tmp_path / "m.json")

    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]
    assert isinstance(read_measurements(tmp_path / "m.json"), Recorded)
    assert read_measurements(tmp_path / "m.json").visits == 1


def test_every_failure_is_documented() -> None:
    """docs/verdict.md tells each kind of failure."""
    text = (Path(__file__).parents[2] / "docs" / "verdict.md").read_text()

    assert [kind for kind in FAILURES if f"| `{kind}` |" not in text] == []


def test_what_was_meant_for_the_warm_up_counts_in_no_latency() -> None:
    """By the intended time, however late it came; the intervals have it, and counts are of everything."""
    now = now_us()
    measurements = Measurements(lambda **_: None, measured_from_us=now - 1_000_000)
    measurements.message("metrics", 10, [5_000_000, 10_000])
    measurements.took("log_download_ms", now - 5_000_000)

    assert measurements._latencies["live_latency_ms"].count == 1
    assert measurements._latencies["log_download_ms"].count == 0
    assert len(measurements._intervals["live_latency_ms"].encoded()) == 2
    assert len(measurements._intervals["log_download_ms"].encoded()) == 1
    assert measurements._recorded.messages == 1
