"""The estimate of the server's clock."""

from simulator.clock_offset import ClockOffset


def test_half_the_round_trip_is_allowed_for() -> None:
    """A server 1000 us ahead that answers in the middle of 200 us is 1000 us ahead."""
    offset = ClockOffset()
    offset.take(sent_us=5000, server_time_us=6100, received_us=5200)

    assert (offset.server_ahead_us, offset.round_trip_us) == (1000, 200)


def test_the_shortest_round_trip_counts() -> None:
    """A slower answer later does not spoil a better estimate; a quicker one improves it."""
    offset = ClockOffset()
    offset.take(0, 1000, 100)
    offset.take(10_000, 99_000, 20_000)
    assert offset.server_ahead_us == 950

    offset.take(30_000, 30_810, 30_020)
    assert (offset.server_ahead_us, offset.round_trip_us) == (800, 20)


def test_an_answer_to_the_future_is_left_out() -> None:
    """A strange server's echo of a time that has not come changes nothing."""
    offset = ClockOffset()
    offset.take(sent_us=900, server_time_us=5, received_us=100)

    assert (offset.server_ahead_us, offset.round_trip_us) == (0, None)
