"""A run before, during and after its faults."""

import pytest

from loadtests.measure import Latency, Series
from loadtests.phases import in_phase, phases
from loadtests.timed import Timed, Window
from simulator.intervals import Intervals

SECOND = 1_000_000


def windows(*broken: tuple[float, float], settle: float = 2, ramp: float = 3) -> dict[str, list[tuple[float, float]]]:
    """The phases of a run of 60 s, in seconds."""
    found = phases(
        [Window(int(a * SECOND), int(b * SECOND)) for a, b in broken], started_us=0, ended_us=60 * SECOND,
        ramp_seconds=ramp, settle_seconds=settle,
    )  # fmt: skip
    return {name: [(a / SECOND, b / SECOND) for a, b in parts] for name, parts in found.items()}


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ([], {}),
        ([(20, 25)], {"before": [(3, 20)], "during": [(20, 27)], "after": [(27, 60)]}),
        (
            [(20, 20), (40, 45)],
            {"before": [(3, 20)], "during": [(20, 22), (40, 47)], "after": [(22, 40), (47, 60)]},
        ),
        ([(20, 30), (31, 33)], {"before": [(3, 20)], "during": [(20, 35)], "after": [(35, 60)]}),
        ([(1, 2)], {"during": [(1, 4)], "after": [(4, 60)]}),
        ([(50, 59)], {"before": [(3, 50)], "during": [(50, 60)]}),
    ],
)
def test_phases_are_told_by_the_faults(
    broken: list[tuple[float, float]], expected: dict[str, list[tuple[float, float]]]
) -> None:
    """Before the first, during each with its time to settle, after the rest; a phase without time is none."""
    assert windows(*broken) == expected


def test_a_second_across_the_border_belongs_to_the_fault() -> None:
    """What is told of before has nothing of the fault, and the fault has all of it."""
    times = Intervals()
    for second in range(4):
        times.record(second + 1, second * SECOND + 100)
    border = Window(0, 1_500_000), Window(1_500_000, 4 * SECOND)
    timed = Timed(times.encoded())
    before, during = in_phase(timed, "before", border[:1]), in_phase(timed, "during", border[1:])

    assert isinstance(before, Latency)
    assert isinstance(during, Latency)
    assert (before.count, during.count) == (1, 3)


def test_points_belong_to_the_phase_of_their_time() -> None:
    """A series is cut at the border."""
    found = in_phase(Series([(1, 5.0), (2, 7.0), (3, 9.0)]), "after", [Window(2, 3)])

    assert found.statistics() == {"min": 7, "max": 7, "mean": 7, "last": 7}
