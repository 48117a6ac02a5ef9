"""Counters turned into rates, and a probe's book."""

from loadtests.probes.looks import Looks, Rates


def test_a_counter_that_fell_has_no_rate() -> None:
    """It was reset: the next look begins anew, and a rate is never negative and never a made-up zero."""
    rates = Rates()

    assert rates.take(1, {"a": 10, "b": 5}) == {}
    assert rates.take(3, {"a": 30, "b": 5}) == {"a": 10, "b": 0}
    assert rates.take(4, {"a": 2, "b": 6}) == {"b": 1}
    assert rates.take(5, {"a": 4, "b": 6}) == {"a": 2, "b": 0}


def test_a_hole_has_no_rate() -> None:
    """After a look in vain the first rate would be one over the hole."""
    rates = Rates()
    rates.take(1, {"a": 0})
    rates.forget()

    assert rates.take(9, {"a": 800}) == {}
    assert rates.take(10, {"a": 900}) == {"a": 100}


def test_a_look_in_vain_is_said() -> None:
    """Looks, failures and the newest error are kept, cut to a length."""
    looks = Looks(probe="p")
    looks.good()
    looks.failed(TimeoutError("x" * 900))

    assert (looks.looks, looks.failures) == (2, 1)
    assert looks.last_error.startswith("TimeoutError: xxx")
    assert len(looks.last_error) == 500
