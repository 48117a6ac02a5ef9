"""Several organisations in one run: who belongs where, and how a leak is noticed."""

from random import Random
from types import SimpleNamespace
from typing import Any, cast

import jwt
import pytest

from loadtests.action_feed import ActionFeed
from loadtests.api import Api, Identity
from loadtests.measure import ClockOffset
from loadtests.tab import Tab
from loadtests.tenants import ALONE, Tenant, dealt, tenant, tenants
from loadtests.trespass import trespass
from loadtests.watch import Watch
from server.protocol.codec import encode
from server.protocol.messages import (
    About,
    ActionChange,
    ActionState,
    ActionStatus,
    Error,
    FleetSummary,
    LiveEvent,
    Metrics,
    Snapshot,
)
from simulator.organisations import organisation
from tests.support.fake_client import Asked, FakeClient, FakeResponse, Recorder

SECRET = "s" * 32


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEATRIAL_JWT_SECRET", SECRET)
    monkeypatch.delenv("SEATRIAL_USER_TOKEN", raising=False)


def host(number: int) -> dict[str, Any]:
    """A host as the API lists it."""
    name = f"host-{number:05}"
    return {"id": name, "hostname": name, "online": True, "last_seen": 1, "containers": 1}


def container(number: int) -> dict[str, Any]:
    """The one container of a host."""
    return {"id": str(number), "host": f"host-{number:05}", "docker_id": "0", "name": "c", "series": "c", "image": "i",
            "state": "running"}  # fmt: skip


def action(number: int, state: ActionState = "succeeded") -> ActionStatus:
    """An action on a host's container."""
    return ActionStatus(action_id=f"a{number}", container=str(number), host=f"host-{number:05}", kind="restart",
                        state=state, requested_by="ann", requested_at=1)  # fmt: skip


def asked_by(asked: Asked) -> str:
    """The organisation in whose name a request came."""
    token = asked.headers["Authorization"].removeprefix("Bearer ")
    return str(jwt.decode(token, SECRET, algorithms=["HS256"], audience="user")["org"])


def test_agents_and_users_are_dealt_out_by_their_number() -> None:
    """The same for both; of one organisation alone there is the name only."""
    assert [organisation("demo", 3, number) for number in (1, 2, 3, 4)] == ["demo-1", "demo-2", "demo-3", "demo-1"]
    assert organisation("demo", 1, 7) == "demo"
    assert [one.org for one in tenants("demo", 2)] == ["demo-1", "demo-2"]
    for number in range(1, 9):
        mine = tenant("demo", 3, number)
        assert mine.owns(f"host-{number:05}")
        assert not mine.neighbour().owns(f"host-{number:05}")
        assert mine.neighbour() == tenant("demo", 3, number + 1)
        assert not mine.owns("host-x")
    assert ALONE.owns("whatever")


@pytest.mark.parametrize(("workers", "users"), [(1, 4), (2, 2), (4, 1)])
def test_workers_share_the_organisations(workers: int, users: int) -> None:
    """Two workers with two users each serve four organisations, and not the first two twice."""
    served = {tenant("demo", 4, dealt(user, worker, workers)).org for worker in range(workers) for user in range(users)}

    assert served == {"demo-1", "demo-2", "demo-3", "demo-4"}


@pytest.mark.parametrize(("agents", "shares"), [(7, (3, 2, 2)), (6, (2, 2, 2)), (3, (1, 1, 1))])
def test_no_organisation_has_more_hosts_than_its_share(agents: int, shares: tuple[int, ...]) -> None:
    """The share is what the numbers of the agents make it; where their count is not known, nothing is too many."""
    for number, share in enumerate(shares, 1):
        mine = tenant("demo", 3, number, agents)
        assert [mine.too_many(share), mine.too_many(share + 1)] == [False, True]
        assert mine.neighbour().agents == agents
    assert not tenant("demo", 3, 1).too_many(10**6)
    assert not ALONE.too_many(10**6)


