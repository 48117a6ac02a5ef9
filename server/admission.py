"""How many agents may connect in a second, and when each of the others may come back.

When a server dies, all its agents dial at the same time, and each connection costs it as much as twenty batches. So those that
come too fast are turned away, each with a second that is kept for it: they return as fast as the server takes them, and no
faster. A place is kept, once, until its time has passed: who comes too early, or dials again and again, gets the same one,
and takes none from those who wait their turn.
"""

import math
from collections import Counter

HostKey = tuple[str, str]
"""Organisation and host."""

BURST_SECONDS = 0.2
"""What may connect at once after a pause, in seconds of the rate."""
LATEST_SECONDS = 60.0
"""Longest wait. For those whom it does not reach no place is kept: they ask again when it is over."""
GRACE_SECONDS = 10.0
"""How long after its time a place is kept."""
ORG_SHARE = 0.5
"""Most of all places that one organisation gets."""
_WALK_IN = 0.1
"""Part of the rate for those that have no place, while places are kept."""


class Admission:
    """Admits so many connections a second.

    Args:
        per_second: above 0.
    """

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._burst = max(1.0, per_second * BURST_SECONDS)
        self._room = self._walk_in_room = self._burst
        self._filled_at = float("-inf")
        self._places: dict[HostKey, float] = {}
        """Kept places: when, in monotonic seconds. In the order in which they expire, about."""
        self._of_org: Counter[str] = Counter()
        self._last = 0.0
        self._most = max(1, int(LATEST_SECONDS * per_second * (1.0 - _WALK_IN) * ORG_SHARE))

    @property
    def waiting(self) -> int:
        """Agents for which a place is kept."""
        return len(self._places)

    def wait_seconds(self, host: HostKey, now: float) -> int:
        """0: the host is admitted, and counted. Else how long it shall stay away. `now` in monotonic seconds."""
        self._expire(now)
        self._fill(now)
        if (place := self._places.get(host)) is not None:
            if place > now:
                return math.ceil(place - now)
            if self._room >= 1.0:
                self._room -= 1.0
                self._drop(host)
                return 0
            # The server was held up, and now those of several seconds come together.
            self._places[host] = self._places.pop(host) + 1.0
            return 1
        kept_back = self._burst / 2 if self._places else 0.0  # for those who come at their time
        if self._room >= 1.0 + kept_back and self._walk_in_room >= 1.0:
            self._room -= 1.0
            self._walk_in_room -= 1.0
            return 0
        place = max(self._last, now + 1.0) + 1.0 / (self._rate * (1.0 - _WALK_IN))
        if place > now + LATEST_SECONDS or self._of_org[host[0]] >= self._most:
            return math.ceil(LATEST_SECONDS)
        self._last = self._places[host] = place
        self._of_org[host[0]] += 1
        return math.ceil(place - now)

    def _expire(self, now: float) -> None:
        while self._places:
            host, place = next(iter(self._places.items()))
            if place + GRACE_SECONDS > now:
                return
            self._drop(host)

    def _drop(self, host: HostKey) -> None:
        del self._places[host]
        self._of_org[host[0]] -= 1
        if not self._of_org[host[0]]:
            del self._of_org[host[0]]

    def _fill(self, now: float) -> None:
        passed, self._filled_at = now - self._filled_at, now
        self._room = min(self._burst, self._room + passed * self._rate)
        walk_in = self._rate * _WALK_IN if self._places else self._rate
        self._walk_in_room = min(self._burst, self._walk_in_room + passed * walk_in)
