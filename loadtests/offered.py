"""What a run asked for, what its fleet offered, and what the server achieved; and what of the run was a warm-up."""

from collections.abc import Sequence
from typing import NamedTuple

from loadtests.numbers import number
from loadtests.result import Result
from loadtests.timed import Window
from simulator.scenario_format import seconds

_LOOK_US = 1_000_000
"""Between two looks."""


class Offered(NamedTuple):
    """One kind of load, a second, after the warm-up and while the fleet sent."""

    what: str
    asked: float
    """By the scenario, of a fleet that is whole and whose containers all run."""
    offered: float | None
    """By the fleet, on average; None: not known."""
    achieved: float | None
    """Committed, or acknowledged."""
    verb: str
    """How achieved is called: stored, acknowledged."""

    def told(self) -> str:
        """For people: `11,000 rows/s asked, 10,950 offered, 10,948 stored`."""
        return (
            f"{number(self.asked)} {self.what}/s asked, {_known(self.offered)} offered, "
            f"{_known(self.achieved)} {self.verb}"
        )


def offered(result: Result) -> list[Offered]:
    """Rows and batches of a run."""
    fleet = result.scenario.fleet
    batches = fleet.agents / fleet.interval_seconds
    rows = batches * (fleet.containers + fleet.log_lines)
    names = (
        ("rows", rows, "offered_rows_per_second", "insert_rows_per_second", "stored"),
        ("batches", batches, "offered_batches_per_second", "acked_batches_per_second", "acknowledged"),
    )
    return [
        Offered(what, asked, _mean(result, made, made), _mean(result, got, made), verb)
        for what, asked, made, got, verb in names
    ]


def warm_up(result: Result) -> str:
    """What was cut off, as a sentence; empty: nothing."""
    asked = result.scenario.warm_up_seconds
    if not asked:
        return ""
    if not result.measured_from_us:
        return f"The run ended in its warm-up of {seconds(asked)}: latencies and series count nothing."
    return f"The first {seconds(asked)} were a warm-up: no latency and no series counts them."


def _mean(result: Result, name: str, made: str) -> float | None:
    """Of a series by time, while the fleet made something, as its own series says.

    A point tells of the time since the one before it. Before a series has any there was nothing: rows are counted from the
    first one stored. What came after its last point nobody saw, so that is left out.
    """
    window = _sending(result, made)
    told = _spans(_points(result, name))
    if window is None or not told:
        return None
    until_us = min(window.until_us, told[-1][0].until_us)
    if until_us <= window.from_us:
        return None
    whole = sum(rate * max(0, min(span.until_us, until_us) - max(span.from_us, window.from_us)) for span, rate in told)
    return whole / (until_us - window.from_us)


def _sending(result: Result, made: str) -> Window | None:
    """From the first to the last time after the warm-up that the fleet made something; None: it never did."""
    spans = [
        span for span, rate in _spans(_points(result, made)) if rate > 0 and span.until_us >= result.measured_from_us
    ]
    return Window(spans[0].from_us, spans[-1].until_us) if spans else None


def _spans(points: Sequence[tuple[int, float]]) -> list[tuple[Window, float]]:
    """Values with the time that they tell of; the first tells of one look's."""
    begins = [at_us for at_us, _ in points]
    begins = [begins[0] - _LOOK_US, *begins[:-1]] if begins else []
    return [(Window(begin, at_us), value) for begin, (at_us, value) in zip(begins, points, strict=True)]


def _points(result: Result, name: str) -> list[tuple[int, float]]:
    found = result.metrics.get(name)
    return found.points if found is not None else []


def _known(value: float | None) -> str:
    return "unknown" if value is None else number(value)
