"""The hub: who watches gets it, encoded once; who does not costs nothing; tenants never meet."""

from typing import Any

import pytest

from server import hub as hub_module
from server.agents import AgentRecord
from server.counters import Counters
from server.hub import HELD_BYTES, Hub, Subscription, fleet_summary, line_bytes
from server.outbox import Outbox
from server.protocol.codec import encode
from server.protocol.messages import LogLine
from server.registry import Registry
from tests.support.core import container, hello, make_registry, show
from tests.support.sockets import ScriptedSocket


class Watcher:
    """A subscriber with one topic of an organisation."""

    def __init__(self, hub: Hub, org: str, topic: str) -> None:
        self.socket = ScriptedSocket()
        outbox = Outbox(self.socket, Counters(), limit_bytes=10_000, limit_seconds=5)
        self.subscription = Subscription((org, topic), outbox)
        self.hub = hub
        hub.add(self.subscription)

    def got(self) -> list[dict[str, Any]]:
        """What came since the last look."""
        messages = self.socket.messages
        self.socket.frames.clear()
        return messages


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every message that the hub encodes."""
    seen: list[object] = []

    def note(message: object) -> bytes:
        seen.append(message)
        return encode(message)

    monkeypatch.setattr(hub_module, "encode", note)
    return seen


@pytest.fixture
async def registry() -> Registry:
    """A host of each of two organisations, with the same names; the one of `a` has two containers."""
    registry = make_registry()
    registry.connect("a", "h1", hello(container(0), container(1)), ScriptedSocket())
    registry.connect("b", "h1", hello(container(0)), ScriptedSocket())
    return registry


def host(registry: Registry, org: str) -> AgentRecord:
    """The host of an organisation."""
    return registry.records[org, "h1"]


def publish(hub: Hub, record: AgentRecord, at: int = 5) -> None:
    """A sample of each container."""
    known = list(record.containers.values())
    for one in known:
        show(one, at, cpu=1.0)
    hub.publish_samples(record, known)


def lines(*numbers: int) -> list[LogLine]:
    """Lines by their ordinal."""
    return [LogLine(at=1, line=number, stream="stdout", text="") for number in numbers]


class TestSamples:
    """Metrics of hosts and containers."""

    async def test_who_watches_a_host_gets_all_its_containers(self, registry: Registry) -> None:
        """One frame with the samples of the host, and to a container's watcher its own alone."""
        hub, record = Hub(), host(registry, "a")
        zero, one = (record.containers[ref].key for ref in (0, 1))
        of_host, of_one = Watcher(hub, "a", "host:h1"), Watcher(hub, "a", f"container:{one}")

        publish(hub, record)

        assert of_host.got() == [
            {
                "type": "metrics",
                "topic": "host:h1",
                "samples": [{"container": key, "at": 5, "cpu": 1.0} for key in (zero, one)],
            }
        ]
        assert of_one.got() == [
            {"type": "metrics", "topic": f"container:{one}", "samples": [{"container": one, "at": 5, "cpu": 1.0}]}
        ]

    async def test_each_frame_is_encoded_once(self, registry: Registry, encoded: list[object]) -> None:
        """However many watch a topic, its frame is made once."""
        hub = Hub()
        watchers = [Watcher(hub, "a", "host:h1") for _ in range(3)]

        publish(hub, host(registry, "a"))

        assert len(encoded) == 1
        assert [len(watcher.got()) for watcher in watchers] == [1, 1, 1]

    async def test_where_nobody_watches_nothing_is_encoded(self, registry: Registry, encoded: list[object]) -> None:
        """No watcher, no work: for samples, lines, hosts and fleets alike."""
        hub, record = Hub(), host(registry, "a")
        Watcher(hub, "b", "host:h1")
        Watcher(hub, "a", "host:h2")

        publish(hub, record)
        hub.publish_lines("a", record.containers[0], lines(0))
        hub.publish_host(record, record.containers.values(), [])
        hub.publish_fleets(registry)

        assert encoded == []

    async def test_two_organisations_with_equal_topics_stay_apart(self, registry: Registry) -> None:
        """The same topic of two tenants is two topics, in every kind of event."""
        hub = Hub()
        ours, theirs = Watcher(hub, "a", "host:h1"), Watcher(hub, "b", "host:h1")
        fleet, other_fleet = Watcher(hub, "a", "fleet"), Watcher(hub, "b", "fleet")

        publish(hub, host(registry, "a"))
        hub.publish_host(host(registry, "a"), [], [])
        assert [message["type"] for message in ours.got()] == ["metrics", "host"]
        assert theirs.got() == []
        hub.publish_fleets(registry)

        assert fleet.got()[0]["fleet"]["containers"] == 2
        assert other_fleet.got()[0]["fleet"]["containers"] == 1
        key = host(registry, "a").containers[0].key
        intruder = Watcher(hub, "b", f"logs:{key}")
        hub.publish_lines("a", host(registry, "a").containers[0], lines(0))
        assert intruder.got() == []

    async def test_watching_is_counted_per_organisation(self, registry: Registry) -> None:
        """Samples are wanted while somebody of the organisation watches a host or a container, and no longer."""
        hub, record = Hub(), host(registry, "a")
        topics = ["fleet", "actions", f"logs:{record.containers[0].key}"]
        watchers = [Watcher(hub, "a", topic) for topic in topics]
        assert not hub.watches_samples(record)
        watcher = Watcher(hub, "a", "container:1")
        assert hub.watches_samples(record)
        assert not hub.watches_samples(host(registry, "b"))
        assert hub.topics == 4

        for each in (watcher, watcher, *watchers):
            hub.remove(each.subscription)

        assert not hub.watches_samples(record)
        assert not hub.watches_logs(record.containers[0])
        assert hub.topics == 0

    async def test_samples_that_came_late_are_told_as_a_gap(self, registry: Registry) -> None:
        """Each topic gets how many of its own do not come; who pauses, and other tenants, get nothing."""
        hub, record = Hub(), host(registry, "a")
        zero, one = record.containers[0], record.containers[1]
        watchers = {
            "host": Watcher(hub, "a", "host:h1"), "zero": Watcher(hub, "a", f"container:{zero.key}"),
            "one": Watcher(hub, "a", f"container:{one.key}"), "other": Watcher(hub, "b", "host:h1"),
            "paused": Watcher(hub, "a", "host:h1"),
        }  # fmt: skip
        watchers["paused"].subscription.paused = True

        hub.publish_late(record, [zero, one, zero])
        got = {name: [(m["type"], m["dropped"]) for m in watcher.got()] for name, watcher in watchers.items()}

        assert got == {"host": [("gap", 3)], "zero": [("gap", 2)], "one": [("gap", 1)], "other": [], "paused": []}


