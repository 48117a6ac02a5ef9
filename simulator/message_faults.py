"""Faults of what agents say: frames that no server wants, more of them than it wants, clocks that are off, and impostors."""

import uuid
from collections.abc import Sequence
from itertools import cycle, islice

import msgspec

from server.protocol.close_codes import CloseCode
from server.protocol.codec import encode
from server.protocol.messages import AgentHeartbeat, Hello
from simulator.fleet_fault import FaultServices, FleetFault, Victim
from simulator.impaired_link import ImpairedLink
from simulator.impostor import Impostor
from simulator.scenario_faults import Fault

MALFORMED = (
    b"no JSON at all",
    b'{"type":"heartbeat","at":',
    b"[1,2,3]",
    b'{"type":"heartbeat","at":"noon"}',
    b'{"at":1}',
    b'{"type":"pulse","at":1,"metrics":{}}',
)
"""Frames that are no message. None reads as a batch: a server passes over the seq of a batch that it cannot read, and the
agent's own batch of that seq would never be stored.
"""
_FLOOD_SECONDS = 0.01
_FLOOD_FRAMES = 200
"""A flood goes by so many frames of each agent at a time, so that the fleet's ticks have their turn."""


class MalformedFrames(FleetFault):
    """Agents send nonsense."""

    counted = "frames"
    refusal = CloseCode.BAD_REQUEST

    def begin(self) -> None:
        """Send."""
        for victim in self.victims:
            if (link := victim.link) is not None:
                self.strike(link)
                for data in islice(cycle(MALFORMED), self.fault.frames):
                    self.counts["frames"] += 1
                    link.send(data)

    def closed(self, link: ImpairedLink, code: int, *, by_peer: bool) -> None:
        """The server had enough."""
        if self.refused(link, code, by_peer=by_peer):
            self.counts["closed"] += 1


class OversizedFrames(FleetFault):
    """Agents send a frame over the server's limit."""

    counted = "frames"
    refusal = CloseCode.MESSAGE_TOO_BIG

    def begin(self) -> None:
        """Send."""
        for victim in self.victims:
            if (link := victim.link) is not None:
                over = victim.agent.delivery.max_frame_bytes + 1
                head, tail = b'{"type":"heartbeat","at":1,"padding":"', b'"}'
                self.counts["frames"] += 1
                self.strike(link)
                link.send(head + b"x" * (over - len(head) - len(tail)) + tail)

    def closed(self, link: ImpairedLink, code: int, *, by_peer: bool) -> None:
        """The server refused it."""
        if self.refused(link, code, by_peer=by_peer):
            self.counts["closed"] += 1


class WindowFlood(FleetFault):
    """Agents send past their window."""

    counted = "past_window"
    refusal = CloseCode.RATE_LIMITED

    def begin(self) -> None:
        """Send."""
        for victim in self.victims:
            if victim.link is not None:
                self.strike(victim.link)
                self.counts["batches"] += self.fault.frames
                self.counts["past_window"] += victim.agent.delivery.flood(self.fault.frames)

    def closed(self, link: ImpairedLink, code: int, *, by_peer: bool) -> None:
        """The server had enough."""
        if self.refused(link, code, by_peer=by_peer):
            self.counts["closed"] += 1


class FrameFlood(FleetFault):
    """Agents send heartbeats without end, nearly."""

    counted = "frames"
    refusal = CloseCode.RATE_LIMITED
    lasts = True

    def begin(self) -> None:
        """Begin to send."""
        self._left = {victim.link: self.fault.frames for victim in self.victims if victim.link is not None}
        for link in self._left:
            self.strike(link)
        self._send()

    def _send(self) -> None:
        for link, left in tuple(self._left.items()):
            frame = encode(AgentHeartbeat(at=self.services.now_us()))
            sent = 0
            while sent < min(left, _FLOOD_FRAMES) and not link.full:
                link.send(frame)
                sent += 1
            self.counts["frames"] += sent
            self._left[link] = left - sent
            if left == sent or link.closing:
                del self._left[link]
        if self._left:
            self.services.call_later(_FLOOD_SECONDS, self._send)
        else:
            self.ended_us = self.services.now_us()

    def closed(self, link: ImpairedLink, code: int, *, by_peer: bool) -> None:
        """It takes no more."""
        self._left.pop(link, None)
        if self.refused(link, code, by_peer=by_peer):
            self.counts["closed"] += 1


class ClockSkew(FleetFault):
    """Clocks are off."""

    counted = "batches"

    def begin(self) -> None:
        """Set them."""
        self._ticks = {victim: victim.agent.delivery.tick for victim in self.victims}
        for victim in self.victims:
            victim.agent.set_clock(round(self.fault.skew_seconds * 1e6))

    def end(self) -> None:
        """Set them right."""
        for victim, before in self._ticks.items():
            self.counts["batches"] += victim.agent.delivery.tick - before
            victim.agent.set_clock(0)


class Impostors(FleetFault):
    """Somebody else dials as an agent that is connected."""

    counted = "dialled"
    refusal: CloseCode

    def __init__(self, fault: Fault, victims: Sequence[Victim], services: FaultServices) -> None:
        super().__init__(fault, victims, services)
        self._impostors: list[Impostor] = []

    def begin(self) -> None:
        """Dial."""
        for victim in self.victims:
            if victim.link is not None:
                impostor = Impostor(self.hello(victim), self.refusal, self.counts, self.services)
                self._impostors.append(impostor)
                self.services.dial_besides(victim.number, impostor, impostor.failed)

    def hello(self, victim: Victim) -> Hello:
        """What the impostor says."""
        raise NotImplementedError

    def stop(self) -> None:
        """Cut what still stands."""
        for impostor in self._impostors:
            impostor.abort()


class DuplicateIdentity(Impostors):
    """Another machine has the agent's token."""

    refusal = CloseCode.DUPLICATE_IDENTITY

    def hello(self, victim: Victim) -> Hello:
        """That of another machine at its first start."""
        return msgspec.structs.replace(
            victim.agent.hello(), machine_id=uuid.uuid4().hex, epoch=str(uuid.uuid4()), connection=1, oldest=1,
            next_seq=1,
        )  # fmt: skip


class ClonedEpoch(Impostors):
    """A copy of the agent dials as the agent did."""

    refusal = CloseCode.SUPERSEDED

    def hello(self, victim: Victim) -> Hello:
        """The agent's own, to the letter."""
        return victim.agent.hello()
