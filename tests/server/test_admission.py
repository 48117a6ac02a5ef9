"""Admission: a storm of agents becomes a queue."""

import heapq
from collections import Counter

from server.admission import LATEST_SECONDS, Admission


def test_a_storm_is_spread_to_the_rate() -> None:
    """Ten thousand that dial at once, and come back when they are told, are admitted at the rate and no second is fuller."""
    admission, rate = Admission(400), 400
    due = [(1000.0, agent) for agent in range(10_000)]
    admitted: Counter[int] = Counter()
    while due:
        now, agent = heapq.heappop(due)
        if wait := admission.wait_seconds(now):
            heapq.heappush(due, (now + wait + agent % 1000 / 1000, agent))  # agents add up to a second
        else:
            admission.take()
            admitted[int(now)] += 1

    assert admitted.total() == 10_000
    assert max(admitted.values()) <= 1.2 * rate + 1
    assert max(admitted) - 1000 < 60


def test_a_few_need_not_wait() -> None:
    """Below the rate everybody is admitted, whatever was before the pause."""
    admission = Admission(10)
    now = 5.0
    while admission.wait_seconds(now) == 0:
        admission.take()
    for second in range(20):
        now = 100.0 + second / 5
        assert admission.wait_seconds(now) == 0
        admission.take()


def test_nobody_is_told_to_wait_for_ever() -> None:
    """However many ask, the wait that is told has a bound."""
    admission = Admission(1)
    admission.wait_seconds(0.0)
    admission.take()

    waits = [admission.wait_seconds(0.0) for _ in range(1000)]
    assert (min(waits) > 0, max(waits)) == (True, LATEST_SECONDS)
