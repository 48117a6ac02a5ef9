"""What simulated operators notice: answers and outcomes that a good server never gives."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from loadtests import operators as module
from loadtests.api import Identity
from loadtests.attempts import Attempt, AttemptLog, read_attempts
from loadtests.measure import now_us
from loadtests.operators import ROUND, SENDS, Operator
from loadtests.recorded import FAILURES
from tests.support.fake_client import Asked, FakeClient, FakeResponse, Recorder

SECRET = "s" * 32
HOST = {"id": "h", "hostname": "h", "online": True, "last_seen": 1, "containers": 2}
CONTAINER = {"host": "h", "docker_id": "0", "name": "c", "series": "c", "image": "i", "state": "running"}
OPEN, SAFE = CONTAINER | {"id": "1"}, CONTAINER | {"id": "2", "protected": True}


class FakeFeed:
    """A live topic that tells outcomes."""

    def __init__(self, tells: str = "succeeded") -> None:
        self.tells = tells
        self.subscribed_us = 1
        self.reads = 0

    def read(self, seconds: float) -> None:
        """Nothing new."""
        self.reads += 1

    def outcome(self, action_id: str) -> str | None:
        """What was told of any action."""
        return self.tells or None


class FakeApi:
    """A good server, but for what a test changes."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.by_key: dict[str, str] = {}
        self.state = "succeeded"
        self.post: Callable[[Asked, str], FakeResponse] = self.good

    def answer(self, asked: Asked) -> FakeResponse:
        """Answer a request."""
        if asked.path == "/api/hosts":
            return FakeResponse(200, {"hosts": [HOST], "next": None})
        if asked.path == "/api/hosts/h/containers":
            return FakeResponse(200, {"containers": [OPEN, SAFE]})
        if asked.path.startswith("/api/actions/"):
            return FakeResponse(200, {"action_id": asked.path.rpartition("/")[2], "state": self.state})
        assert asked.method == "POST"
        claims = jwt.decode(
            asked.headers["Authorization"].removeprefix("Bearer "), SECRET, algorithms=["HS256"], audience="user"
        )  # fmt: skip
        return self.post(asked, claims["role"])

    def good(self, asked: Asked, role: str) -> FakeResponse:
        """Deny what must be denied, and take each key once."""
        if role == "viewer":
            return FakeResponse(403, {"title": "forbidden"})
        if asked.path.startswith("/api/containers/2/") and asked.body["kind"] != "start":
            return FakeResponse(403, {"title": "protected"})
        key = asked.headers["Idempotency-Key"]
        known = key in self.by_key
        action_id = self.by_key.setdefault(key, f"a{next(self.numbers)}")
        headers = {"Idempotent-Replayed": "true"} if known else {}
        return FakeResponse(202, {"action_id": action_id, "state": "pending"}, headers)


