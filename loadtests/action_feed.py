"""The live topic `actions`, as an operator's screen follows it."""

import time
from contextlib import suppress

from loadtests.api import Api, Ticket
from loadtests.attempts import FINAL_STATES
from loadtests.measure import now_us
from loadtests.recorded import Measurements
from loadtests.ws_client import LiveClosedError, LiveRefusedError, LiveSocket
from server.protocol.codec import FrameError, decode_live_event
from server.protocol.messages import ActionChange, ActionState, ActionStatus, Error, LiveHeartbeat, Snapshot, Subscribe

TOPIC = "actions"
HEARTBEAT_SECONDS = 5.0
REDIAL_SECONDS = 1.0
OUTCOMES = 1000
"""Outcomes that are remembered, those of other operators included."""


class ActionFeed:
    """What the server tells of actions, over one socket that is opened again when it is lost.

    Args:
        api: of the operator.
        host: the server's http(s) address.
        measurements: told of what is wrong.
    """

    def __init__(self, api: Api, host: str, measurements: Measurements) -> None:
        self._api = api
        self._host = host
        self._measurements = measurements
        self._socket: LiveSocket | None = None
        self._dial_at = self._beat_at = 0.0
        self._outcomes: dict[str, ActionState] = {}
        self.subscribed_us = 0
        """Since when everything is told, in Unix microseconds; 0: not now."""

    def outcome(self, action_id: str) -> ActionState | None:
        """How an action ended, as far as was told by now."""
        return self._outcomes.get(action_id)

    def read(self, seconds: float) -> None:
        """Take in the next message; returns after about `seconds` if none comes."""
        end = time.monotonic() + seconds
        if self._socket is None:
            self._open(end)
        if self._socket is None:
            return
        try:
            if time.monotonic() >= self._beat_at:
                self._beat_at = time.monotonic() + HEARTBEAT_SECONDS
                self._socket.send(LiveHeartbeat(at=now_us()))
            frame = self._socket.receive(max(0.001, min(end, self._beat_at) - time.monotonic()))
        except TimeoutError:
            return
        except LiveClosedError as closed:
            self._measurements.closed(closed.code, closed.reason)
            self._lose()
            return
        for action in self._told(frame):
            self._take(action)

    def close(self) -> None:
        """Leave. Safe to call twice."""
        if self._socket is not None:
            socket, self._socket = self._socket, None
            with suppress(LiveClosedError, TimeoutError):
                socket.close()

    def _open(self, end: float) -> None:
        """Dial, at most once a second; where that fails, the time until `end` passes."""
        if (wait := self._dial_at - time.monotonic()) <= 0:
            self._dial_at = time.monotonic() + REDIAL_SECONDS
            answer = self._api.send("POST", "/api/live-tickets", expect=(201,), json={"topics": [TOPIC]})
            ticket = self._api.read(answer, Ticket, "/api/live-tickets")
            try:
                if ticket is not None:
                    self._socket = LiveSocket(self._host, ticket.ticket)
                    self._socket.send(Subscribe(topics=(TOPIC,)))
                    self._measurements.visit()
                    return
            except LiveRefusedError as refused:
                self._measurements.failure("refused", str(refused))
            except (LiveClosedError, TimeoutError) as error:
                self._measurements.failure("refused", str(error))
                self._lose()
            wait = REDIAL_SECONDS
        time.sleep(max(0.0, min(wait, end - time.monotonic())))

    def _lose(self) -> None:
        self.subscribed_us = 0
        self.close()

    def _take(self, action: ActionStatus) -> None:
        tenant = self._api.identity.tenant
        if not tenant.owns(action.host):
            detail = f"action {action.action_id} of host {action.host} in {TOPIC} of {tenant.org}"
            self._measurements.failure("foreign", detail)
        elif action.state in FINAL_STATES:
            self._outcomes[action.action_id] = action.state
            if len(self._outcomes) > OUTCOMES:
                del self._outcomes[next(iter(self._outcomes))]

    def _told(self, frame: bytes) -> tuple[ActionStatus, ...]:
        try:
            event = decode_live_event(frame)
        except FrameError as error:
            self._measurements.failure("bad_frame", str(error))
            return ()
        match event:
            case Snapshot(topic="actions"):
                self.subscribed_us = self.subscribed_us or now_us()
                return event.actions
            case ActionChange(topic="actions"):
                return (event.action,)
            case Error():
                self._measurements.failure("error", f"{event.code}: {event.message}")
        return ()
