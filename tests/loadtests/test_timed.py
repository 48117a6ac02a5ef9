"""Latencies by the time at which something was meant to happen."""

import pytest

from loadtests.timed import Timed, Window
from simulator.intervals import Interval, Intervals

SECOND = 1_000_000


def encoded(*milliseconds: float, second: int = 0) -> list[Interval]:
    """The intervals of one process."""
    times = Intervals()
    for value in milliseconds:
        times.record(round(value * 1000), second * SECOND)
    return times.encoded()


def test_moments_are_told_in_order() -> None:
    """Each interval has its count and its statistics in milliseconds."""
    moments = Timed([*encoded(7, second=5), *encoded(1, 1, 100, second=3)]).moments()

    assert [(moment.at_us, moment.count) for moment in moments] == [(3 * SECOND, 3), (5 * SECOND, 1)]
    assert moments[0].p50 == pytest.approx(1, rel=0.01)
    assert moments[0].max == pytest.approx(100, rel=0.01)


def test_processes_add_up() -> None:
    """Two processes' intervals of the same second are one moment, whatever the width of each."""
    wide = [Interval(at_us=2 * SECOND, width_us=2 * SECOND, hdr=encoded(9)[0].hdr)]
    moments = Timed([*encoded(1, second=2), *encoded(3, second=3), *wide]).moments()

    assert [(moment.at_us, moment.width_us, moment.count) for moment in moments] == [(2 * SECOND, 2 * SECOND, 3)]


def test_nothing_is_between_windows_without_time() -> None:
    """No window, no samples."""
    assert Timed(encoded(1)).between([]).count == 0
    assert Timed(encoded(1)).between([Window(0, SECOND)]).count == 1
