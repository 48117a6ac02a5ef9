"""What simulated browsers check, frame by frame."""

from typing import Any

import pytest

from loadtests import received as received_module
from loadtests.measure import ClockOffset
from loadtests.recorded import ClockEstimate, Measurements, read_measurements
from loadtests.watch import Watch
from server.protocol.codec import encode
from server.protocol.messages import (
    About,
    ContainerStatus,
    Error,
    Gap,
    HeartbeatEcho,
    HostChange,
    HostStatus,
    LiveEvent,
    LogLine,
    Logs,
    Metrics,
    Sample,
    Snapshot,
)

NOW_US = 1_800_000_000_000_000
HOST = HostStatus(id="h", hostname="h", online=True, last_seen=1)


class Visit:
    """A watch on host `h` with containers 1 and 2, looking at 1; it keeps what Locust would be told."""

    def __init__(self, *, one_clock: bool = False) -> None:
        self.fired: list[dict[str, Any]] = []
        self.measurements = Measurements(lambda **told: self.fired.append(told), one_clock=one_clock)
        self.watch = Watch(self.measurements, ClockOffset())
        topics = ("fleet", "host:h", "container:1", "logs:1")
        self.topics = self.watch.ask(topics, {"h": ["1", "2"]})

    def get(self, *events: LiveEvent) -> "Visit":
        """Receive events at `NOW_US`."""
        for event in events:
            self.watch.receive(encode(event), NOW_US)
        return self

    @property
    def failures(self) -> list[str]:
        """Kinds of the failures that Locust was told."""
        return [told["name"] for told in self.fired if told["exception"]]


def sample(container: str, at: int) -> Sample:
    """A sample of a container."""
    return Sample(container=container, at=at)


def line(at: int, number: int = 0) -> LogLine:
    """A log line."""
    return LogLine(at=at, line=number, stream="stdout", text="x")


def container(number: str, host: str = "h") -> ContainerStatus:
    """A container of a host."""
    return ContainerStatus(id=number, host=host, docker_id="0", name="n", series="n", image="i", state="running")


def test_latency_is_from_the_samples_own_time() -> None:
    """Locust gets the longest latency of a message in milliseconds, and snapshots have none."""
    visit = Visit().get(
        Snapshot(topic="container:1", at=NOW_US, samples=(sample("1", NOW_US - 900_000),)),
        Metrics(topic="host:h", samples=(sample("1", NOW_US - 4_000), sample("2", NOW_US - 70_000))),
        Logs(topic="logs:1", lines=(line(NOW_US - 12_500),)),
    )

    assert [(told["name"], told["response_time"]) for told in visit.fired] == [
        ("snapshot", None), ("metrics", 70.0), ("logs", 12.5),
    ]  # fmt: skip


def test_latency_is_in_the_servers_time() -> None:
    """An offset of the clocks, learnt from an echo, is taken out."""
    visit = Visit().get(
        HeartbeatEcho(at=NOW_US - 2_000, server_time=NOW_US + 3_599_000),
        Metrics(topic="container:1", samples=(sample("1", NOW_US + 3_500_000),)),
    )

    assert visit.watch.echoed_us == NOW_US - 2_000
    assert visit.fired[-1]["response_time"] == 100.0


def test_where_agents_share_the_browsers_clock_the_servers_does_not_matter() -> None:
    """A server that is an hour ahead, or behind, moves no latency; its offset is told."""
    for offset_us in 3_600_000_000, -3_600_000_000:
        visit = Visit(one_clock=True).get(
            HeartbeatEcho(at=NOW_US - 2_000, server_time=NOW_US - 1_000 + offset_us),
            Metrics(topic="container:1", samples=(sample("1", NOW_US - 100_000),)),
            Logs(topic="logs:1", lines=(line(NOW_US - 30_000),)),
        )

        assert [told["response_time"] for told in visit.fired[-2:]] == [100.0, 30.0]
        assert visit.measurements._recorded.clock == ClockEstimate(offset_us=offset_us, error_us=1_000)


def test_the_same_sample_counts_once() -> None:
    """A sample that the snapshot had already is neither a failure nor a latency."""
    same = sample("1", NOW_US - 5)
    visit = Visit().get(
        Snapshot(topic="container:1", at=NOW_US, samples=(same,)), Metrics(topic="container:1", samples=(same,))
    )

    assert visit.failures == []
    assert visit.fired[-1]["response_time"] is None


def test_time_going_back_is_a_failure() -> None:
    """An older sample of a container is a failure; another topic or container has a time of its own."""
    visit = Visit().get(
        Metrics(topic="host:h", samples=(sample("1", 100), sample("2", 50))),
        Metrics(topic="container:1", samples=(sample("1", 90),)),
    )
    assert visit.failures == []

    assert visit.get(Metrics(topic="host:h", samples=(sample("1", 99),))).failures == ["time_back"]


def test_tail_and_live_lines_meet_without_a_duplicate() -> None:
    """A line of the tail that comes again is a failure; the same time with another ordinal is another line."""
    visit = Visit().get(
        Snapshot(topic="logs:1", at=NOW_US, lines=(line(1), line(2))), Logs(topic="logs:1", lines=(line(2, 1), line(3)))
    )
    assert visit.failures == []

    assert visit.get(Logs(topic="logs:1", lines=(line(2, 1),))).failures == ["duplicate_line"]


