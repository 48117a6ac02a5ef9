"""Several organisations in one run: who belongs where, and how a leak is noticed."""

from random import Random
from types import SimpleNamespace
from typing import Any, cast

import jwt
import pytest

from loadtests.api import Api, Identity
from loadtests.measure import ClockOffset
from loadtests.tab import Tab
from loadtests.tenants import ALONE, Tenant, tenant, tenants
from loadtests.trespass import trespass
from loadtests.watch import Watch
from server.protocol.codec import encode
from server.protocol.messages import About, Error, LiveEvent, Metrics
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


def test_a_host_of_others_in_a_list_is_a_leak() -> None:
    """It is told, and not looked at."""
    recorder = Recorder()
    fake = FakeClient(lambda _: FakeResponse(200, {"hosts": [host(1), host(2), host(3)], "next": None}))
    api = Api(fake, recorder.measurements, Identity("ann", tenant=Tenant("demo-1", 1, 2)))

    assert [found.id for found in api.hosts(10)] == ["host-00001", "host-00003"]
    assert recorder.failures == ["foreign"]
    assert asked_by(fake.asked[0]) == "demo-1"


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


def attempt(*events: LiveEvent, status: int = 404) -> tuple[Recorder, TrespassedTab, FakeClient]:
    """What a browser of `demo-1` notices that asks for host 2; the API answers to others with `status`."""
    recorder = Recorder()

    def answer(asked: Asked) -> FakeResponse:
        if asked_by(asked) == "demo-2":
            listed = asked.path == "/api/hosts"
            return FakeResponse(200, {"hosts": [host(2)]} if listed else {"containers": [container(2)]})
        return FakeResponse(status, {})

    fake, tab = FakeClient(answer), TrespassedTab(recorder, *events)
    api = Api(fake, recorder.measurements, Identity("ann", tenant=Tenant("demo-1", 1, 2)))
    trespass(cast("Tab", tab), api, recorder.measurements, Random(1))
    return recorder, tab, fake


TOPICS = ("host:host-00002", "container:2", "logs:2")
REFUSED = tuple(
    Error(code="unknown_topic", message="no", fatal=False, about=About(type="subscribe", topic=topic))
    for topic in TOPICS
)


def test_who_is_refused_everywhere_has_seen_nothing() -> None:
    """Three topics and four paths, by the true names: each refusal is as it must be."""
    recorder, tab, fake = attempt(*REFUSED)

    assert tab.asked == TOPICS
    assert [asked.path for asked in fake.asked if asked_by(asked) == "demo-1"] == [
        "/api/hosts/host-00002/containers", "/api/containers/2", "/api/containers/2/metrics", "/api/containers/2/logs",
    ]  # fmt: skip
    assert recorder.failures == []
    assert recorder.measurements._recorded.trespasses == 7


@pytest.mark.parametrize(
    ("events", "status", "failures"),
    [
        (REFUSED[:2], 404, ["foreign"]),
        ((*REFUSED, Metrics(topic="container:2", samples=())), 404, ["foreign"]),
        (REFUSED, 200, ["http", "foreign"] * 4),
        (REFUSED, 500, ["http"] * 4),
    ],
)
def test_whatever_else_comes_is_a_leak(events: tuple[LiveEvent, ...], status: int, failures: list[str]) -> None:
    """A topic without a refusal, a frame of it, an answer of the API; a server in trouble is none."""
    recorder, _, _ = attempt(*events, status=status)

    assert recorder.failures == failures


def test_where_nobody_is_yet_nothing_is_tried() -> None:
    """The next organisation has no host: no attempt is counted."""
    recorder = Recorder()
    fake = FakeClient(lambda _: FakeResponse(200, {"hosts": []}))
    api = Api(fake, recorder.measurements, Identity("ann", tenant=Tenant("demo-1", 1, 2)))
    trespass(cast("Tab", SimpleNamespace(fetch=lambda load: load())), api, recorder.measurements, Random(1))

    assert recorder.measurements._recorded.trespasses == 0
