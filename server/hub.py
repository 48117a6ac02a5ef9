"""Who watches what. Publishing is a plain call: encoded once per topic, and not at all where nobody watches."""

from collections import Counter, deque
from collections.abc import Iterable

from server.agents import AgentRecord, TrackedContainer, now_us
from server.outbox import Outbox
from server.protocol.codec import encode
from server.protocol.messages import (
    ActionChange,
    ActionStatus,
    FleetSummary,
    HostChange,
    LogLine,
    Logs,
    Metrics,
    Sample,
    Snapshot,
)
from server.registry import Registry
from server.rows import LINE_OVERHEAD_BYTES

TopicKey = tuple[str, str]
"""Organisation and topic: the same topic of two tenants is two keys."""

HELD_BYTES = 256 * 1024
"""Default bound of the lines kept for a subscription whose tail is being read; past it the oldest become a gap."""


class Subscription:
    """One subscriber's interest in one topic."""

    __slots__ = ("_held_bytes", "_held_limit_bytes", "dropped", "held", "key", "outbox", "paused", "topic")

    def __init__(self, key: TopicKey, outbox: Outbox, *, held_bytes: int = HELD_BYTES) -> None:
        self.key = key
        self._held_limit_bytes = held_bytes
        self._held_bytes = 0
        self.topic = key[1]
        self.outbox = outbox
        self.paused = False
        self.held: deque[LogLine] | None = None
        """Lines that came while the tail is read, in order; None: pass them on."""
        self.dropped = 0
        """Lines that did not fit into `held`."""

    def hold(self) -> None:
        """Keep live lines back until the tail is out."""
        self.held, self.dropped, self._held_bytes = deque(), 0, 0

    def keep(self, lines: Iterable[LogLine]) -> None:
        """Hold lines that came; past the bound the oldest are dropped into a gap."""
        held = self.held
        if held is None:
            return
        for line in lines:
            held.append(line)
            self._held_bytes += line_bytes(line)
        while self._held_bytes > self._held_limit_bytes:
            self._held_bytes -= line_bytes(held.popleft())
            self.dropped += 1

    def release(self, seen: set[tuple[int, int]]) -> list[LogLine]:
        """Stop holding; returns the lines that are not among `seen` = (at, line)."""
        held, self.held = self.held or (), None
        return [line for line in held if (line.at, line.line) not in seen]