class TestLines:
    """Logs of containers."""

    async def test_lines_reach_their_watchers(self, registry: Registry) -> None:
        """All lines of a batch in one frame, to those who watch this container's log."""
        hub = Hub()
        zero, one = (host(registry, "a").containers[ref] for ref in (0, 1))
        watcher, other = Watcher(hub, "a", f"logs:{zero.key}"), Watcher(hub, "a", f"logs:{one.key}")
        assert hub.watches_logs(zero)

        hub.publish_lines("a", zero, lines(0, 1))

        (message,) = watcher.got()
        assert (message["type"], message["topic"]) == ("logs", f"logs:{zero.key}")
        assert [line["line"] for line in message["lines"]] == [0, 1]
        assert other.got() == []

    async def test_lines_are_held_while_the_tail_is_read(self, registry: Registry) -> None:
        """Held lines stay in order, and those that the tail holds come only once."""
        hub, known = Hub(), host(registry, "a").containers[0]
        watcher, other = (Watcher(hub, "a", f"logs:{known.key}") for _ in range(2))
        watcher.subscription.hold()

        hub.publish_lines("a", known, lines(0, 1))
        hub.publish_lines("a", known, lines(2))

        assert watcher.got() == []
        assert len(other.got()) == 2
        released = watcher.subscription.release({(1, 0), (1, 2), (9, 1)})
        assert [line.line for line in released] == [1]
        hub.publish_lines("a", known, lines(3))
        assert [line["line"] for line in watcher.got()[0]["lines"]] == [3]

    async def test_held_lines_are_bounded(self, registry: Registry) -> None:
        """Past the bound the oldest held lines are dropped and counted; holding again starts anew."""
        hub, known = Hub(), host(registry, "a").containers[0]
        subscription = Watcher(hub, "a", f"logs:{known.key}").subscription
        subscription.hold()
        one = line_bytes(lines(0)[0])
        fit = HELD_BYTES // one
        hub.publish_lines("a", known, lines(*range(fit)))
        assert subscription.dropped == 0
        hub.publish_lines("a", known, lines(fit, fit + 1))

        assert subscription.dropped == 2
        released = subscription.release(set())
        assert (len(released), released[0].line, released[-1].line) == (fit, 2, fit + 1)
        subscription.hold()
        assert (subscription.dropped, subscription.release(set())) == (0, [])

    async def test_releasing_without_holding_is_empty(self) -> None:
        """A subscription that held nothing releases nothing."""
        assert Watcher(Hub(), "a", "logs:1").subscription.release(set()) == []


