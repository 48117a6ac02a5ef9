"""What a simulated browser checks in the frames that it gets. Pure: no socket, no clock."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from loadtests.measure import ClockOffset
from loadtests.received import Place, Received
from loadtests.recorded import Measurements
from loadtests.tenants import ALONE, Tenant
from server.protocol.codec import FrameError, decode_live_event
from server.protocol.error_codes import ErrorCode
from server.protocol.messages import (
    ActionChange,
    ActionStatus,
    ContainerStatus,
    Error,
    FleetSummary,
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

REFUSALS = frozenset({ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN})
"""Codes of an error that say that a topic is not for us. Any other says that the server did not look."""


class Trespassed(NamedTuple):
    """What became of topics that must be refused."""

    refused: tuple[str, ...]
    unproven: tuple[str, ...]
    """Answered with another error."""
    open: tuple[str, ...]
    """Answered with no error at all."""


class Watch:
    """One connection: what was asked for, and what has come.

    A change that the browser asks for is known to hold once a heartbeat is echoed that was sent after it: the server
    answers in order.

    Args:
        measurements: told of every message, and of what is wrong with it.
        clock: learns from echoes.
        received: gets what came of the logs and containers watched; a browser that connects again keeps it.
        slow: whether the browser is slow on purpose.
        tenant: the browser's organisation.
    """

    def __init__(
        self, measurements: Measurements, clock: ClockOffset, received: Received | None = None, *,
        slow: bool = False, tenant: Tenant = ALONE,
    ) -> None:  # fmt: skip
        self._measurements = measurements
        self._clock = clock
        self.received = received or Received()
        self._slow = slow
        self._tenant = tenant
        self._containers: dict[str, set[str]] = {}
        """Of each host that may be shown."""
        self._unanswered: set[str] = set()
        self._leaving: dict[str, int] = {}
        """Topics that were unsubscribed, and when: what was under way may still come."""
        self._pausing: dict[str, int] = {}
        self._paused: set[str] = set()
        self._read_again: dict[str, Place] = {}
        """Logs whose next snapshot begins behind a place."""
        self._forbidden: dict[str, str] = {}
        """Topics of others that were asked for, and the code of the error that came; empty: none yet."""
        self._newest: dict[tuple[str, str], int] = {}
        """Per topic and container: time of its newest sample."""
        self.topics: set[str] = set()
        self.echoed_us = 0
        """When the last heartbeat was sent whose echo came, by our clock."""

    def ask(self, topics: Iterable[str], hosts: Mapping[str, Collection[str]] = {}) -> tuple[str, ...]:
        """Subscribe to topics; `hosts` are those that may be shown now, with the containers known of them."""
        asked = tuple(topics)
        self.topics.update(asked)
        self._unanswered.update(asked)
        for topic in asked:
            self._leaving.pop(topic, None)
        for host, containers in hosts.items():
            self._containers.setdefault(host, set()).update(containers)
        return asked

    def expect_refusals(self, topics: Iterable[str]) -> tuple[str, ...]:
        """Ask for topics that must be refused. Whatever comes of them but an error is foreign."""
        asked = tuple(topics)
        self._forbidden.update(dict.fromkeys(asked, ""))
        return asked

    def trespassed(self) -> Trespassed:
        """What became of them; asked after the echo of a heartbeat. They are forgotten."""
        told, self._forbidden = self._forbidden, {}
        return Trespassed(
            refused=tuple(topic for topic, code in told.items() if code in REFUSALS),
            unproven=tuple(topic for topic, code in told.items() if code and code not in REFUSALS),
            open=tuple(topic for topic, code in told.items() if not code),
        )

    def leave(self, topics: Iterable[str], at_us: int) -> tuple[str, ...]:
        """Unsubscribe from topics, at a time by our clock."""
        left = tuple(topics)
        for topic in left:
            self.topics.discard(topic)
            self._leaving[topic] = at_us
        return left

    def pause(self, topics: Iterable[str], at_us: int) -> tuple[str, ...]:
        """Pause topics, at a time by our clock."""
        paused = tuple(topics)
        self._pausing.update(dict.fromkeys(paused, at_us))
        return paused

    def resume(self, topics: Iterable[str], since: Place | None = None) -> tuple[str, ...]:
        """Go on with topics; a log is read again from behind `since`, and what came from there before comes once more."""
        resumed = tuple(topics)
        for topic in resumed:
            self._pausing.pop(topic, None)
            self._paused.discard(topic)
            self._unanswered.add(topic)
            if since is not None:
                self._read_again[topic] = since
        return resumed

    def end(self) -> None:
        """The connection ends, after the echo of a heartbeat: record what was asked for and never answered."""
        self._tell_unanswered(set(self._unanswered))

    def receive(self, frame: bytes, received_us: int) -> None:
        """Check one frame, and record it with what is wrong with it. `received_us`: our clock, Unix microseconds."""
        try:
            event = decode_live_event(frame)
        except FrameError as error:
            self._measurements.message("unreadable", len(frame), slow=self._slow)
            self._measurements.failure("bad_frame", str(error))
            return
        if isinstance(event, HeartbeatEcho):
            self._echo(event, received_us)
        elif isinstance(event, Error) and event.about and event.about.topic in self._forbidden:
            self._forbidden[event.about.topic] = event.code
        elif isinstance(event, Error):
            self._measurements.failure("error", f"{event.code}: {event.message}")
            if event.about and event.about.topic:
                self._unanswered.discard(event.about.topic)
        elif event.topic not in self.topics and event.topic not in self._leaving:
            self._measurements.failure("foreign", f"{type_of(type(event))} of topic {event.topic}, not subscribed")
        elif event.topic in self._paused and not isinstance(event, Gap):
            self._measurements.failure("not_paused", f"{type_of(type(event))} of topic {event.topic}")
        latencies: list[int] = []
        # Times of samples and lines are the agents': those of another clock are taken for the server's.
        now_us = received_us + (0 if self._measurements.one_clock else self._clock.microseconds)
        match event:
            case Snapshot():
                self._snapshot(event)
            case Metrics():
                latencies = [now_us - at for at in self._samples(event.topic, event.samples)]
            case Logs():
                latencies = [now_us - at for at in self._new_lines(event.topic, event.lines)]
            case HostChange():
                self._hosts(event.topic, event.host, event.upserts)
            case ActionChange():
                self._actions(event.topic, (event.action,))
            case Gap():
                self._measurements.gap(event.dropped, of_lines=event.topic.startswith("logs:"))
                self.received.gap(event.topic, event.dropped)
        self._measurements.message(type_of(type(event)), len(frame), latencies, slow=self._slow)

    def _snapshot(self, event: Snapshot) -> None:
        self._unanswered.discard(event.topic)
        if not event.topic.startswith("logs:"):  # a log goes on over connections
            self.received.begun(event.topic)
        self._fleet(event.topic, event.fleet)
        self._actions(event.topic, event.actions)
        self._hosts(event.topic, event.host, event.containers)
        self._samples(event.topic, event.samples)
        self._new_lines(event.topic, event.lines, self._read_again.pop(event.topic, None))

    def _echo(self, echo: HeartbeatEcho, received_us: int) -> None:
        told = self._clock.echo(sent_us=echo.at, server_us=echo.server_time, received_us=received_us)
        if not self._slow:
            self._measurements.clock(*told)
        self.echoed_us = max(self.echoed_us, echo.at)
        left = {topic for topic, at_us in self._leaving.items() if at_us <= echo.at}
        self._tell_unanswered(left)
        for topic in left:
            del self._leaving[topic]
        settled = {topic for topic, at_us in self._pausing.items() if at_us <= echo.at}
        self._paused |= settled
        for topic in settled:
            del self._pausing[topic]

    def _tell_unanswered(self, topics: set[str]) -> None:
        for topic in sorted(topics & self._unanswered):
            self._measurements.failure("no_snapshot", topic)
        self._unanswered -= topics

    def _fleet(self, topic: str, fleet: FleetSummary | None) -> None:
        """A summary has no names: more hosts than the organisation has are another's."""
        if fleet is not None and self._tenant.too_many(hosts := fleet.hosts_online + fleet.hosts_offline):
            self._measurements.failure("foreign", f"{hosts} hosts in {topic} of {self._tenant.org}")

    def _actions(self, topic: str, actions: Sequence[ActionStatus]) -> None:
        for action in actions:
            if topic != "actions" or not self._tenant.owns(action.host):
                self._measurements.failure("foreign", f"action {action.action_id} of host {action.host} in {topic}")

    def _hosts(self, topic: str, host: HostStatus | None, containers: Sequence[ContainerStatus]) -> None:
        if host is not None and (host.id not in self._containers or topic != f"host:{host.id}"):
            self._measurements.failure("foreign", f"host {host.id} in {topic}")
        for container in containers:
            if container.host not in self._containers:
                self._measurements.failure("foreign", f"container {container.id} of host {container.host} in {topic}")
            elif topic in {f"host:{container.host}", f"container:{container.id}"}:
                self._containers[container.host].add(container.id)
            else:
                self._measurements.failure("foreign", f"container {container.id} in {topic}")

    def _samples(self, topic: str, samples: Sequence[Sample]) -> list[int]:
        """Times of the samples that are new."""
        kind, _, name = topic.partition(":")
        allowed = self._containers.get(name, set()) if kind == "host" else {name}
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
                if not self._slow or kind == "container":  # what a slow browser watches of hosts is too much to keep
                    self.received.sample(topic, sample.container, sample.at)
        return new

    def _new_lines(self, topic: str, lines: Sequence[LogLine], again: Place | None = None) -> list[int]:
        """Times of the lines that are new. The tail and what follows must meet without a line coming twice.

        Lines behind `again` were asked for once more.
        """
        new = []
        for line in lines:
            place = (line.at, line.line)
            if self.received.line(topic, place):
                new.append(line.at)
            elif again is None or place <= again:
                self._measurements.failure("duplicate_line", f"at {line.at} line {line.line} in {topic}")
        return new