class Scene:
    """An operator, and the world that it sees."""

    def __init__(self, path: Path) -> None:
        self.server = FakeApi()
        self.client = FakeClient(self.server.answer)
        self.feed = FakeFeed()
        self.recorder = Recorder()
        self.path = path / "attempts.jsonl"
        self.log = AttemptLog(self.path)
        self.operator = Operator(
            self.recorder.api(self.client, "ann", "operator"), Identity("vera"),
            self.feed,  # type: ignore[arg-type]
            self.recorder.measurements, self.log, "run",
        )  # fmt: skip

    def turn(self, kind: str, expected: str = "accepted", *, again: bool = False) -> Attempt | None:
        """Make the next attempt of this kind."""
        steps = [(step.kind, step.expected, step.again) for step in ROUND]
        self.operator._step = steps.index((kind, expected, again))  # type: ignore[arg-type]
        self.operator.prepare()
        return self.operator.turn(now_us())

    @property
    def posts(self) -> list[Asked]:
        """The attempts that were sent."""
        return [asked for asked in self.client.asked if asked.method == "POST"]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A good server; waits are short."""
    monkeypatch.setenv("SEATRIAL_JWT_SECRET", SECRET)
    monkeypatch.delenv("SEATRIAL_USER_TOKEN", raising=False)
    monkeypatch.setattr(module, "RESEND_SECONDS", 0.001)
    monkeypatch.setattr(module, "UNTOLD_SECONDS", 0.01)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(module, "OUTCOME_SECONDS", 0.3)
    scene = Scene(tmp_path)
    yield scene
    scene.log.close()


def test_a_round_with_a_good_server_finds_nothing_wrong(scene: Scene) -> None:
    """Ten attempts, seven taken; each is in the file with what its user saw."""
    attempts = []
    for _ in ROUND:
        scene.operator.prepare()
        attempts.append(scene.operator.turn(now_us()))
    found = read_attempts(scene.path)

    assert scene.recorder.failures == []
    assert list(found.values()) == attempts
    assert all(attempt.over for attempt in found.values())
    assert [(a.expected, a.status, a.title, a.state, a.actor, a.role, a.container) for a in found.values()] == [
        ("accepted", 202, "", "succeeded", "ann", "operator", "1") if step.expected == "accepted"
        else ("protected", 403, "protected", "", "ann", "operator", "2") if step.expected == "protected"
        else ("forbidden", 403, "forbidden", "", "vera", "viewer", "1")
        for step in ROUND
    ]  # fmt: skip
    assert [a.kind for a in found.values()] == [step.kind for step in ROUND]
    assert [a.repeated for a in found.values()] == [step.again for step in ROUND]
    assert len({asked.body["reason"] for asked in scene.posts}) == len(ROUND) == len(scene.posts) - 2


def test_the_container_that_was_stopped_is_started_again(scene: Scene) -> None:
    """A long run does not stop the whole fleet."""
    stopped = scene.turn("stop")
    scene.client.asked.clear()
    started = scene.turn("start")

    assert stopped is not None
    assert started is not None
    assert (started.container, started.state) == (stopped.container, "succeeded")
    assert not any(asked.path.startswith("/api/hosts") for asked in scene.client.asked)


@pytest.mark.parametrize(
    ("kind", "expected", "title"), [("stop", "protected", "forbidden"), ("restart", "forbidden", "protected")]
)
def test_an_attempt_that_is_not_denied_is_a_violation(scene: Scene, kind: str, expected: str, title: str) -> None:
    """Taken, or denied for another cause than the true one."""
    scene.server.post = lambda *_: FakeResponse(202, {"action_id": "a", "state": "pending"})
    attempt = scene.turn(kind, expected)
    scene.server.post = lambda *_: FakeResponse(403, {"title": title})
    scene.turn(kind, expected)

    assert scene.recorder.failures == ["not_denied", "not_denied"]
    assert attempt is not None
    assert (attempt.accepted, attempt.state) == (True, "succeeded")


@pytest.mark.parametrize(
    ("action_id", "headers"),
    [("another", {"Idempotent-Replayed": "true"}), ("a", {}), ("a", {"Idempotent-Replayed": "false"})],
)
def test_a_repeated_request_that_is_a_new_one_is_a_violation(
    scene: Scene, action_id: str, headers: dict[str, str]
) -> None:
    """The same key must give the same action, and say so."""
    answers = iter([("a", {}), (action_id, headers)])

    def post(*_: Any) -> FakeResponse:
        found, told = next(answers)
        return FakeResponse(202, {"action_id": found, "state": "pending"}, told)

    scene.server.post = post
    scene.turn("restart", again=True)

    assert scene.recorder.failures == ["not_replayed"]


def test_a_request_without_an_answer_is_sent_again_with_its_key(scene: Scene) -> None:
    """No answer, 503, and a 429 that paces promise nothing: the key makes one attempt of all of them."""
    paced = FakeResponse(429, {"title": "too_many_requests"})
    answers = iter([FakeResponse(0), FakeResponse(503, {"title": "unavailable"}), paced])
    scene.server.post = lambda asked, role: next(answers, None) or scene.server.good(asked, role)
    attempt = scene.turn("restart")

    assert attempt is not None
    assert (attempt.sends, attempt.status, attempt.state) == (4, 202, "succeeded")
    assert scene.recorder.failures == ["http", "http"]  # to be paced is none
    assert len({(asked.headers["Idempotency-Key"], asked.body["reason"]) for asked in scene.posts}) == 1


def test_an_attempt_that_is_paced_to_the_end_is_no_denial(scene: Scene) -> None:
    """It is told as a failure, and no row of the audit log is asked for; a repetition that is paced proves nothing."""
    scene.server.post = lambda *_: FakeResponse(429, {"title": "too_many_requests"})
    attempt = scene.turn("restart")

    assert attempt is not None
    assert (attempt.sends, attempt.status, attempt.denied, attempt.accepted) == (SENDS, 429, False, False)
    assert scene.recorder.failures == ["http"]

    answers = iter([FakeResponse(202, {"action_id": "a", "state": "pending"})])
    scene.server.post = lambda *_: next(answers, None) or FakeResponse(429, {"title": "too_many_requests"})
    scene.turn("restart", again=True)
    assert scene.recorder.failures == ["http"]


def test_an_attempt_that_is_never_answered_is_told_as_such(scene: Scene) -> None:
    """It gives up at last, and the file says that nothing is known."""
    scene.server.post = lambda *_: FakeResponse(0)
    attempt = scene.turn("restart")

    assert attempt is not None
    assert (attempt.sends, attempt.status, attempt.over) == (SENDS, 0, False)
    assert read_attempts(scene.path) == {attempt.reason: attempt}


def test_outcomes_that_disagree_are_a_violation(scene: Scene) -> None:
    """The topic tells success, the API failure."""
    scene.server.state = "failed"
    scene.turn("restart")

    assert scene.recorder.failures == ["action_disagrees"]


def test_an_outcome_that_the_topic_never_tells_is_a_violation(scene: Scene) -> None:
    """The API knows it; whoever only watches never would. Nobody can be told who was not there."""
    scene.feed.tells = ""
    attempt = scene.turn("restart")

    assert scene.recorder.failures == ["action_untold"]
    assert attempt is not None
    assert (attempt.state, attempt.over) == ("succeeded", True)
    scene.feed.subscribed_us = 0
    scene.turn("restart")
    assert scene.recorder.failures == ["action_untold"]


def test_an_outcome_that_never_comes_is_told(scene: Scene) -> None:
    """The attempt is not over, and its round trip took all the wait at least."""
    scene.feed.tells, scene.server.state = "", "sent"
    attempt = scene.turn("restart")

    assert scene.recorder.failures == ["action_unknown"]
    assert attempt is not None
    assert (attempt.state, attempt.over) == ("sent", False)
    assert scene.recorder.measurements._latencies["action_round_trip_ms"].count == 1


def test_a_round_trip_begins_at_the_intended_time(scene: Scene) -> None:
    """A turn that came two seconds late took two seconds more."""
    scene.operator.prepare()
    scene.operator.turn(now_us() - 2_000_000)

    assert scene.recorder.measurements._latencies["action_round_trip_ms"].statistics()["p50"] >= 2000


def test_looking_for_a_container_is_no_part_of_the_round_trip(scene: Scene) -> None:
    """A turn asks for nothing but its own action."""
    scene.operator.prepare()
    scene.operator.prepare()
    looked = [asked.path for asked in scene.client.asked]
    scene.client.asked.clear()
    scene.operator.turn(now_us())

    assert looked == ["/api/hosts", "/api/hosts/h/containers"]
    assert not any("/api/hosts" in asked.path for asked in scene.client.asked)


def test_an_attempt_that_is_cut_off_leaves_its_lines(scene: Scene) -> None:
    """The end of the run in the middle of a request: what was meant is in the file before it is sent."""

    class End(BaseException):
        """As gevent ends a greenlet."""

    def post(*_: Any) -> FakeResponse:
        assert len(read_attempts(scene.path)) == 1
        raise End

    scene.server.post = post
    with pytest.raises(End):
        scene.turn("restart")

    (attempt,) = read_attempts(scene.path).values()
    assert (attempt.sends, attempt.status, attempt.over) == (1, 0, False)


def test_without_a_container_there_is_no_attempt(scene: Scene) -> None:
    """A fleet that only begins is no failure."""
    scene.client._answer = lambda _: FakeResponse(200, {"hosts": [], "next": None})

    scene.operator.prepare()
    assert scene.operator.turn(now_us()) is None
    assert scene.recorder.failures == []
    assert read_attempts(scene.path) == {}


def test_every_failure_of_an_operator_is_known() -> None:
    """What is recorded has a sentence."""
    assert {"not_denied", "not_replayed", "action_disagrees", "action_untold", "action_unknown", "http"} <= set(
        FAILURES
    )
