"""What came, held against what is stored."""

import pytest

from loadtests import received as module
from loadtests.received import Received

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


def test_samples_may_be_overtaken_but_the_newest_must_come() -> None:
    """Intervals between the first sample and the newest are counted; those behind it are lost."""
    received = Received()
    received.samples(CONTAINER, [10, 25, 60])
    begins, counts = [0, 10, 20, 30, 40, 50, 60], [1, 1, 2, 1, 0, 1, 1]

    assert received.lost_samples(CONTAINER, begins, counts, 10) == (3, 0)
    assert received.lost_samples(CONTAINER, [*begins, 70, 80, 90], [*counts, 1, 1, 0], 10) == (3, 80)


def test_samples_that_were_not_wanted_are_not_lost() -> None:
    """After a pause proof begins anew."""
    received = Received()
    received.samples(CONTAINER, [10, 20])
    received.interrupted(CONTAINER)
    assert received.lost_samples(CONTAINER, [30], [1], 10) == (0, 0)

    received.samples(CONTAINER, [50])
    assert received.lost_samples(CONTAINER, [30, 50], [1, 1], 10) == (0, 0)
    assert received.begins_us(LOG, CONTAINER) == (None, 50)
