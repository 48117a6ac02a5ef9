"""Units, histograms and series."""

import pytest

from loadtests import measure
from loadtests.measure import ClockOffset, Latency, Series


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
    """Past the bound groups keep two points; smallest, largest, mean and last are of all."""
    monkeypatch.setattr(measure, "_SERIES_POINTS", 10)
    series = Series((at, float(at)) for at in range(1000))

    assert series.statistics() == {"min": 0, "max": 999, "mean": 499.5, "last": 999}
    assert 4 <= len(series.points) <= 10
    assert series.points == sorted(series.points)
    assert (series.points[0], series.points[-1]) == ((0, 0.0), (999, 999.0))


def test_a_spike_of_a_long_run_is_in_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is, up or down, it stays among the points; and the mean of a part is that of all its points."""
    monkeypatch.setattr(measure, "_SERIES_POINTS", 100)
    for place in range(400, 600, 7):
        values = [10.0 + (at % 3 == 0) for at in range(1000)]
        values[place], values[place + 3] = 99.0, 0.0
        series = Series(enumerate(values))
        around = series.between([(place - 40, place + 40)]).statistics()

        assert (around["min"], around["max"]) == (0, 99)
        assert len(series.points) <= 100
        assert series.between([(0, place - 40), (place + 40, 1000)]).statistics()["max"] == 11
        whole = series.between([(0, 1000)]).statistics()
        assert whole["mean"] == pytest.approx(sum(values) / 1000)


def test_equal_values_keep_the_ends_of_their_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that does not move has as many points as any other."""
    monkeypatch.setattr(measure, "_SERIES_POINTS", 8)
    series = Series((at, 5.0) for at in range(16))

    assert [at for at, _ in series.points] == [0, 3, 4, 7, 8, 11, 12, 15]


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


def test_a_series_that_begins_anew_keeps_its_points() -> None:
    """What came in a warm-up is drawn and does not count."""
    series = Series([(1, 100.0), (2, 0.0)])
    series.begin()
    assert series.statistics() == {}

    series.add(3, 7.0)
    series.add(4, 9.0)
    assert series.statistics() == {"min": 7, "max": 9, "mean": 8, "last": 9}
    assert [value for _, value in series.points] == [100, 0, 7, 9]