def test_the_memory_of_lines_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound the oldest line is forgotten, and the newest still known."""
    monkeypatch.setattr(received_module, "SEEN_LINES", 3)
    visit = Visit().get(Logs(topic="logs:1", lines=tuple(line(at) for at in range(1, 6))))

    assert visit.get(Logs(topic="logs:1", lines=(line(1),))).failures == []
    assert visit.get(Logs(topic="logs:1", lines=(line(5),))).failures == ["duplicate_line"]


@pytest.mark.parametrize(
    "event",
    [
        Metrics(topic="container:2", samples=()),
        Metrics(topic="host:h", samples=(sample("3", 1),)),
        Metrics(topic="container:1", samples=(sample("2", 1),)),
        Snapshot(topic="host:h", at=1, host=HostStatus(id="other", hostname="o", online=True, last_seen=1)),
        Snapshot(topic="host:h", at=1, containers=(container("9", "other"),)),
        Snapshot(topic="container:1", at=1, containers=(container("2"),)),
        HostChange(topic="host:h", host=HOST, upserts=(container("9", "other"),)),
        Gap(topic="logs:2", dropped=1),
    ],
    ids=["topic", "sample in host", "sample in container", "host", "container", "another container", "upsert", "gap"],
)
def test_what_was_not_asked_for_is_foreign(event: LiveEvent) -> None:
    """Another topic, host or container than the visit's is counted as a leak."""
    assert Visit().get(event).failures == ["foreign"]


def test_a_container_that_joins_the_host_is_not_foreign() -> None:
    """Samples of a container are welcome once the host announced it."""
    visit = Visit().get(
        HostChange(topic="host:h", host=HOST, upserts=(container("3"),)),
        Metrics(topic="host:h", samples=(sample("3", 1),)),
    )

    assert visit.failures == []


def test_a_frame_of_wrong_shape_is_a_failure() -> None:
    """What is no message of the protocol is counted, as a message and as a failure."""
    visit = Visit()
    for frame in (b"{", b"[]", b'{"type":"nonsense"}', b'{"type":"gap","topic":"logs:1","dropped":0}'):
        visit.watch.receive(frame, NOW_US)

    assert visit.failures == ["bad_frame"] * 4


def test_a_topic_without_an_answer_is_a_failure() -> None:
    """Each topic is answered by a snapshot or an error; what is missing at the end is told."""
    visit = Visit().get(
        *(Snapshot(topic=topic, at=1) for topic in ("fleet", "container:1")),
        Error(code="not_found", message="no", fatal=False, about=About(topic="host:h")),
    )
    visit.watch.end()

    assert visit.failures == ["error", "no_snapshot"]


def echo(sent_us: int) -> HeartbeatEcho:
    """The answer to a heartbeat."""
    return HeartbeatEcho(at=sent_us, server_time=sent_us)


def test_a_topic_may_go_on_until_the_server_knows_that_it_was_left() -> None:
    """What was under way when a topic was left is no leak; what comes after the next echo is."""
    visit = Visit()
    last = Metrics(topic="container:1", samples=())
    visit.watch.leave(["container:1"], NOW_US)
    assert visit.get(Snapshot(topic="container:1", at=1), last, echo(NOW_US - 1), last).failures == []

    assert visit.get(echo(NOW_US), last).failures == ["foreign"]


def test_a_topic_that_was_left_without_an_answer_is_a_failure() -> None:
    """The echo comes after every answer that was asked for before."""
    visit = Visit()
    visit.watch.leave(["container:1"], NOW_US)

    assert visit.get(echo(NOW_US)).failures == ["no_snapshot"]


def test_a_paused_topic_must_not_go_on() -> None:
    """Once the server knows, nothing comes until it is resumed, and then a snapshot."""
    visit = Visit()
    metrics = Metrics(topic="container:1", samples=())
    visit.watch.pause(["container:1"], NOW_US)
    assert visit.get(metrics).failures == []
    assert visit.get(echo(NOW_US), metrics).failures == ["not_paused"]

    visit.watch.resume(["container:1"])
    assert visit.get(Snapshot(topic="container:1", at=1), metrics).failures == ["not_paused"]


def test_a_log_that_is_read_again_repeats_only_what_was_asked_for() -> None:
    """Lines behind the place may come once more, in the next snapshot alone."""
    visit = Visit().get(Logs(topic="logs:1", lines=(line(1), line(2), line(3))))
    visit.watch.resume(["logs:1"], since=(2, 0))
    again = Snapshot(topic="logs:1", at=NOW_US, lines=(line(3), line(4)))
    assert visit.get(again).failures == []

    assert visit.get(Logs(topic="logs:1", lines=(line(3),))).failures == ["duplicate_line"]


def test_the_best_heartbeat_tells_the_clock() -> None:
    """The shortest round trip has the least room for error; both are recorded."""
    visit = Visit().get(
        HeartbeatEcho(at=NOW_US - 50_000, server_time=NOW_US),
        HeartbeatEcho(at=NOW_US - 2_000, server_time=NOW_US + 4_000),
    )

    assert visit.measurements._recorded.clock == ClockEstimate(offset_us=5_000, error_us=1_000)


def test_everything_is_in_the_file(tmp_path: Any) -> None:
    """Messages, gaps, dropped lines, foreign frames, failures by kind and closes by code are written."""
    visit = Visit().get(Gap(topic="logs:1", dropped=7), Metrics(topic="container:9", samples=()))
    visit.measurements.visit()
    visit.measurements.closed(4008, "slow")
    visit.measurements.write(tmp_path / "m.json")
    recorded = read_measurements(tmp_path / "m.json")

    assert (recorded.visits, recorded.messages, recorded.gaps, recorded.dropped_lines) == (1, 2, 1, 7)
    assert recorded.foreign == 1
    assert recorded.failures == {"foreign": 1, "closed": 1}
    assert recorded.first_failures == {
        "foreign": "metrics of topic container:9, not subscribed", "closed": "4008 slow",
    }  # fmt: skip
    assert recorded.closes == {"4008": 1}
