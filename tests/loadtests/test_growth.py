"""Bounded or not: a slope over windows."""

from collections.abc import Callable
from pathlib import Path

import pytest

from loadtests.growth import (
    DEAD_ROWS,
    FEWEST_PARTS,
    OLDEST_ROW_AGE,
    ROWS,
    TABLE_BYTES,
    Steady,
    growths,
    largest,
    steady,
)
from loadtests.measure import Series
from loadtests.thresholds import judge
from simulator.scenario import load

SECOND = 1_000_000
WINDOW = 100
TIME = Steady(WINDOW * SECOND, 5 * WINDOW * SECOND, 4)


def series(value: Callable[[int], float]) -> Series:
    """A point a second, over five windows."""
    return Series((second * SECOND, value(second)) for second in range(5 * WINDOW))


def grown(what: str, value: Callable[[int], float]) -> float:
    """The growth of one figure of one table."""
    [found] = growths({("t", what): series(value)}, TIME, WINDOW)
    return found.growth


def test_a_table_that_fills_its_window_and_stays_is_bounded() -> None:
    """The first window does not count, nor does a saw-tooth that is shorter than a window."""
    assert grown(ROWS, lambda s: 1e6 * min(s, WINDOW)) == 0
    assert abs(grown(ROWS, lambda s: 1e6 + 1e5 * (s % 25))) < 0.001
    assert abs(grown(DEAD_ROWS, lambda s: 4e4 * (s % 50))) < 0.001


def test_a_table_that_grows_is_told_by_how_much() -> None:
    """A quarter more in each window is three quarters from the first part to the last, of a mean in between."""
    assert grown(TABLE_BYTES, lambda s: 1e8 * (1 + 0.25 * s / WINDOW)) == pytest.approx(0.75 / 1.75, rel=0.01)
    assert grown(OLDEST_ROW_AGE, lambda s: s) == pytest.approx(3.0)


def test_growth_is_held_to_the_size_of_what_grows() -> None:
    """A few rows more of a small table are nothing; dead rows are held to the rows, and to themselves where they are more."""
    assert grown(ROWS, lambda s: s / WINDOW) == pytest.approx(0.003)
    assert grown(DEAD_ROWS, lambda s: s / WINDOW * 10) == pytest.approx(0.003)
    looked = {("t", ROWS): series(lambda _: 1e6), ("t", DEAD_ROWS): series(lambda s: 1e4 * s / WINDOW)}
    assert growths(looked, TIME, WINDOW)[1].growth == pytest.approx(0.03, rel=0.01)
    assert grown(DEAD_ROWS, lambda s: 1e6 * s / WINDOW) == pytest.approx(1.0, rel=0.01)


def test_a_table_that_appears_later_has_grown() -> None:
    """It was not there, which is 0 and not a gap; one that goes has shrunk."""
    late = Series((second * SECOND, 1e6) for second in range(300, 500))
    found = growths({("left_over", ROWS): late}, TIME, WINDOW)

    assert found[0].means == (0.0, 0.0, 1e6, 1e6)
    assert found[0].growth > 1


def test_a_table_seen_for_a_moment_counts_for_a_moment() -> None:
    """A range between its detaching and its drop is a table of its own: in one look of a hundred it is a hundredth."""
    looked = {("steady", TABLE_BYTES): series(lambda _: 1e8), ("range", TABLE_BYTES): Series([(450 * SECOND, 1e8)])}
    found = growths(looked, TIME, WINDOW)

    assert found[1].means == (0.0, 0.0, 0.0, 1e6)
    assert largest(found)["table_bytes_growth"] < 0.1


def test_the_largest_growth_counts_per_metric() -> None:
    """Of two tables the one that grows is told, and its shrinking neighbour does not lessen it."""
    looked = {
        ("steady", ROWS): series(lambda _: 1e6),
        ("leaking", ROWS): series(lambda s: 1e6 * s),
        ("shrinking", ROWS): series(lambda s: 1e6 * (500 - s)),
        ("shrinking", OLDEST_ROW_AGE): series(lambda s: 500.0 - s),
    }
    found = largest(growths(looked, TIME, WINDOW))

    assert set(found) == {"table_rows_growth", "oldest_row_age_growth"}
    assert found["table_rows_growth"] == pytest.approx(1.0, rel=0.01)
    assert found["oldest_row_age_growth"] == pytest.approx(-3.0)


def test_the_time_begins_after_the_first_window() -> None:
    """After a window, a tenth and two prunings, less the backfill; in windows, four parts at least; None if too short."""

    def of(seconds: float, retention: float = 100, backfill: float = 0) -> Steady | None:
        return steady(
            7,
            7 + int(seconds * SECOND),
            retention_seconds=retention,
            backfill_seconds=backfill,
            prune_interval_seconds=5,
        )

    assert of(730) == Steady(7 + 120 * SECOND, 7 + 730 * SECOND, 6)
    assert of(200) == Steady(7 + 120 * SECOND, 7 + 200 * SECOND, FEWEST_PARTS)
    assert of(60, retention=86_400, backfill=86_400) == Steady(7 + 10 * SECOND, 7 + 60 * SECOND, FEWEST_PARTS)
    assert of(139) is None
    filled = steady(
        7, 500 * SECOND, retention_seconds=100, backfill_seconds=0, prune_interval_seconds=5, not_before_us=300 * SECOND
    )  # fmt: skip
    assert filled == Steady(300 * SECOND, 500 * SECOND, FEWEST_PARTS)


def test_a_threshold_on_growth_fails_where_a_table_grows(tmp_path: Path) -> None:
    """Bounded passes, leaking fails, and a run too short to tell fails too."""
    path = tmp_path / "x.toml"
    path.write_text('question = "q"\n[thresholds]\ntable_rows_growth.value = "< 0.1"\n')
    scenario = load(path)

    def passed(value: Callable[[int], float]) -> bool:
        measured = largest(growths({("t", ROWS): series(value)}, TIME, WINDOW))
        return judge(scenario, measured)[-1].passed

    assert passed(lambda s: 1e6 * min(s, WINDOW))
    assert not passed(lambda s: 1e6 * (WINDOW + s / 10))
    assert not judge(scenario, {})[-1].passed
