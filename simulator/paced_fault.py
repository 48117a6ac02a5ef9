"""Faults that send a lot: a little of it at a time, so that the fleet's ticks have their turn between."""

from collections import deque

from simulator.fleet_fault import FleetFault, Victim
from simulator.impaired_link import ImpairedLink
from simulator.services import Timer

SLICE_SECONDS = 0.01
SLICE_FRAMES = 400
"""As many frames go at a time in all."""
TURN_FRAMES = 200
"""As many of them are one agent's."""
FULL_SECONDS = 10.0
"""A connection that takes nothing for so long is left alone."""


class Turn:
    """What is still to be sent on one connection.

    Attributes:
        victim: whose it is.
        link: the connection.
        left: frames.
        since_us: when it last took one, Unix microseconds.
    """

    __slots__ = ("left", "link", "since_us", "victim")

    def __init__(self, victim: Victim, link: ImpairedLink, left: int, since_us: int) -> None:
        self.victim, self.link, self.left, self.since_us = victim, link, left, since_us


class PacedFault(FleetFault):
    """A fault that sends frames on the connections that stand when it begins. A kind overrides `send`.

    It is over when all is sent, or the connection gone, or full for FULL_SECONDS (counted as `left_full`).
    """

    lasts = True
    slice_frames = SLICE_FRAMES
    """As many frames go at a time in all."""
    _turns: deque[Turn]
    _timer: Timer | None = None

    @property
    def frames(self) -> int:
        """How many each agent sends."""
        return self.fault.frames

    def send(self, turn: Turn, frames: int) -> int:
        """Send some of what is left while the connection is not full.

        Args:
            turn: says where; `left` is set to 0 where no more can be sent at all.
            frames: at most.

        Returns:
            How many were sent.
        """
        raise NotImplementedError

    def begin(self) -> None:
        """Begin to send."""
        now_us = self.services.now_us()
        self._turns = deque(
            Turn(victim, link, self.frames, now_us) for victim in self.victims if (link := victim.link) is not None
        )
        self._go_on()

    def end(self) -> None:
        """Send no more."""
        self._turns.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def closed(self, link: ImpairedLink, code: int, *, by_peer: bool) -> None:
        """The server had enough."""
        if self.refused(link, code, by_peer=by_peer):
            self.counts["closed"] += 1

    def _go_on(self) -> None:
        self._timer = None
        now_us, budget = self.services.now_us(), self.slice_frames
        for _ in range(len(self._turns)):
            if budget <= 0:
                break
            turn = self._turns.popleft()
            if turn.victim.link is not turn.link:
                continue
            sent = self._take(turn, min(turn.left, TURN_FRAMES, budget), now_us)
            budget -= max(1, sent)  # to look at one that is full costs something too
            if turn.left:
                self._turns.append(turn)
        if self._turns:
            self._timer = self.services.call_later(SLICE_SECONDS, self._go_on)
        else:
            self.ended_us = self.services.now_us()

    def _take(self, turn: Turn, frames: int, now_us: int) -> int:
        sent = 0 if turn.link.full else self.send(turn, frames)
        if sent:
            self.strike(turn.link)
            turn.left = max(0, turn.left - sent)
            turn.since_us = now_us
        elif turn.left and now_us - turn.since_us > FULL_SECONDS * 1e6:
            self.counts["left_full"] += 1
            turn.left = 0
        return sent
