"""What a reader counts."""

import pytest

from loadtests.bench.receivers import Reader, Tally
from loadtests.measure import now_us
from server.protocol.codec import encode
from server.protocol.error_codes import ErrorCode
from server.protocol.messages import Error, Gap, HeartbeatEcho, LiveEvent, Metrics, Sample, Snapshot

TOPIC, SECOND_US = "container:7", 1_000_000


async def made() -> tuple[Reader, Tally]:
    """A reader of one topic, while it is measured."""
    tally = Tally()
    reader = Reader([TOPIC], SECOND_US, tally)
    tally.measuring = True
    return reader, tally


def metrics(*times_us: int) -> LiveEvent:
    """Samples of the topic's container."""
    return Metrics(topic=TOPIC, samples=tuple(Sample(container="7", at=at) for at in times_us))


async def test_latency_is_from_the_sample_to_its_receipt() -> None:
    """A sample of 2 s ago counts 2 s, whenever the server sent it."""
    reader, tally = await made()
    reader.take(encode(metrics(now_us() - 2 * SECOND_US)))

    assert tally.deliveries == 1
    assert 2_000 <= tally.latency.statistics()["max"] < 60_000


async def test_it_is_told_by_the_servers_clock() -> None:
    """Where the server's clock is behind ours, a sample of its present is not old."""
    reader, tally = await made()
    sent = now_us()
    reader.take(encode(HeartbeatEcho(at=sent, server_time=sent - 1_000 * SECOND_US)))
    reader.take(encode(metrics(now_us() - 1_000 * SECOND_US)))

    assert tally.deliveries == 1
    assert tally.latency.statistics()["max"] < 60_000


async def test_only_new_samples_count_and_only_while_it_is_measured() -> None:
    """A snapshot is no delivery, nor is what came in it already; a time that goes back is a failure."""
    reader, tally = await made()
    base = now_us() - 10 * SECOND_US
    reader.take(encode(Snapshot(topic=TOPIC, at=base, samples=(Sample(container="7", at=base),))))
    reader.take(encode(metrics(base)))
    assert (tally.deliveries, tally.skipped) == (0, 0)
    tally.measuring = False
    reader.take(encode(metrics(base + SECOND_US)))
    assert tally.deliveries == 0
    tally.measuring = True
    reader.take(encode(metrics(base + 2 * SECOND_US)))
    reader.take(encode(metrics(base + SECOND_US)))

    assert (tally.deliveries, tally.failures) == (1, {"time_back": 1})


async def test_what_a_newer_sample_replaced_is_counted() -> None:
    """Two intervals without a sample are two that were skipped; a tick that came a little late is none."""
    reader, tally = await made()
    base = now_us() - 10 * SECOND_US
    reader.take(encode(metrics(base, base + SECOND_US + 300_000)))
    reader.take(encode(metrics(base + 4 * SECOND_US)))
    reader.take(encode(Gap(topic="logs:7", dropped=5)))

    assert (tally.skipped, tally.dropped_lines) == (2, 5)


async def test_a_refused_topic_is_an_error() -> None:
    """It says what the server answered, instead of waiting for a snapshot that never comes; bad frames are counted."""
    reader, tally = await made()
    reader.take(b"{}")
    reader.take(encode(Error(code=ErrorCode.NOT_FOUND, message="no such topic", fatal=False)))

    with pytest.raises(ConnectionError, match="not_found: no such topic"):
        await reader.answered
    assert tally.failures == {"bad_frame": 1, "error": 1}