class Hub:
    """Topics and their subscriptions, of all organisations, strictly apart."""

    def __init__(self) -> None:
        self._topics: dict[TopicKey, set[Subscription]] = {}
        # What nobody watches must cost the hot path nothing: what is looked up there needs no topic to be put together.
        self._watching: Counter[str] = Counter()
        """Subscriptions to samples, by organisation."""
        self._watched: Counter[str] = Counter()
        """Subscriptions to the samples of one container, by its key."""
        self._tailed: Counter[str] = Counter()
        """Subscriptions to the log of one container, by its key."""

    def add(self, subscription: Subscription) -> None:
        """Begin to deliver."""
        self._topics.setdefault(subscription.key, set()).add(subscription)
        for counts, name in self._counted(subscription.key):
            counts[name] += 1

    def remove(self, subscription: Subscription) -> None:
        """Stop to deliver. Idempotent."""
        subscriptions = self._topics.get(subscription.key)
        if subscriptions is None or subscription not in subscriptions:
            return
        subscriptions.discard(subscription)
        if not subscriptions:
            del self._topics[subscription.key]
        for counts, name in self._counted(subscription.key):
            counts[name] -= 1
            if not counts[name]:
                del counts[name]

    def _counted(self, key: TopicKey) -> list[tuple[Counter[str], str]]:
        org, topic = key
        kind, _, name = topic.partition(":")
        if kind == "host":
            return [(self._watching, org)]
        if kind == "container":
            return [(self._watching, org), (self._watched, name)]
        return [(self._tailed, name)] if kind == "logs" else []

    @property
    def topics(self) -> int:
        """Topics that somebody watches."""
        return len(self._topics)

    # -- LiveSink

    def watches_samples(self, record: AgentRecord) -> bool:
        """Whether anybody of the organisation watches samples."""
        return record.org in self._watching

    def watches_logs(self, container: TrackedContainer) -> bool:
        """Whether anybody watches this container's log."""
        return container.key in self._tailed

    def publish_samples(self, record: AgentRecord, containers: list[TrackedContainer]) -> None:
        """New samples of one host, to its topic and to each container's."""
        if record.topic in self._topics:
            shown = tuple(map(sample_of, containers))
            self._deliver_metrics(record.topic, encode(Metrics(topic=record.topic[1], samples=shown)), shown)
        for container in containers:
            if container.key in self._watched:
                key = (record.org, f"container:{container.key}")
                samples = (sample_of(container),)
                self._deliver_metrics(key, encode(Metrics(topic=key[1], samples=samples)), samples)

    def publish_late(self, record: AgentRecord, containers: Iterable[TrackedContainer]) -> None:
        """Samples of one host are older than what its watchers have: they are told how many they do not get."""
        keys = [container.key for container in containers]
        self._deliver_gap(record.topic, len(keys))
        for key, samples in Counter(key for key in keys if key in self._watched).items():
            self._deliver_gap((record.org, f"container:{key}"), samples)

    def publish_lines(self, org: str, container: TrackedContainer, lines: list[LogLine]) -> None:
        """New lines of one container."""
        frame: bytes | None = None
        for subscription in tuple(self._topics.get((org, f"logs:{container.key}"), ())):
            if subscription.paused:
                continue
            if subscription.held is not None:
                subscription.keep(lines)
                continue
            if frame is None:
                frame = encode(Logs(topic=subscription.topic, lines=tuple(lines)))
            subscription.outbox.push_lines(subscription.topic, frame, len(lines))

    # -- events

    def publish_host(
        self, record: AgentRecord, upserts: Iterable[TrackedContainer], removed: Iterable[TrackedContainer]
    ) -> None:
        """A host's state or inventory changed."""
        if record.topic not in self._topics:
            return
        change = HostChange(
            topic=record.topic[1], host=record.status(),
            upserts=tuple(c.status(record.host) for c in upserts), removed=tuple(c.key for c in removed),
        )  # fmt: skip
        self._deliver(record.topic, encode(change))

    def publish_action(self, org: str, action: ActionStatus) -> None:
        """An action of an organisation began, went on or ended."""
        key = (org, "actions")
        if key in self._topics:
            self._deliver(key, encode(ActionChange(topic="actions", action=action)))

    def publish_fleets(self, registry: Registry) -> None:
        """Once a second: a summary for each organisation that watches its fleet."""
        for key in [key for key in self._topics if key[1] == "fleet"]:
            snapshot = Snapshot(topic="fleet", at=now_us(), fleet=fleet_summary(registry, key[0]))
            frame = encode(snapshot)
            for subscription in tuple(self._topics.get(key, ())):
                if not subscription.paused:
                    subscription.outbox.push_metrics("fleet", frame)

    def _deliver_metrics(self, key: TopicKey, frame: bytes, samples: tuple[Sample, ...]) -> None:
        for subscription in tuple(self._topics.get(key, ())):
            if not subscription.paused:
                subscription.outbox.push_metrics(key[1], frame, samples)

    def _deliver_gap(self, key: TopicKey, dropped: int) -> None:
        for subscription in tuple(self._topics.get(key, ())):
            if not subscription.paused:
                subscription.outbox.push_gap(key[1], dropped)

    def _deliver(self, key: TopicKey, frame: bytes) -> None:
        for subscription in tuple(self._topics[key]):
            if not subscription.paused:
                subscription.outbox.push(frame)


def fleet_summary(registry: Registry, org: str) -> FleetSummary:
    """An organisation's fleet in numbers, from the newest values in memory."""
    online = offline = running = containers = mem = 0
    cpu = 0.0
    for record in registry.of_org(org):
        online += record.online
        offline += not record.online
        for container in record.by_id.values():
            if container.removed_at is not None:
                continue
            containers += 1
            if record.online and container.info.state == "running":
                running += 1
                if (newest := container.newest) is not None:
                    cpu += newest.cpu or 0.0
                    mem += newest.mem or 0
    return FleetSummary(
        hosts_online=online, hosts_offline=offline, containers_running=running, containers=containers, cpu=cpu, mem=mem
    )


def sample_of(container: TrackedContainer) -> Sample:
    """A container's newest values, as the live view gets them; without values where it does not run."""
    newest = container.newest
    if newest is None:
        return Sample(container=container.key, at=container.live_at, cpu=None, mem=None, rx=None, tx=None)
    return Sample(
        container=container.key, at=container.live_at, cpu=newest.cpu, mem=newest.mem, rx=newest.rx, tx=newest.tx
    )


def line_bytes(line: LogLine) -> int:
    """What a line takes of a buffer, about."""
    return len(line.text) + LINE_OVERHEAD_BYTES
