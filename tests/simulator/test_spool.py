"""What an agent holds: in order, bounded, and every loss declared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocol.messages import Window
from simulator.spool import DroppedRange, Spool

WIDE = Window(batches=1000, bytes=10**9)


def spool_of(*sizes: int, max_bytes: int = 10**9, max_ticks: int = 10**9) -> Spool:
    """A spool with a batch per size, at the ticks 0, 1, 2 ..."""
    spool = Spool(max_bytes, max_ticks)
    for tick, size in enumerate(sizes):
        spool.add(tick, size)
    return spool


def send_all(spool: Spool, window: Window = WIDE, size: int = 10) -> list[int]:
    """Send what fits."""
    sent = []
    while (seq := spool.next_to_send()) is not None and spool.fits(size, window):
        spool.on_its_way(size)
        sent.append(seq)
    return sent


def test_an_empty_spool_has_oldest_equal_to_next() -> None:
    """Before the first batch and after the last ack `first` is `next_seq`."""
    spool = spool_of(10, 10)
    fresh = Spool(1, 1)
    send_all(spool)
    spool.ack(2)

    assert fresh.first == fresh.next_seq == 1
    assert spool.first == spool.next_seq == 3


def test_seqs_count_from_one_and_go_in_order() -> None:
    """Batches are sent as they were produced, once per connection."""
    spool = spool_of(10, 10, 10)

    assert send_all(spool) == [1, 2, 3]
    assert send_all(spool) == []


def test_the_window_counts_batches() -> None:
    """Only so many batches are on their way; an ack makes room."""
    spool = spool_of(*[10] * 5)
    window = Window(batches=2, bytes=10**9)

    assert send_all(spool, window) == [1, 2]
    assert spool.ack(1) == [0]
    assert send_all(spool, window) == [3]


def test_the_window_counts_bytes() -> None:
    """The bytes on their way never pass the window, and exactly filling it is allowed."""
    spool = spool_of(*[10] * 5)
    window = Window(batches=100, bytes=30)

    assert send_all(spool, window) == [1, 2, 3]
    assert not spool.fits(1, window)
    spool.ack(2)
    assert spool.fits(20, window)
    assert not spool.fits(21, window)


def test_one_batch_may_always_be_on_its_way() -> None:
    """A frame larger than the window goes when nothing else is on its way, and the next one after its ack."""
    spool = spool_of(*[50] * 2)
    window = Window(batches=2, bytes=30)

    assert spool.next_to_send() == 1
    assert spool.fits(50, window)
    spool.on_its_way(50)
    assert not spool.fits(1, window)
    spool.ack(1)
    assert spool.fits(50, window)


def test_a_window_that_shrank_stops_sending() -> None:
    """More on its way than the window allows: nothing goes until enough is acknowledged."""
    spool = spool_of(*[10] * 6)
    send_all(spool, Window(batches=5, bytes=10**9))
    small = Window(batches=2, bytes=10**9)

    spool.ack(3)
    assert send_all(spool, small) == []
    spool.ack(4)
    assert send_all(spool, small) == [6]


def test_a_new_connection_sends_everything_held_again() -> None:
    """After a cut the lowest batch held comes first, and what goes twice is told apart."""
    spool = spool_of(*[10] * 4)
    send_all(spool, Window(batches=3, bytes=10**9))
    spool.ack(1)
    spool.reconnected()
    again = []
    while spool.next_to_send() is not None:
        again.append((spool.next_to_send(), spool.on_its_way(10)))

    assert again == [(2, True), (3, True), (4, False)]


def test_too_many_bytes_drop_the_oldest() -> None:
    """Past its bytes the spool drops from the old end and says which."""
    spool = spool_of(*[10] * 5, max_bytes=30)

    assert spool.first == 3
    assert spool.take_dropped() == [DroppedRange(1, 2, 0)]
    assert spool.take_dropped() == []
    assert send_all(spool) == [3, 4, 5]


def test_too_old_batches_are_dropped() -> None:
    """Past its age in ticks a batch goes."""
    spool = spool_of(*[10] * 10, max_ticks=3)

    assert spool.first == 7
    assert spool.take_dropped() == [DroppedRange(1, 6, 0)]


def test_the_newest_batch_always_stays() -> None:
    """A single batch larger than the spool is held nevertheless."""
    spool = spool_of(10, 100, max_bytes=50)

    assert (spool.first, len(spool)) == (2, 1)


def test_a_drop_tells_what_had_been_sent() -> None:
    """Of a dropped range those that were sent before may be stored: the range says up to where."""
    spool = spool_of(10, 10)
    send_all(spool)
    spool.add(2, 10)
    spool._max_bytes = 10
    spool.add(3, 10)

    assert spool.take_dropped() == [DroppedRange(1, 3, 2)]


def test_dropped_batches_count_in_the_window_until_acknowledged() -> None:
    """The server still holds what was dropped on its way: it frees no room."""
    spool = spool_of(10, 10, max_bytes=20)
    window = Window(batches=2, bytes=10**9)
    send_all(spool, window)
    spool.add(2, 10)

    assert spool.first == 2
    assert send_all(spool, window) == []
    spool.ack(1)
    assert send_all(spool, window) == [3]


def test_an_ack_frees_bytes() -> None:
    """Acknowledged batches count no more against the bound."""
    spool = spool_of(10, 10, 10, max_bytes=30)
    send_all(spool)
    spool.ack(2)
    spool.add(3, 10)
    spool.add(4, 10)

    assert spool.take_dropped() == []
    assert spool.ack(3) == [2]


def test_a_refused_batch_goes_when_those_before_it_are_settled() -> None:
    """A batch in the middle that must not be sent again stays until it is the oldest, and holds back those after it."""
    spool = spool_of(*[10] * 4)
    send_all(spool, Window(batches=3, bytes=10**9))
    spool.poison(2)
    assert spool.take_dropped() == []

    spool.reconnected()
    assert send_all(spool) == [1]
    spool.ack(1)
    assert spool.take_dropped() == [DroppedRange(2, 2, 2)]
    assert send_all(spool) == [3, 4]


def test_refusing_what_is_not_held_changes_nothing() -> None:
    """Seqs that were acknowledged or never produced cannot be refused."""
    spool = spool_of(10, 10)
    send_all(spool)
    spool.ack(1)
    spool.poison(1)
    spool.poison(99)
    spool.add(2, 10)

    assert spool.take_dropped() == []
    assert send_all(spool) == [3]


def test_the_largest_on_its_way_is_known() -> None:
    """Of what this connection sent and has no ack for, the largest is named."""
    spool = spool_of(1, 1, 1)
    for size in (5, 9, 7):
        spool.on_its_way(size)

    assert spool.largest_on_its_way() == 2
    spool.ack(2)
    assert spool.largest_on_its_way() == 3
    spool.ack(3)
    assert spool.largest_on_its_way() is None


@given(st.lists(st.sampled_from(["add", "send", "ack", "cut", "poison"]), max_size=120), st.integers(1, 60))
def test_every_batch_is_held_acked_or_declared(steps: list[str], max_bytes: int) -> None:
    """Whatever happens: seqs never go back, and each batch is acknowledged, dropped by name, or held."""
    spool = Spool(max_bytes, 10**9)
    window = Window(batches=4, bytes=10**9)
    settled: set[int] = set()
    dropped: set[int] = set()
    for tick, step in enumerate(steps):
        if step == "add":
            spool.add(tick, 10)
        elif step == "send":
            sent = send_all(spool, window)
            assert sent == sorted(sent)
            assert not dropped & set(sent)
        elif step == "ack" and spool.sent > spool.acked:
            upto = (spool.acked + spool.sent + 1) // 2
            first = spool.first
            count = len(spool.ack(upto))
            settled |= set(range(first, first + count))
        elif step == "cut":
            spool.reconnected()
        elif step == "poison" and spool.sent:
            spool.poison(spool.sent)
        for gone in spool.take_dropped():
            assert gone.first <= gone.last
            assert gone.first - 1 <= gone.sent <= gone.last
            dropped |= set(range(gone.first, gone.last + 1))
        assert spool.first <= spool.next_seq <= spool.produced + 1
        held = set(range(spool.first, spool.produced + 1))
        assert settled | dropped | held == set(range(1, spool.produced + 1))
        assert len(settled) + len(dropped) + len(held) == spool.produced
        assert len(spool) == len(held)


@pytest.mark.parametrize("count", [1, 5])
def test_ticks_of_held_batches_are_known(count: int) -> None:
    """The tick of a batch is found by its seq, also after the first ones went."""
    spool = Spool(10**9, 10**9)
    for tick in (10, 11, 20, 21, 22, 23):
        spool.add(tick, 1)
    send_all(spool)
    spool.ack(count)

    assert spool.tick_of(6) == 23
