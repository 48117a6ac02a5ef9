"""What a simulated browser checks in the frames that it gets. Pure: no socket, no clock."""

from collections.abc import Iterable, Sequence

from loadtests.measure import ClockOffset
from loadtests.recorded import Measurements
from server.protocol.codec import FrameError, decode_live_event
from server.protocol.messages import (
    ContainerStatus,
    Error,
    Gap,
    HeartbeatEcho,
    HostChange,
    HostStatus,
    LogLine,
    Logs,
    Metrics,
    Sample,
    Snapshot,
    type_of,
)

SEEN_LINES = 50_000
"""Log lines remembered to recognise one that comes twice; past them the oldest is forgotten."""


class Watch:
    """One visit: what was asked for, and what has come."""

    def __init__(self, measurements: Measurements, clock: ClockOffset) -> None:
        self._measurements = measurements
        self._clock = clock
        self._host = self._container = ""
        self._containers: set[str] = set()
        self._unanswered: set[str] = set()
        self._newest: dict[tuple[str, str], int] = {}
        """Per topic and container: time of its newest sample."""
        self._lines: dict[tuple[int, int], None] = {}
        self.topics: tuple[str, ...] = ()
        self.echoes = 0

    def ask(self, host: str, container: str, containers: Iterable[str]) -> tuple[str, ...]:
        """The topics of a visit to `host` and one of its `containers`."""
        self._host, self._container, self._containers = host, container, set(containers)
        self.topics = ("fleet", f"host:{host}", f"container:{container}", f"logs:{container}")
        self._unanswered = set(self.topics)
        return self.topics

    def receive(self, frame: bytes, received_us: int) -> None:
        """Check one frame, and record it with what is wrong with it. `received_us`: our clock, Unix microseconds."""
        try:
            event = decode_live_event(frame)
        except FrameError as error:
            self._measurements.message("unreadable", len(frame))
            self._measurements.failure("bad_frame", str(error))
            return
        if isinstance(event, HeartbeatEcho):
            self.echoes += 1
            self._clock.echo(sent_us=event.at, server_us=event.server_time, received_us=received_us)
        elif isinstance(event, Error):
            self._measurements.failure("error", f"{event.code}: {event.message}")
            if event.about and event.about.topic:
                self._unanswered.discard(event.about.topic)
        elif event.topic not in self.topics:
            self._measurements.failure("foreign", f"{type_of(type(event))} of topic {event.topic}, not subscribed")
        latencies: list[int] = []
        now_us = received_us + self._clock.microseconds
        match event:
            case Snapshot():
                self._unanswered.discard(event.topic)
                self._hosts(event.topic, event.host, event.containers)
                self._samples(event.topic, event.samples)
                self._new_lines(event.topic, event.lines)
            case Metrics():
                latencies = [now_us - at for at in self._samples(event.topic, event.samples)]
            case Logs():
                latencies = [now_us - at for at in self._new_lines(event.topic, event.lines)]
            case HostChange():
                self._hosts(event.topic, event.host, event.upserts)
            case Gap():
                self._measurements.gap(event.dropped)
        self._measurements.message(type_of(type(event)), len(frame), latencies)

    def leave(self) -> None:
        """The visit ends: record what was asked for and never answered."""
        for topic in sorted(self._unanswered):
            self._measurements.failure("no_snapshot", topic)

    def _hosts(self, topic: str, host: HostStatus | None, containers: Sequence[ContainerStatus]) -> None:
        if host is not None and host.id != self._host:
            self._measurements.failure("foreign", f"host {host.id} in {topic}")
        for container in containers:
            if container.host == self._host:
                self._containers.add(container.id)
            else:
                self._measurements.failure("foreign", f"container {container.id} of host {container.host} in {topic}")

    def _samples(self, topic: str, samples: Sequence[Sample]) -> list[int]:
        """Times of the samples that are new."""
        allowed = self._containers if topic.startswith("host:") else {self._container}
        new = []
        for sample in samples:
            newest = self._newest.get((topic, sample.container), -1)
            if sample.container not in allowed:
                self._measurements.failure("foreign", f"container {sample.container} in {topic}")
            elif sample.at < newest:
                detail = f"container {sample.container} in {topic}: {sample.at} after {newest}"
                self._measurements.failure("time_back", detail)
            elif sample.at > newest:
                self._newest[topic, sample.container] = sample.at
                new.append(sample.at)
        return new

    def _new_lines(self, topic: str, lines: Sequence[LogLine]) -> list[int]:
        """Times of the lines that are new. The tail and what follows must meet without a line coming twice."""
        new = []
        for line in lines:
            key = (line.at, line.line)
            if key in self._lines:
                self._measurements.failure("duplicate_line", f"at {line.at} line {line.line} in {topic}")
                continue
            self._lines[key] = None
            new.append(line.at)
            if len(self._lines) > SEEN_LINES:
                del self._lines[next(iter(self._lines))]
        return new