def test_a_host_of_others_in_a_list_is_a_leak() -> None:
    """It is told, and not looked at."""
    recorder = Recorder()
    fake = FakeClient(lambda _: FakeResponse(200, {"hosts": [host(1), host(2), host(3)], "next": None}))
    api = Api(fake, recorder.measurements, Identity("ann", tenant=Tenant("demo-1", 1, 2)))

    assert [found.id for found in api.hosts(10)] == ["host-00001", "host-00003"]
    assert recorder.failures == ["foreign"]
    assert asked_by(fake.asked[0]) == "demo-1"


def test_a_summary_of_more_hosts_than_ones_own_is_a_leak() -> None:
    """It has no names, so it is held against the organisation's share of the agents."""
    recorder = Recorder()
    watch = Watch(recorder.measurements, ClockOffset(), tenant=tenant("demo", 2, 1, agents=5))
    watch.ask(["fleet"])

    def told(online: int, offline: int) -> list[str]:
        summary = FleetSummary(
            hosts_online=online, hosts_offline=offline, containers_running=0, containers=0, cpu=0, mem=0
        )
        watch.receive(encode(Snapshot(topic="fleet", at=1, fleet=summary)), 1)
        return recorder.failures

    assert told(2, 1) == []
    assert told(2, 2) == ["foreign"]


def test_an_action_of_others_is_a_leak_to_a_browser() -> None:
    """In a snapshot and in a change; one of its own host is none."""
    recorder = Recorder()
    watch = Watch(recorder.measurements, ClockOffset(), tenant=Tenant("demo-1", 1, 2))
    watch.ask(["actions"])

    watch.receive(encode(Snapshot(topic="actions", at=1, actions=(action(1), action(3)))), 1)
    assert recorder.failures == []
    watch.receive(encode(Snapshot(topic="actions", at=1, actions=(action(1), action(2)))), 1)
    watch.receive(encode(ActionChange(topic="actions", action=action(4))), 1)
    assert recorder.failures == ["foreign", "foreign"]


class ScriptedSocket:
    """A live socket with these events under way, each once."""

    def __init__(self, *events: LiveEvent) -> None:
        self._events = list(events)

    def send(self, _: Any) -> None:
        """It is taken."""

    def receive(self, _: float) -> bytes:
        """The next one."""
        if not self._events:
            raise TimeoutError
        return encode(self._events.pop(0))

    def close(self) -> None:
        """Leave."""


def test_an_action_of_others_is_a_leak_to_an_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and is no outcome of the operator's own; those of its own hosts are taken."""
    recorder = Recorder()
    events: tuple[LiveEvent, ...] = (Snapshot(topic="actions", at=1, actions=(action(1),)),
              *(ActionChange(topic="actions", action=action(number)) for number in (2, 3)))  # fmt: skip
    monkeypatch.setattr("loadtests.action_feed.LiveSocket", lambda *_: ScriptedSocket(*events))
    fake = FakeClient(lambda _: FakeResponse(201, {"ticket": "t", "expires_in_seconds": 30}))
    feed = ActionFeed(
        Api(fake, recorder.measurements, Identity("ann", "operator", Tenant("demo-1", 1, 2))), "http://x",
        recorder.measurements,
    )  # fmt: skip

    for _ in events:
        feed.read(1)

    assert recorder.failures == ["foreign"]
    assert recorder.measurements._recorded.foreign == 1
    assert [feed.outcome(f"a{number}") for number in (1, 2, 3)] == ["succeeded", None, "succeeded"]


class TrespassedTab:
    """A tab whose server answers to a subscription with these events, and at once."""

    def __init__(self, recorder: Recorder, *events: LiveEvent) -> None:
        self.watch = Watch(recorder.measurements, ClockOffset())
        self._events = events
        self.asked: tuple[str, ...] = ()

    def fetch(self, load: Any) -> Any:
        """See `Tab`."""
        return load()

    def trespass(self, *topics: str) -> None:
        """See `Tab`."""
        self.asked = self.watch.expect_refusals(topics)

    def settle(self) -> None:
        """See `Tab`."""
        for event in self._events:
            self.watch.receive(encode(event), 1)


