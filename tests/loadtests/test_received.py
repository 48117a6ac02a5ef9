"""What came, held against what is stored."""

import pytest

from loadtests import received as module
from loadtests.received import HeldSamples, Received

LOG, CONTAINER = "logs:1", "container:1"


def lines(*places: int) -> Received:
    """Lines of these times came."""
    received = Received()
    for at in places:
        assert received.line(LOG, (at, 0))
    return received


def test_a_stored_line_must_have_come() -> None:
    """From the first line on; what is stored before it was before the tail."""
    stored = [(at, 0) for at in (1, 2, 3, 4, 5)]

    assert lines(2, 3, 4, 5).lost_lines(LOG, stored) == (0, None)
    assert lines(2, 5).lost_lines(LOG, stored) == (2, (3, 0))
    assert lines(2, 3).lost_lines(LOG, stored) == (2, (4, 0))


def test_lines_of_a_gap_are_not_lost() -> None:
    """Gaps tell how many, and no more of them may be missing."""
    received = lines(1, 5)
    received.gap(LOG, 2)

    assert received.lost_lines(LOG, [(1, 0), (2, 0), (3, 0), (5, 0)]) == (0, (2, 0))
    assert received.lost_lines(LOG, [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)])[0] == 1


def test_a_line_that_came_and_is_not_stored_is_no_loss() -> None:
    """It may not be committed yet."""
    assert lines(1, 2, 3).lost_lines(LOG, [(1, 0)]) == (0, None)


def test_forgotten_lines_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proof begins where memory does."""
    monkeypatch.setattr(module, "SEEN_LINES", 3)

    assert lines(1, 2, 3, 4, 5).lost_lines(LOG, [(at, 0) for at in range(1, 6)]) == (0, None)


def came(*times: int) -> Received:
    """Samples of a container came at these times, in its own topic."""
    received = Received()
    for at in times:
        received.sample(CONTAINER, "1", at)
    return received


def test_samples_may_be_overtaken_but_the_newest_must_come() -> None:
    """Whole intervals between the first sample and the newest are held; those behind it are lost."""
    received = came(10, 25, 60)
    received.gap(CONTAINER, 3)
    begins, counts = [0, 10, 20, 30, 40, 50, 60], [1, 1, 2, 1, 0, 1, 1]
    found = HeldSamples(held=4, overtaken=3, first_us=20)

    assert received.held_samples(CONTAINER, "1", begins, counts, 10) == found
    later = received.held_samples(CONTAINER, "1", [*begins, 70, 80, 90], [*counts, 1, 1, 0], 10)
    assert later == found._replace(behind_us=80, undeclared=2)
    received.gap(CONTAINER, 2)  # no room was left for them, and that was told
    later = received.held_samples(CONTAINER, "1", [*begins, 70, 80, 90], [*counts, 1, 1, 0], 10)
    assert later == found._replace(behind_us=80)


def test_what_was_overtaken_must_stand_in_a_gap() -> None:
    """No more samples may be missing in a topic than its gaps told of."""
    received = came(5, 11, 41)
    begins, counts = [0, 10, 20, 30, 40], [1, 1, 1, 1, 1]
    undeclared = []
    for _ in range(4):
        undeclared.append(received.held_samples(CONTAINER, "1", begins, counts, 10).undeclared)
        received.gap(CONTAINER, 1)

    assert undeclared == [2, 1, 0, 0]


def test_samples_that_were_not_wanted_are_not_lost() -> None:
    """After a pause proof begins anew, gaps included."""
    received = came(10, 20)
    received.gap(CONTAINER, 5)
    received.begun(CONTAINER)
    assert received.first_sample_us(CONTAINER, "1") is None
    assert received.held_samples(CONTAINER, "1", [30], [1], 10) == HeldSamples()

    received.sample(CONTAINER, "1", 50)
    received.sample(CONTAINER, "1", 80)
    assert received.first_sample_us(CONTAINER, "1") == 50
    found = received.held_samples(CONTAINER, "1", [30, 50, 60, 80], [1, 1, 1, 1], 10)
    assert (found.held, found.undeclared, found.first_us) == (1, 1, 60)


def test_containers_of_a_host_are_held_apart() -> None:
    """What came of another container of the same topic proves nothing."""
    received = Received()
    for at in (10, 20, 30):
        received.sample("host:h", "1", at)
        received.sample("host:h", "2", at)

    assert received.first_sample_us("host:h", "3") is None
    assert received.held_samples("host:h", "1", [20], [2], 10).undeclared == 1
    assert received.held_samples("host:h", "3", [20], [2], 10) == HeldSamples()
