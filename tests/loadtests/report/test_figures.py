"""What the report draws."""

from math import isnan
from pathlib import Path

import pytest

from loadtests.report.figures import MOST_POINTS, Figure, _broken, figures
from tests.support.results import made_result


@pytest.fixture
def drawn(tmp_path: Path) -> dict[str, Figure]:
    """The figures of a run, by key."""
    return {figure.key: figure for figure in figures(made_result(tmp_path))}


def test_what_has_values_is_drawn(drawn: dict[str, Figure]) -> None:
    """A figure for each group that the run measured, in its order, and none that would be empty."""
    assert list(drawn) == [
        "percentiles", "latency", "throughput", "queues", "connections", "tables", "cpu", "memory", "postgres",
    ]  # fmt: skip
    assert all(panel.lines for figure in drawn.values() for panel in figure.panels)
    assert [line.label for line in drawn["throughput"].panels[0].lines] == ["offered", "stored"]


def test_missing_seconds_are_a_gap_in_the_line(drawn: dict[str, Figure]) -> None:
    """Where the server was away the line has a hole, at that time."""
    offered, stored = drawn["throughput"].panels[0].lines
    holes = [x for x, y in stored.points if isnan(y)]

    assert all(not isnan(y) for _, y in offered.points)
    assert len(holes) == 1
    assert 9 < holes[0] < 13


def test_a_spike_of_a_long_run_is_still_seen() -> None:
    """Few enough points to draw, the highest of all among them."""
    points = [(float(i), 1.0) for i in range(7000)]
    points[4321] = (4321.0, 99.0)
    found = _broken(points)

    assert len(found) <= MOST_POINTS
    assert max(y for _, y in found) == 99


def test_every_line_names_its_path(drawn: dict[str, Figure]) -> None:
    """The way back into result.json."""
    assert {line.path for panel in drawn["tables"].panels for line in panel.lines} == {
        ".metrics.table_bytes.points", ".metrics.index_bytes.points",
    }  # fmt: skip
