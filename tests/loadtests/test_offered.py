"""What was asked, offered and achieved, and what was a warm-up."""

import io
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from loadtests.markdown import markdown
from loadtests.offered import offered, warm_up
from loadtests.report.figures import figures
from loadtests.report.page import render, slowest
from loadtests.result import Result
from loadtests.summary import show
from tests.support.results import BEGUN_US, made_result


def warmed(result: Result, seconds: float, measured_from_us: int) -> Result:
    """The same with a warm-up."""
    scenario = msgspec.structs.replace(result.scenario, warm_up_seconds=seconds)
    return msgspec.structs.replace(result, scenario=scenario, measured_from_us=measured_from_us)


def by_time(points: list[tuple[int, float]]) -> float:
    """The mean of points, each of which tells of the time since the one before it; the first of a second."""
    widths = [1.0, *((b[0] - a[0]) / 1e6 for a, b in pairwise(points))]
    return sum(width * value for width, (_, value) in zip(widths, points, strict=True)) / sum(widths)


def test_what_was_asked_stands_beside_what_was_offered_and_achieved(tmp_path: Path) -> None:
    """Rows by the scenario, by the fleet's own count and by the server's; what nobody counted is unknown."""
    result = made_result(tmp_path)
    rows, batches = offered(result)

    assert rows.asked == 100 * (5 + 1)
    assert rows.offered == pytest.approx(result.metrics["offered_rows_per_second"].statistics["mean"])
    assert rows.achieved == pytest.approx(by_time(result.metrics["insert_rows_per_second"].points))
    assert (batches.asked, batches.offered, batches.achieved) == (100, None, None)
    assert batches.told() == "100 batches/s asked, unknown offered, unknown acknowledged"


def test_only_the_time_in_which_the_fleet_sent_is_compared(tmp_path: Path) -> None:
    """After the warm-up and until the fleet made no more: what follows would make the server look slow."""
    result = made_result(tmp_path)
    stored = result.metrics["insert_rows_per_second"]
    idle = [(BEGUN_US + second * 1_000_000, 0.0) for second in (*range(5), *range(30, 40))]
    kept = [point for point in stored.points if point[0] >= BEGUN_US + 5_000_000]
    metrics = dict(result.metrics) | {
        "insert_rows_per_second": msgspec.structs.replace(stored, points=[*idle[:5], *kept, *idle[5:]])
    }
    shown = warmed(msgspec.structs.replace(result, metrics=metrics), 5, BEGUN_US + 5_000_000)

    assert offered(shown)[0].achieved == pytest.approx(by_time(kept))


def test_what_is_stored_late_is_not_stored_fast(tmp_path: Path) -> None:
    """Seconds before the first row count as none, and a point counts for the time since the one before it."""
    result = made_result(tmp_path)
    made = [(BEGUN_US + second * 1_000_000, 100.0) for second in range(1, 61)]
    got = [(BEGUN_US + second * 1_000_000, 100.0) for second in (*range(11, 21), 40, *range(41, 61))]
    metrics = dict(result.metrics) | {
        name: msgspec.structs.replace(result.metrics[name], points=points)
        for name, points in (("offered_rows_per_second", made), ("insert_rows_per_second", got))
    }
    rows, _ = offered(msgspec.structs.replace(result, metrics=metrics))

    assert rows.offered == pytest.approx(100)
    assert rows.achieved == pytest.approx(100 * 50 / 60)


def test_people_are_told_of_load_and_warm_up(tmp_path: Path) -> None:
    """By the summary, the Markdown and the report; without a warm-up nothing is said of one."""
    plain = made_result(tmp_path)
    result = warmed(plain, 8, BEGUN_US + 8_000_000)
    summary = io.StringIO()
    show(result, Path("r"), summary)

    for text in (summary.getvalue(), markdown(result), render(result, list(figures(result)))):
        assert "The first 8s were a warm-up: no latency and no series counts them." in text
        assert "600" in text
        assert "unknown acknowledged" in text
    assert "warm-up" not in markdown(plain) + render(plain, list(figures(plain)))


@pytest.mark.parametrize(
    ("seconds", "measured_from_us", "begins"), [(0, 0, ""), (8, 0, "The run ended in its warm-up")]
)
def test_a_run_that_ended_in_its_warm_up_says_so(
    tmp_path: Path, seconds: float, measured_from_us: int, begins: str
) -> None:
    """Nothing counts then; where none was asked for there is nothing to say."""
    told = warm_up(warmed(made_result(tmp_path), seconds, measured_from_us))

    assert told.startswith(begins)
    assert bool(told) == bool(begins)


def test_the_slowest_moments_are_not_those_of_the_warm_up(tmp_path: Path) -> None:
    """The slow seconds 10 to 14 are cut off with all that was before."""
    result = made_result(tmp_path)

    assert slowest(result)[0].seconds == 10
    assert all(moment.seconds >= 14 for moment in slowest(warmed(result, 14, BEGUN_US + 14_000_000)))
