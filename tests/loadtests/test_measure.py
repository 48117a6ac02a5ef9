"""Units, histograms and series."""

import logging
from pathlib import Path

import pytest

from loadtests import measure
from loadtests.measure import (
    FAILURES,
    FIRST_DETAILS,
    ClockOffset,
    Latency,
    Measurements,
    Recorded,
    Series,
    catalogue,
    read_measurements,
)


def latency(*milliseconds: float) -> Latency:
    """A histogram of these."""
    found = Latency()
    for value in milliseconds:
        found.record_us(round(value * 1000))
    return found


def test_statistics_are_in_milliseconds_and_precise_to_three_digits() -> None:
    """Percentiles of 1 to 1000 ms come out as such, not rounded to two digits."""
    statistics = latency(*range(1, 1001)).statistics()

    assert statistics["count"] == 1000
    for name, expected in {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "p999": 999, "max": 1000}.items():
        assert statistics[name] == pytest.approx(expected, rel=0.001)
    assert statistics["mean"] == pytest.approx(500.5, rel=0.001)


def test_no_samples_have_no_statistics() -> None:
    """An empty histogram and an empty series tell nothing, rather than 0."""
    assert Latency().statistics() == {}
    assert Latency.decode([]).statistics() == {}
    assert Latency.decode([Latency().encode()]).statistics() == {}
    assert Series().statistics() == {}


def test_histograms_of_several_processes_add_up() -> None:
    """Encoded and read again, the counts are the sum and the percentiles are of all."""
    both = Latency.decode([latency(*[1] * 60).encode(), latency(*[100] * 40).encode()])

    assert both.count == 100
    assert both.statistics()["p50"] == pytest.approx(1, rel=0.001)
    assert both.statistics()["p90"] == pytest.approx(100, rel=0.001)


@pytest.mark.parametrize("text", ["", "?", "HISTFAAA", "aGVsbG8gd29ybGQgaGVsbG8gd29ybGQ="])
def test_what_is_no_histogram_is_refused(text: str) -> None:
    """A broken histogram is a ValueError, whatever the library raises."""
    with pytest.raises(ValueError, match="not a latency histogram"):
        Latency.decode([text])


def test_values_out_of_range_are_kept_at_its_ends_and_counted() -> None:
    """A negative latency or one over an hour is neither lost nor believed."""
    found = latency()
    found.record_us(-5)
    found.record_us(10**12)

    assert (found.count, found.clamped) == (2, 2)
    assert found.statistics()["max"] == pytest.approx(3_600_000, rel=0.001)


def test_a_series_keeps_exact_statistics_and_a_bounded_number_of_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound every second point goes; smallest, largest, mean and last are of all."""
    monkeypatch.setattr(measure, "_SERIES_POINTS", 10)
    series = Series((at, float(at)) for at in range(1000))

    assert series.statistics() == {"min": 0, "max": 999, "mean": 499.5, "last": 999}
    assert len(series.points) < 10
    distances = {b[0] - a[0] for a, b in zip(series.points, series.points[1:], strict=False)}
    assert len(distances) == 1


def test_an_offset_comes_from_the_quickest_echo() -> None:
    """Slow echoes with a lopsided way do not move the estimate."""
    clock = ClockOffset()
    clock.echo(sent_us=0, server_us=10_900_000, received_us=1_000_000)
    clock.echo(sent_us=2_000_000, server_us=12_001_000, received_us=2_002_000)
    clock.echo(sent_us=4_000_000, server_us=14_000_000, received_us=5_000_000)

    assert clock.microseconds == 10_000_000


@pytest.mark.parametrize("server_us", [1_000, 5_000, 11_000])
def test_an_offset_within_its_error_is_none(server_us: int) -> None:
    """On one clock any split of the round trip gives 0, so latencies there are not touched."""
    clock = ClockOffset()
    assert clock.microseconds == 0

    clock.echo(sent_us=1_000, server_us=server_us, received_us=11_000)

    assert clock.microseconds == 0


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
