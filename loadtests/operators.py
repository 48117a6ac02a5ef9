"""What a simulated operator does: attempts on containers, allowed and not, each followed to its outcome."""

import time
import uuid
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from loadtests.action_feed import ActionFeed
from loadtests.api import Action, Answer, Api, Identity
from loadtests.attempts import FINAL_STATES, PACED, Attempt, AttemptLog, Expected, new_reason
from loadtests.places import Places, is_running
from loadtests.recorded import Measurements
from server.protocol.messages import ActionKind, ContainerStatus

EXPIRES_SECONDS = 20
"""Life of an action that its agent does not get."""
OUTCOME_SECONDS = 60.0
"""Longest wait for an outcome: expiry, the server's grace for a late result, and some more."""
UNTOLD_SECONDS = 5.0
"""The live topic tells an outcome at most so long after the API does."""
POLL_SECONDS = 2.0
SENDS = 15
RESEND_SECONDS = 1.0
"""A request without an answer is sent again with the same Idempotency-Key, so many times, so far apart."""

_REFUSALS = (403, 409, 429)


class Step(NamedTuple):
    """One attempt of the round that every operator goes."""

    kind: ActionKind
    expected: Expected = "accepted"
    again: bool = False
    """Send it a second time with the same Idempotency-Key."""


ROUND = (
    Step("restart"), Step("stop"), Step("start"), Step("stop", "protected"), Step("restart", again=True),
    Step("restart", "forbidden"), Step("stop"), Step("start", again=True), Step("restart", "protected"), Step("restart"),
)  # fmt: skip
"""A fixed share of each kind, so that a short run has them all. `start` takes the container that was stopped before."""


