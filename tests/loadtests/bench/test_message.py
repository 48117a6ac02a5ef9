"""Whether the three servers of `bench message` had the same load."""

from loadtests.bench.driver_plan import Driven
from loadtests.bench.message import failures
from loadtests.measure import Latency


def driven(late_ms: float, answered: int) -> Driven:
    """A round of a second in which 3,000 batches were sent."""
    lag = Latency()
    lag.record_us(round(late_ms * 1000))
    return Driven(seconds=1.0, sent=3_000, answered=answered, cpu_seconds=0.1, lag=lag.encode())


def test_an_equal_load_stands() -> None:
    """A driver in time, and nearly everything answered: acks of the last flush are still on their way."""
    assert failures({"seatrial": [driven(2, 2_900)], "picows echo": [driven(40, 3_000)]}, 3_000) == []


def test_an_unequal_load_is_told() -> None:
    """By server and round: a driver that was late, a server that did not answer."""
    found = {"seatrial": [driven(2, 3_000), driven(2, 2_000)], "uvicorn echo": [driven(80, 3_000)]}

    told = failures(found, 3_000)

    assert told[0] == "seatrial, round 2: 2000 of 3000 messages/s were answered"
    assert told[1].startswith("uvicorn echo, round 1: the driver was 80 ms late at p99")
    assert len(told) == 2
