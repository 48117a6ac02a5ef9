"""What the fleet's report becomes in the catalogue."""

import pytest

from loadtests.fleet_report import reconnects
from loadtests.result import FaultDone

SECOND = 1_000_000


def fault(second: int, kind: str = "server_kill") -> FaultDone:
    """A fault at a second of the run."""
    return FaultDone(at_us=second * SECOND, ended_at_us=second * SECOND, kind=kind)


def points(*seconds: tuple[float, int, int]) -> list[tuple[int, int, int, int]]:
    """Seconds, agents connected, all of which stream, and welcomes."""
    return [(round(second * SECOND), connected, welcomes, connected) for second, connected, welcomes in seconds]


RAMP = ((1, 60, 60), (2, 100, 100))


def test_a_fleet_is_back_when_99_of_100_are() -> None:
    """The time counts from the fault, the share is of the fullest second; a ramp is neither."""
    made = reconnects(
        points(*RAMP, (11, 0, 100), (12, 10, 110), (14, 80, 180), (15, 99, 199), (16, 100, 200)), 100, [fault(10)]
    )

    assert made["reconnect_99_s"].points == [(10 * SECOND, 5.0)]
    assert made["reconnect_peak_share"].points == [(10 * SECOND, 0.7)]


def test_a_welcome_is_not_yet_a_return() -> None:
    """The fleet is back when its batches are acked again, however early it was welcomed."""
    welcomed = [(11 * SECOND, 0, 100, 0), (12 * SECOND, 100, 200, 0), (15 * SECOND, 100, 200, 98)]
    made = reconnects([*points(*RAMP), *welcomed, (17 * SECOND, 100, 200, 99)], 100, [fault(10)])

    assert made["reconnect_99_s"].points == [(10 * SECOND, 7.0)]
    assert made["reconnect_peak_share"].points == [(10 * SECOND, 1.0)]


def test_each_cut_has_its_point() -> None:
    """Other faults have none."""
    made = reconnects(
        points(*RAMP, (11, 50, 100), (12, 100, 150), (31, 0, 150), (34, 100, 250)),
        100,
        [fault(10, "resets"), fault(20, "postgres_kill"), fault(30, "server_term")],
    )

    assert made["reconnect_99_s"].points == [(10 * SECOND, 2.0), (30 * SECOND, 4.0)]
    assert made["reconnect_peak_share"].points == [(10 * SECOND, 0.5), (30 * SECOND, 1.0)]


def test_a_cut_before_the_return_from_the_one_before_delays_both() -> None:
    """A fleet that was cut again has not come back."""
    made = reconnects(points(*RAMP, (11, 50, 100), (13, 40, 130), (15, 100, 190)), 100, [fault(10), fault(12)])

    assert made["reconnect_99_s"].points == [(10 * SECOND, 5.0), (12 * SECOND, 3.0)]


@pytest.mark.parametrize(
    "after",
    [[], [(11, 99, 101), (12, 100, 102)], [(11, 0, 100), (20, 98, 198)]],
    ids=["nothing was cut", "next to nothing was cut", "it did not come back"],
)
def test_without_a_return_there_is_no_time(after: list[tuple[float, int, int]]) -> None:
    """No samples are never a pass: a fault that did not cut, and a fleet that stayed away, prove nothing."""
    assert reconnects(points(*RAMP, *after), 100, [fault(10)]) == {}