class Operator:
    """One operator, and a viewer who tries what he must not.

    Args:
        api: in the operator's name.
        viewer: the other one.
        feed: the operator's live topic.
        measurements: gets the round trips, and what went wrong.
        log: gets every attempt.
        run: names the run in the attempts' reasons.
        first: step of the round to begin with.
        chance: chooses containers.
    """

    def __init__(
        self, api: Api, viewer: Identity, feed: ActionFeed, measurements: Measurements, log: AttemptLog, run: str,
        *, first: int = 0, chance: Random | None = None,
    ) -> None:  # fmt: skip
        self._api = api
        self._viewer = viewer
        self._feed = feed
        self._measurements = measurements
        self._log = log
        self._run = run
        self._places = Places(api, chance)
        self._step = first
        self._target: str | None = None
        """Container of the next turn."""
        self._stopped: str | None = None
        """Container that waits to be started again."""

    def idle(self, seconds: float) -> None:
        """Look at the live topic for about `seconds`: a screen that is not read would be closed."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._feed.read(left)

    def prepare(self) -> None:
        """Choose what the next turn acts on, before it is due: looking for it is no part of its round trip."""
        if self._target is None:
            self._target = self._choose(ROUND[self._step % len(ROUND)])

    def turn(self, due_us: int) -> Attempt | None:
        """Make one attempt that was due at a time in Unix microseconds; None: there is nothing to act on."""
        step = ROUND[self._step % len(ROUND)]
        self._step += 1
        container, self._target = self._target, None
        if container is None:
            return None
        actor = self._viewer if step.expected == "forbidden" else self._api.identity
        attempt = Attempt(
            reason=new_reason(self._run), at_us=due_us, actor=actor.subject, role=actor.role, kind=step.kind,
            container=container, expected=step.expected,
        )  # fmt: skip
        self._log.write(attempt)
        try:
            self._make(attempt, actor, again=step.again)
            if attempt.accepted:
                attempt.over = self._follow(attempt)
            else:
                attempt.over = attempt.denied
                if not attempt.denied:  # never answered
                    self._measurements.took("action_round_trip_ms", due_us)
        finally:  # also where the run ends in the middle: what is known counts
            self._log.write(attempt)
        if step.kind == "stop" and attempt.state == "succeeded":
            self._stopped = container
        return attempt

    def _choose(self, step: Step) -> str | None:
        if step.kind == "start" and self._stopped is not None:
            container, self._stopped = self._stopped, None
            return container
        wanted: Callable[[ContainerStatus], bool] = (
            (lambda c: is_running(c) and c.protected)
            if step.expected == "protected"
            else (lambda c: is_running(c) and not c.protected)
        )
        found = self._places.container(wanted)
        return found.id if found else None

    # -- asking

    def _make(self, attempt: Attempt, actor: Identity, *, again: bool) -> None:
        """Send it until it is answered, and judge the answer."""
        key = str(uuid.uuid4())
        answer = self._post(attempt, actor, key)
        while _unanswered(answer) and attempt.sends < SENDS:
            self.idle(RESEND_SECONDS)
            answer = self._post(attempt, actor, key)
        attempt.status = answer.status
        if attempt.accepted:
            action = self._api.read(answer, Action, "POST actions")
            attempt.action_id, attempt.state = (action.action_id, action.state) if action else ("", "")
        else:
            attempt.title = answer.problem().title
        told = (
            f"{attempt.kind} of container {attempt.container} by {attempt.role}: HTTP {attempt.status} {attempt.title}"
        )
        if attempt.expected != "accepted" and (
            attempt.accepted or (attempt.status == 403 and attempt.title != attempt.expected)
        ):
            self._fail("not_denied", f"{told}: expected 403 {attempt.expected}")
        elif attempt.expected == "accepted" and (attempt.denied or attempt.title == PACED):
            self._fail("http", f"{told}: expected 202")
        if again and attempt.accepted:
            self._repeat(attempt, actor, key)

    def _post(self, attempt: Attempt, actor: Identity, key: str) -> Answer:
        attempt.sends += 1
        return self._api.send(
            "POST",
            f"/api/containers/{attempt.container}/actions",
            expect=(200, 202, *_REFUSALS),
            name=f"/api/containers/[id]/actions {attempt.expected}",
            identity=actor,
            headers={"Idempotency-Key": key},
            json={"kind": attempt.kind, "reason": attempt.reason, "expires_in_seconds": EXPIRES_SECONDS},
        )

    def _repeat(self, attempt: Attempt, actor: Identity, key: str) -> None:
        """Ask for the same again: that is the same action, and no second attempt."""
        sends = attempt.sends
        answer = self._post(attempt, actor, key)
        attempt.sends = sends
        attempt.repeated = True
        if _unanswered(answer):
            return
        action = self._api.read(answer, Action, "POST actions")
        replayed = answer.headers.get("Idempotent-Replayed", "")
        if action is None or action.action_id != attempt.action_id or replayed != "true":
            found = (
                f"HTTP {answer.status}, action {action and action.action_id}, Idempotent-Replayed: {replayed or 'none'}"
            )
            self._fail("not_replayed", f"{found}: expected action {attempt.action_id}, Idempotent-Replayed: true")

    # -- following

    def _follow(self, attempt: Attempt) -> bool:
        """Until the outcome is known, from the live topic or by asking; whether it is."""
        end = time.monotonic() + OUTCOME_SECONDS
        ask_at = time.monotonic() + POLL_SECONDS
        while attempt.state not in FINAL_STATES:
            if (now := time.monotonic()) >= end:
                self._fail("action_unknown", f"action {attempt.action_id}: {attempt.state} after {OUTCOME_SECONDS:g} s")
                self._measurements.took("action_round_trip_ms", attempt.at_us)  # so long it took at least
                return False
            if now >= ask_at:
                ask_at = now + POLL_SECONDS
                attempt.state = self._ask(attempt.action_id) or attempt.state
            else:
                self._feed.read(min(end, ask_at) - now)
                attempt.state = self._feed.outcome(attempt.action_id) or attempt.state
        self._measurements.took("action_round_trip_ms", attempt.at_us)
        self._compare(attempt)
        return True

    def _compare(self, attempt: Attempt) -> None:
        """Both ways must tell the same outcome."""
        end = time.monotonic() + UNTOLD_SECONDS
        # Only where the topic was watched all the time: what happened before that is in no frame.
        while (told := self._feed.outcome(attempt.action_id)) is None and 0 < self._feed.subscribed_us < attempt.at_us:
            if (left := end - time.monotonic()) <= 0:
                self._fail("action_untold", f"action {attempt.action_id}: {attempt.state} by the API")
                return
            self._feed.read(left)
        asked = self._ask(attempt.action_id)
        if told and asked and told != asked:
            self._fail("action_disagrees", f"action {attempt.action_id}: {told} by the topic, {asked} by the API")

    def _ask(self, action_id: str) -> str:
        """The state by the API; empty: no answer."""
        action = self._api.get(f"/api/actions/{action_id}", Action, "/api/actions/[id]")
        return action.state if action else ""

    def _fail(self, kind: str, detail: str) -> None:
        self._measurements.failure(kind, detail, medium="API")


def _unanswered(answer: Answer) -> bool:
    """5xx promises nothing: it may have been taken or not; one that is paced was not looked at. The key makes it safe."""
    return answer.status == 0 or answer.status >= 500 or (answer.status == 429 and answer.problem().title == PACED)
