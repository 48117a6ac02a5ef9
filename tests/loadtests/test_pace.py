"""Turns at a fixed rate."""

import pytest

from loadtests import pace as module
from loadtests.pace import PATIENCE_TURNS, Pace


class Clock:
    """A clock that only moves when time is passed."""

    def __init__(self) -> None:
        self.us = 1_000_000_000
        self.skipped: list[int] = []

    def pass_time(self, seconds: float) -> None:
        """Let time pass, a little short as a timer may."""
        self.us += max(1, round(seconds * 1e6) - 5)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The pace's clock."""
    clock = Clock()
    monkeypatch.setattr(module, "now_us", lambda: clock.us)
    return clock


def test_turns_come_at_their_times_and_never_early(clock: Clock) -> None:
    """The first after its phase, each next a period later."""
    pace = Pace(2.0, 0.25, clock.skipped.append)
    start = clock.us

    for number in range(5):
        due = pace.next(clock.pass_time)
        assert due == start + 500_000 + number * 2_000_000
        assert clock.us >= due


def test_a_late_turn_keeps_its_time(clock: Clock) -> None:
    """What is measured from it holds the delay, and the turns after it are made up for."""
    pace = Pace(1.0, 0.0, clock.skipped.append)
    first = pace.next(clock.pass_time)
    clock.us += 3_500_000

    assert [pace.next(clock.pass_time) - first for _ in range(4)] == [1_000_000, 2_000_000, 3_000_000, 4_000_000]
    assert clock.skipped == []


def test_a_user_that_is_far_behind_leaves_turns_out_and_tells(clock: Clock) -> None:
    """One answer that took minutes is not told as hundreds of late ones."""
    pace = Pace(1.0, 0.0, clock.skipped.append)
    first = pace.next(clock.pass_time)
    clock.us += 100_000_000

    assert clock.us - pace.next(clock.pass_time) < 1_000_000
    assert sum(clock.skipped) == 99 > PATIENCE_TURNS
    assert pace.next(clock.pass_time) - first == 101_000_000
