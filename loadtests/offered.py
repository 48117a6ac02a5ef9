"""What a run asked for, what its fleet offered, and what the server achieved; and what of the run was a warm-up."""

from typing import NamedTuple

from loadtests.numbers import number
from loadtests.result import Result
from simulator.scenario_format import seconds


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
    """Of a series, while the fleet made something, as its own series says."""
    sent = [at_us for at_us, rate in _points(result, made) if rate > 0 and at_us >= result.measured_from_us]
    values = [value for at_us, value in _points(result, name) if sent and sent[0] <= at_us <= sent[-1]]
    return sum(values) / len(values) if values else None


def _points(result: Result, name: str) -> list[tuple[int, float]]:
    found = result.metrics.get(name)
    return found.points if found is not None else []


def _known(value: float | None) -> str:
    return "unknown" if value is None else number(value)
