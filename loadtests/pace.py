"""When the turns of a simulated user are meant to be."""

import time
from collections.abc import Callable

from loadtests.measure import now_us

PATIENCE_TURNS = 10
"""A user who is later than so many turns leaves them out: else one long answer would be told as hundreds."""


class Pace:
    """Turns at a fixed rate, however long each takes.

    A turn that comes late keeps its time, so that what is measured from it holds the wait: a slow server cannot slow the
    load down unseen.

    Args:
        period_seconds: between two turns.
        phase: of the period, from 0 to 1, after which the first turn is; users of a kind get different ones.
        skipped: told of turns that are left out.
    """

    def __init__(self, period_seconds: float, phase: float, skipped: Callable[[int], None]) -> None:
        self._period_us = round(period_seconds * 1e6)
        self._next_us = now_us() + round(self._period_us * phase)
        self._skipped = skipped

    def next(self, pass_time: Callable[[float], None] = time.sleep) -> int:
        """Wait for the next turn; when it was meant to be, in Unix microseconds.

        Args:
            pass_time: passes about so many seconds, never much more.
        """
        late = (now_us() - self._next_us) // self._period_us
        if late > PATIENCE_TURNS:
            self._skipped(late)
            self._next_us += late * self._period_us
        while (left_us := self._next_us - now_us()) > 0:
            pass_time(left_us / 1e6)
        due_us = self._next_us
        self._next_us += self._period_us
        return due_us