def attempt(*events: LiveEvent, status: int = 404, actions: int = 1) -> tuple[Recorder, TrespassedTab, FakeClient]:
    """What a browser of `demo-1` notices that asks for host 2, which had so many `actions`; others get `status`."""
    recorder = Recorder()

    def answer(asked: Asked) -> FakeResponse:
        if asked_by(asked) == "demo-2":
            listed = {
                "/api/hosts": {"hosts": [host(2)]},
                "/api/hosts/host-00002/containers": {"containers": [container(2)]},
                "/api/actions": {"actions": [{"action_id": "a2", "state": "succeeded"}] * actions},
            }
            return FakeResponse(200, listed[asked.path])
        return FakeResponse(status, {})

    fake, tab = FakeClient(answer), TrespassedTab(recorder, *events)
    api = Api(fake, recorder.measurements, Identity("ann", tenant=Tenant("demo-1", 1, 2)))
    trespass(cast("Tab", tab), api, recorder.measurements, Random(1), "run-1")
    return recorder, tab, fake


TOPICS = ("host:host-00002", "container:2", "logs:2")
REFUSED = tuple(
    Error(code="not_found", message="no", fatal=False, about=About(type="subscribe", topic=topic)) for topic in TOPICS
)
BUSY = Error(code="limit_exceeded", message="later", fatal=False, about=About(type="subscribe", topic=TOPICS[2]))


def test_who_is_refused_everywhere_has_seen_nothing() -> None:
    """Three topics and six requests, by the true names: each refusal is as it must be."""
    recorder, tab, fake = attempt(*REFUSED)

    assert tab.asked == TOPICS
    assert [asked.path for asked in fake.asked if asked_by(asked) == "demo-1"] == [
        "/api/hosts/host-00002/containers", "/api/containers/2", "/api/containers/2/metrics", "/api/containers/2/logs",
        "/api/actions/a2", "/api/containers/2/actions",
    ]  # fmt: skip
    assert recorder.failures == []
    assert recorder.measurements._recorded.trespasses == 9


def test_who_tries_to_act_may_do_all_at_home() -> None:
    """No role is the cause of the refusal, and the reason belongs to the run, so that the audit check finds a row."""
    _, _, fake = attempt(*REFUSED)
    asked = fake.asked[-1]
    token = asked.headers["Authorization"].removeprefix("Bearer ")

    assert asked.method == "POST"
    assert jwt.decode(token, SECRET, algorithms=["HS256"], audience="user")["role"] == "owner"
    assert asked.body["reason"].startswith("run-1/trespass")


def test_where_nobody_acted_yet_no_action_is_asked_for() -> None:
    """The rest is tried."""
    recorder, _, _ = attempt(*REFUSED, actions=0)

    assert recorder.failures == []
    assert recorder.measurements._recorded.trespasses == 8


@pytest.mark.parametrize(
    ("events", "status", "failures", "refused"),
    [
        (REFUSED[:2], 404, ["foreign"], 8),
        ((*REFUSED, Metrics(topic="container:2", samples=())), 404, ["foreign"], 9),
        (REFUSED, 200, ["http", "foreign"] * 6, 3),
        (REFUSED, 202, ["http", "foreign"] * 6, 3),
        (REFUSED, 500, ["http", "not_proven"] * 6, 3),
        (REFUSED, 429, ["http", "not_proven"] * 6, 3),
        ((*REFUSED[:2], BUSY), 404, ["not_proven"], 8),
    ],
)
def test_whatever_else_comes_is_no_refusal(
    events: tuple[LiveEvent, ...], status: int, failures: list[str], refused: int
) -> None:
    """A topic without a refusal, a frame of it, an answer of the API are leaks; trouble proves nothing either way."""
    recorder, _, _ = attempt(*events, status=status)

    assert recorder.failures == failures
    assert recorder.measurements._recorded.trespasses == refused


def test_where_nobody_is_yet_nothing_is_tried() -> None:
    """The next organisation has no host: no attempt is counted."""
    recorder = Recorder()
    fake = FakeClient(lambda _: FakeResponse(200, {"hosts": []}))
    api = Api(fake, recorder.measurements, Identity("ann", tenant=Tenant("demo-1", 1, 2)))
    trespass(cast("Tab", SimpleNamespace(fetch=lambda load: load())), api, recorder.measurements, Random(1), "run-1")

    assert recorder.measurements._recorded.trespasses == 0