class TestEvents:
    """Hosts, fleets and pauses."""

    async def test_a_change_of_a_host_is_told(self, registry: Registry) -> None:
        """State, containers that came or changed, and keys of those that went."""
        hub, record = Hub(), host(registry, "a")
        watcher = Watcher(hub, "a", "host:h1")

        hub.publish_host(record, [record.containers[0]], [record.containers[1]])

        (message,) = watcher.got()
        assert (message["type"], message["host"]["online"]) == ("host", True)
        assert [upsert["name"] for upsert in message["upserts"]] == ["c0"]
        assert message["removed"] == [record.containers[1].key]

    async def test_who_pauses_gets_nothing(self, registry: Registry) -> None:
        """A paused subscription is passed over by every kind of event; others are not."""
        hub, record = Hub(), host(registry, "a")
        key = record.containers[0].key
        topics = ["host:h1", f"container:{key}", f"logs:{key}", "fleet"]
        watchers = [Watcher(hub, "a", topic) for topic in topics]
        for watcher in watchers:
            watcher.subscription.paused = True

        def all_events() -> None:
            publish(hub, record)
            hub.publish_lines("a", record.containers[0], lines(0))
            hub.publish_host(record, [], [])
            hub.publish_fleets(registry)

        all_events()
        assert [watcher.got() for watcher in watchers] == [[]] * 4

        for watcher in watchers:
            watcher.subscription.paused = False
        all_events()
        assert [len(watcher.got()) for watcher in watchers] == [2, 1, 1, 1]

    async def test_a_fleet_in_numbers(self, registry: Registry) -> None:
        """Hosts on- and offline, containers that are there, and the load of those that run on hosts that are there."""
        record = host(registry, "a")
        for ref, (cpu, mem) in enumerate([(1.5, 100), (2.0, 50)]):
            show(record.containers[ref], 5, cpu=cpu, mem=mem)
        away, _ = registry.connect("a", "h2", hello(container(0), container(1, state="exited")), ScriptedSocket())
        show(away.record.containers[0], 5, cpu=50.0, mem=1000)
        registry.leave(away)
        gone, _ = registry.connect("a", "h3", hello(container(0, state="removed")), ScriptedSocket())
        assert gone.record.online

        summary = fleet_summary(registry, "a")

        assert (summary.hosts_online, summary.hosts_offline) == (2, 1)
        assert (summary.containers, summary.containers_running) == (4, 2)
        assert (summary.cpu, summary.mem) == (3.5, 150)

    async def test_a_watcher_may_leave_while_it_is_served(self, registry: Registry) -> None:
        """A subscription that ends in the middle of an event disturbs none of the others."""
        hub = Hub()
        watchers = [Watcher(hub, "a", "host:h1") for _ in range(3)]
        for watcher in watchers:
            others = [other for other in watchers if other is not watcher]
            send = watcher.socket.try_send

            def leaving(frame: bytes, send: Any = send, others: Any = others) -> bool:
                for other in others:
                    hub.remove(other.subscription)
                return bool(send(frame))

            watcher.socket.try_send = leaving  # type: ignore[method-assign]

        publish(hub, host(registry, "a"))

        assert hub.topics == 0
