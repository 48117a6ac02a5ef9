"""The back-off table, with chance taken out."""

import pytest

from simulator.backoff import Backoff


def lowest() -> float:
    """The luckiest chance."""
    return 0.0


def highest() -> float:
    """As unlucky as it gets, nearly."""
    return 1.0


def close(
    backoff: Backoff, code: int, seconds: float = 1.0, drain: float | None = None, *, by_peer: bool = True
) -> float | None:
    """The pause after a close."""
    return backoff.after_close(code, by_peer=by_peer, connected_seconds=seconds, drain_seconds=drain)


def test_pauses_double_up_to_a_minute() -> None:
    """The spread is 1, 2, 4 ... 60 s above half a second."""
    backoff = Backoff(highest)

    assert [backoff.after_refusal(None) for _ in range(9)] == [1.5, 2.5, 4.5, 8.5, 16.5, 32.5, 60.5, 60.5, 60.5]


def test_no_pause_is_shorter_than_half_a_second() -> None:
    """Even by chance nothing is dialled at once."""
    assert [Backoff(lowest).after_refusal(status) for status in (None, 400, 500, 502)] == [0.5] * 4


def test_only_a_steady_connection_clears_the_record() -> None:
    """A server that closes right after accepting is not dialled in a hot loop; a minute's connection starts anew."""
    backoff = Backoff(highest)

    assert [close(backoff, 1006, 59.9) for _ in range(3)] == [1.5, 2.5, 4.5]
    assert close(backoff, 1006, 60.0) == 1.5


@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_server_is_spared(status: int) -> None:
    """429 and 503 pause as long as Retry-After says and up to a second more, at most an hour; without it 30 to 60 s."""
    assert Backoff(lowest).after_refusal(status) == 30.0
    assert Backoff(highest).after_refusal(status) == 60.0
    assert Backoff(lowest).after_refusal(status, 5.0) == 5.0
    assert Backoff(highest).after_refusal(status, 120.0) == 121.0
    assert Backoff(lowest).after_refusal(status, 1e9) == 3600.0


def test_try_again_later_is_an_overload_too() -> None:
    """1013 pauses 30 s at least."""
    assert close(Backoff(lowest), 1013) == 30.0


@pytest.mark.parametrize("code", [4500, 4501, 4503, 4504, 4507, 4509, 4510, 4999])
def test_refusals_for_good_pause_for_minutes(code: int) -> None:
    """45xx pauses 5 to 10 minutes; so do 401 and 403; a flag may shorten it."""
    assert close(Backoff(lowest), code) == 300.0
    assert close(Backoff(highest), code) == 600.0
    assert Backoff(lowest).after_refusal(401) == Backoff(lowest).after_refusal(403) == 300.0
    assert close(Backoff(highest, (1.0, 2.0)), code) == 2.0


def test_a_drain_spreads_the_return() -> None:
    """After 1012, or any close after `drain`, the pause is random(0, W); W is the server's, or 10 s."""
    assert close(Backoff(lowest), 1012, drain=33.0) == 0.0
    assert close(Backoff(highest), 1012, drain=33.0) == 33.0
    assert close(Backoff(highest), 1012) == 10.0
    assert close(Backoff(highest), 1006, drain=33.0, by_peer=False) == 33.0


def test_a_drain_does_not_soften_a_refusal() -> None:
    """A close for good stays one, also after `drain`."""
    assert close(Backoff(lowest), 4503, drain=33.0) == 300.0


def test_an_expired_token_is_renewed_at_once_but_once() -> None:
    """4001 dials at once; a second one backs off, until a connection was steady."""
    backoff = Backoff(highest)

    assert close(backoff, 4001) == 0.0
    assert close(backoff, 4001) == 1.5
    assert close(backoff, 4001, 61.0) == 0.0


def test_done_means_done() -> None:
    """1000 from the server ends it; from ourselves it is a failure like any other."""
    assert close(Backoff(lowest), 1000) is None
    assert close(Backoff(lowest), 1000, by_peer=False) == 0.5


@pytest.mark.parametrize("code", [1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 4002, 4003, 4004, 4008, 4013])
def test_everything_else_comes_back_with_growing_pauses(code: int) -> None:
    """Codes below 4500 lead to the ordinary back-off."""
    backoff = Backoff(highest)

    assert [close(backoff, code), close(backoff, code)] == [1.5, 2.5]
