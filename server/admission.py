"""How many agents may connect in a second, and when each of the others may come back.

When a server dies, all its agents dial at the same time, and each connection costs it as much as twenty batches. So those that
come too fast are turned away before anything else is looked at, each with a second of its own to come back in: they return
as fast as the server takes them, and no faster.
"""

import math

BURST_SECONDS = 0.2
"""What may connect at once after a pause, in seconds of the rate."""
LATEST_SECONDS = 60.0
"""Longest wait that is told; past it several agents get the same second, and are told again."""
_KEPT_FREE = 0.1
"""Part of the rate that nobody who comes back is promised: for those that come for the first time."""


class Admission:
    """Admits so many connections a second.

    Args:
        per_second: above 0.
    """

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._burst = max(1.0, per_second * BURST_SECONDS)
        self._room = self._burst
        self._filled_at = float("-inf")
        self._next_return = 0.0

    def wait_seconds(self, now: float) -> int:
        """0: there is room now. Else how long to stay away; every call gets another place. `now` in monotonic seconds."""
        self._fill(now)
        if self._room >= 1.0:
            return 0
        self._next_return = max(self._next_return, now + 1.0) + 1.0 / (self._rate * (1.0 - _KEPT_FREE))
        self._next_return = min(self._next_return, now + LATEST_SECONDS)
        return math.ceil(self._next_return - now)

    def take(self) -> None:
        """Count one in."""
        self._room -= 1.0

    def _fill(self, now: float) -> None:
        passed, self._filled_at = now - self._filled_at, now
        self._room = min(self._burst, self._room + passed * self._rate)
