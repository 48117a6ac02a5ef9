"""Faults of what agents say: frames that no server wants, more of them than it wants, clocks that are off, and impostors."""

import uuid
from collections.abc import Sequence

import msgspec

from server.protocol.close_codes import CloseCode
from server.protocol.codec import encode
from server.protocol.messages import AgentHeartbeat, Hello
from simulator.fleet_fault import FaultServices, FleetFault, Victim
from simulator.impostor import Impostor
from simulator.paced_fault import PacedFault, Turn
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
_OVERSIZED_HEAD, _OVERSIZED_TAIL = b'{"type":"heartbeat","at":1,"padding":"', b'"}'


class MalformedFrames(PacedFault):
    """Agents send nonsense."""

    counted = "frames"
    refusal = CloseCode.BAD_REQUEST

    def send(self, turn: Turn, frames: int) -> int:
        """One after the other."""
        sent = 0
        while sent < frames and not turn.link.full:
            turn.link.send(MALFORMED[(self.frames - turn.left + sent) % len(MALFORMED)])
            sent += 1
        self.counts["frames"] += sent
        return sent


class OversizedFrames(PacedFault):
    """Agents send a frame over the server's limit."""

    counted = "frames"
    refusal = CloseCode.MESSAGE_TOO_BIG
    slice_frames = 2  # of a megabyte each

    @property
    def frames(self) -> int:
        """One is enough."""
        return 1

    def begin(self) -> None:
        """Begin to send."""
        self._made: dict[int, bytes] = {}
        super().begin()

    def send(self, turn: Turn, frames: int) -> int:
        """The one."""
        del frames
        turn.link.send(self._of_size(turn.victim.agent.delivery.max_frame_bytes + 1))
        self.counts["frames"] += 1
        return 1

    def _of_size(self, size_bytes: int) -> bytes:
        """The frame of a size, made once: all agents of a server have the same limit."""
        frame = self._made.get(size_bytes)
        if frame is None:
            padding = b"x" * (size_bytes - len(_OVERSIZED_HEAD) - len(_OVERSIZED_TAIL))
            frame = _OVERSIZED_HEAD + padding + _OVERSIZED_TAIL
            self._made = {size_bytes: frame}
        return frame


class WindowFlood(PacedFault):
    """Agents send past their window."""

    counted = "past_window"
    refusal = CloseCode.RATE_LIMITED

    def send(self, turn: Turn, frames: int) -> int:
        """Empty batches, as long as the spool has room for them."""
        added, past_window = turn.victim.agent.delivery.flood(frames)
        self.counts["batches"] += added
        self.counts["past_window"] += past_window
        if added < frames:
            turn.left = added
        return added


class FrameFlood(PacedFault):
    """Agents send heartbeats without end, nearly."""

    counted = "frames"
    refusal = CloseCode.RATE_LIMITED

    def send(self, turn: Turn, frames: int) -> int:
        """One after the other."""
        frame = encode(AgentHeartbeat(at=turn.victim.agent.clock_us(self.services.now_us())))
        sent = 0
        while sent < frames and not turn.link.full:
            turn.link.send(frame)
            sent += 1
        self.counts["frames"] += sent
        return sent


class ClockSkew(FleetFault):
    """Clocks are off."""

    counted = "batches"

    def begin(self) -> None:
        """Set them."""
        self._produced = {victim: victim.agent.delivery.produced for victim in self.victims}
        for victim in self.victims:
            victim.agent.set_clock(round(self.fault.skew_seconds * 1e6))

    def end(self) -> None:
        """Set them right."""
        for victim, before in self._produced.items():
            # Those that were never sent bear the wrong time too, and nobody has seen it.
            self.counts["batches"] += max(0, victim.agent.delivery.sent - before)
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
