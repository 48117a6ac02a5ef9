"""Admission: a storm of agents becomes a queue."""

import heapq
from collections import Counter

import pytest

from server.admission import GRACE_SECONDS, LATEST_SECONDS, ORG_SHARE, Admission, HostKey

RATE = 400


def storm(
    admission: Admission, agents: dict[HostKey, float], redial: dict[HostKey, float], until: float
) -> dict[HostKey, float]:
    """Let agents dial at their times and come back when they are told; `redial`: those that come back after this instead.

    Returns when each was admitted first. Those of `redial` are cut at once and dial again, for ever.
    """
    due = [(at, host) for host, at in agents.items()]
    heapq.heapify(due)
    admitted: dict[HostKey, float] = {}
    while due and due[0][0] < until:
        now, host = heapq.heappop(due)
        wait = admission.wait_seconds(host, now)
        if not wait:
            admitted.setdefault(host, now)
        if host in redial:
            heapq.heappush(due, (now + redial[host], host))
        elif wait:
            heapq.heappush(due, (now + wait + hash(host) % 1000 / 1000, host))  # agents add up to a second
    return admitted


def test_a_storm_is_spread_to_the_rate() -> None:
    """Ten thousand that dial at once, and come back when they are told, are admitted at the rate and no second is fuller."""
    agents = {("o", f"h{i}"): 1000.0 for i in range(10_000)}

    admitted = storm(Admission(RATE), agents, {}, 1100.0)

    seconds = Counter(int(at) for at in admitted.values())
    assert seconds.total() == 10_000
    assert max(seconds.values()) <= 1.25 * RATE
    assert max(seconds) - 1000 < 35


def test_a_server_that_was_held_up_does_not_catch_up() -> None:
    """Those whose seconds passed while nobody was looked at come in at the rate too, and none is forgotten."""
    admission = Admission(RATE)
    agents = [("o", f"h{i}") for i in range(2_000)]
    due = [(1000.0, host) for host in agents]
    admitted: Counter[int] = Counter()
    while due:
        at, host = heapq.heappop(due)
        now = 1006.0 if 1000.0 < at < 1006.0 else at  # held up for five seconds
        if wait := admission.wait_seconds(host, now):
            heapq.heappush(due, (now + wait + hash(host) % 1000 / 1000, host))
        else:
            admitted[int(now)] += 1

    assert admitted.total() == 2_000
    assert max(admitted.values()) <= 1.25 * RATE


def test_who_waits_is_not_overtaken_by_who_does_not() -> None:
    """Hosts of one organisation that dial every second, whatever they are told, keep nobody out who waits for its time."""
    crashing = {("noisy", f"h{i}"): 1000.0 + i / 2000 for i in range(2_000)}
    polite = {("quiet", f"h{i}"): 1001.0 + i / 1000 for i in range(1_000)}

    admitted = storm(Admission(RATE), crashing | polite, dict.fromkeys(crashing, 1.0), 1060.0)

    waits = [admitted[host] - at for host, at in polite.items()]
    assert len(waits) == 1_000
    assert max(waits) < 30  # 3,000 places are 8 s of the rate; those who dial without end come again and again


def test_a_place_is_kept_for_its_time_and_no_longer() -> None:
    """A host gets the same place however often it asks; who comes after it has passed waits anew."""
    admission = Admission(1)
    assert admission.wait_seconds(("o", "first"), 0.0) == 0
    waits = {admission.wait_seconds(("o", "late"), 0.0) for _ in range(10)}
    (wait,) = waits
    assert admission.wait_seconds(("o", "late"), 1.0) == wait - 1
    assert admission.waiting == 1

    after = wait + GRACE_SECONDS + 1
    assert admission.wait_seconds(("o", "walks in"), after) == 0
    assert admission.wait_seconds(("o", "late"), after) > 0


def test_a_few_need_not_wait() -> None:
    """Below the rate everybody is admitted, whatever was before the pause."""
    admission = Admission(10)
    number = 0
    while admission.wait_seconds(("o", f"h{number}"), 5.0) == 0:
        number += 1
    for moment in range(20):
        assert admission.wait_seconds(("o", f"later-{moment}"), 100.0 + moment / 5) == 0


@pytest.mark.parametrize("orgs", [1, 2])
def test_places_and_waits_are_bounded(orgs: int) -> None:
    """However many ask, so many places are kept, no organisation has more than its part, and nobody waits longer."""
    admission = Admission(10)

    waits = [admission.wait_seconds((f"o{i % orgs}", f"h{i}"), 0.0) for i in range(5_000)]

    assert max(waits) == LATEST_SECONDS
    assert admission.waiting <= LATEST_SECONDS * 10 * min(1.0, orgs * ORG_SHARE)
