"""What makes a half with stalled neighbours worth nothing."""

import pytest

from loadtests.bench.receivers_plan import Received
from loadtests.bench.stall_check import stall_failures


def received(stalls: int, **ends: int) -> Received:
    """What was received beside so many stalls, and how those ended: `c4008` stands for the code 4008."""
    return Received(
        seconds=1.0, cpu_seconds=0.1, latency="", lag="", deliveries=1, skipped=0, dropped_lines=0, failures={},
        reader_closes={}, stalls=stalls, stall_ends={end.removeprefix("c"): count for end, count in ends.items()},
    )  # fmt: skip


@pytest.mark.parametrize("ends", [{}, {"c4008": 3}, {"c1006": 9, "open": 1}])
def test_stalls_that_the_server_gave_up_stand(ends: dict[str, int]) -> None:
    """By its own close or by an end; one in ten may be late."""
    assert stall_failures(received(5, **ends), 4.0, "pair 1") == []


@pytest.mark.parametrize(
    ("found", "closed", "why"),
    [
        (received(0), 0.0, "pair 1: no neighbour stopped reading"),
        (received(5), 0.0, "pair 1: the server closed no stalled neighbour with 4008"),
        (
            received(5, c4008=5, open=1), 4.0,
            "pair 1: of 6 stalls too many did not end with the server giving up: open 1",
        ),
        (
            received(5, c1011=1, refused=2), 4.0,
            "pair 1: of 3 stalls too many did not end with the server giving up: 1011 1, refused 2",
        ),
    ],
)  # fmt: skip
def test_stalls_that_were_none_are_told(found: Received, closed: float, why: str) -> None:
    """Nobody stopped reading, nobody was closed for it, or the neighbours stood through it or never came back."""
    assert stall_failures(found, closed, "pair 1") == [why]
