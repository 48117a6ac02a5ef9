"""Counting log bytes: what is kept, what must go, and what is not known for sure."""

import random

from server.agents import TrackedContainer
from server.log_bounds import LogBounds, Segment
from tests.support import core

LIMIT = 64 * 1024
SEGMENT = LIMIT // 16
LINE = 200


def write(bounds: LogBounds, container: TrackedContainer, at: int, size: int = LINE) -> None:
    """A line is accepted, as ingest does it."""
    if (at, 0) > container.last_log:
        container.last_log = (at, 0)
        container.log_bytes += size
        if container.log_bytes >= container.log_mark:
            bounds.grown(container)
    else:
        bounds.came_late(container, size)


def tracked(number: int = 0) -> TrackedContainer:
    """A container that has written nothing."""
    return TrackedContainer("o", "h", core.container(number))


def test_what_is_kept_lies_between_fourteen_sixteenths_and_the_bound() -> None:
    """However long the lines are, once past the bound the lines not yet due are never more than it, and never few."""
    chance = random.Random(1)
    bounds, container, sizes = LogBounds(LIMIT), tracked(), dict[int, int]()
    for at in range(1, 5000):
        sizes[at] = chance.randrange(150, 900)
        write(bounds, container, at, sizes[at])
        cut = bounds.due.get(container.id, 0)
        kept = sum(size for moment, size in sizes.items() if moment > cut)
        assert kept <= LIMIT + 900
        if cut:
            assert kept >= LIMIT * 14 / 16 - 900
            sizes = {moment: size for moment, size in sizes.items() if moment > cut}
        assert len(bounds.segments(container.id)) <= 16


def test_containers_are_counted_apart() -> None:
    """One that writes without end makes no other due."""
    bounds, loud, quiet = LogBounds(LIMIT), tracked(0), tracked(1)
    write(bounds, quiet, 1)
    for at in range(1, 2000):
        write(bounds, loud, at)

    assert list(bounds.due) == [loud.id]
    assert quiet.log_bytes == LINE


def test_a_later_cut_replaces_one_that_was_not_made_yet() -> None:
    """While the database is away the moment moves on; what an older pruning removed does not settle it."""
    bounds, container = LogBounds(LIMIT), tracked()
    for at in range(1, 400):
        write(bounds, container, at)
    first = bounds.due[container.id]
    for at in range(400, 800):
        write(bounds, container, at)
    second = bounds.due[container.id]

    assert second > first
    bounds.pruned(container.id, first)
    assert bounds.due == {container.id: second}
    bounds.pruned(container.id, second)
    assert bounds.due == {}


def test_late_lines_are_counted_in_storage_after_a_sixteenth() -> None:
    """What may have been stored before moves no count by itself; it asks for a recount, which is taken over."""
    bounds, container = LogBounds(LIMIT), tracked()
    for at in range(1, 100):
        write(bounds, container, at)
    before = [*bounds.segments(container.id)]
    for _ in range(SEGMENT // LINE):
        write(bounds, container, 5)
    assert not bounds.uncertain
    write(bounds, container, 5)
    assert list(bounds.uncertain) == [container.id]
    assert [*bounds.segments(container.id)] == before

    times = [segment.until for segment in before]
    bounds.recounted(container, times, [LIMIT, *(SEGMENT for _ in times[1:]), 100])

    assert bounds.due == {container.id: times[0]}
    assert [*bounds.segments(container.id)] == [Segment(until, SEGMENT) for until in times[1:]]


def test_a_recount_that_was_overtaken_keeps_the_newer_counts() -> None:
    """Segments sealed while storage counted, and the open count behind them, stay as they are."""
    bounds, container = LogBounds(LIMIT), tracked()
    for at in range(1, 30):
        write(bounds, container, at)
    times = [segment.until for segment in bounds.segments(container.id)]
    for at in range(30, 60):
        write(bounds, container, at)
    after = bounds.segments(container.id)[len(times) :]
    opened = container.log_bytes

    bounds.recounted(container, times, [*(1 for _ in times), 50_000])

    assert [*bounds.segments(container.id)] == [*(Segment(until, 1) for until in times), *after]
    assert container.log_bytes == opened


def test_what_is_gone_by_age_counts_no_more() -> None:
    """Segments up to a time are forgotten; one that reaches past it stays."""
    bounds, container = LogBounds(LIMIT), tracked()
    for at in range(1, 100):
        write(bounds, container, at)
    first, second, *_ = bounds.segments(container.id)

    bounds.expire(second.until)
    assert bounds.segments(container.id)[0] == second
    bounds.expire(10**18)
    assert bounds.segments(container.id) == ()
    assert first.until < second.until


def test_counts_are_taken_up_again() -> None:
    """Of what was loaded the newest short segment is open again; a lower bound counts at once."""
    bounds, container = LogBounds(LIMIT), tracked()
    bounds.load(container.id, container, [Segment(10, SEGMENT), Segment(20, 300)])
    assert [*bounds.segments(container.id)] == [Segment(10, SEGMENT)]
    assert container.log_bytes == 300

    gone = tracked(1)
    bounds.load(gone.id, None, [Segment(10, LIMIT), Segment(20, 300)])
    assert bounds.due == {gone.id: 10}
    assert [*bounds.segments(gone.id)] == [Segment(20, 300)]


def test_a_count_is_written_when_it_grew_by_a_256th() -> None:
    """Small growth is not worth a write; what was written is not asked for again until it grew."""
    bounds, container = LogBounds(LIMIT), tracked()
    write(bounds, container, 1, LIMIT // 256 - 1)
    assert not bounds.dirty
    write(bounds, container, 2, 1)
    assert list(bounds.dirty) == [container.id]
    bounds.dirty.clear()
    write(bounds, container, 3, LIMIT // 256 - 1)
    assert not bounds.dirty
    write(bounds, container, 4, 1)
    assert list(bounds.dirty) == [container.id]
