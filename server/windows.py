"""Flow control: how much each agent may have on its way, out of one budget of memory.

The budget is shared out: an agent's window is its part of the memory, counted in batches and in frame bytes by what both cost
in memory now. So all agents together fit into the budget however long the database is away, and nobody is closed for want
of memory. It is shared among the hosts that are known, not only those that are connected: after a restart all of them come
back. A window begins small and doubles while acks come: who connects while the database is away holds little, whatever its
share. When the budget fills all the same (batches grew, frames are unlike before), windows shrink further, and grow again when
it empties. An agent that was told of a smaller window may have sent more before it heard: the larger one holds for a while.
"""

import time
from collections.abc import Iterable, Sized
from typing import Protocol

from server.agents import AgentRecord, Session
from server.protocol.codec import encode
from server.protocol.messages import Window, WindowUpdate
from server.quotas import Organisation

SHARED_OUT = 0.8
"""Part of the budget that is granted; the rest is for a batch of each that may always be on its way, and for growth."""
EASY, FULL = 0.5, 0.9
"""Use of the budget from which windows shrink, and at which nothing is granted beyond the least."""
SHRINK, GROW = 0.8, 1.25
"""How far a window must be off before its agent is told: telling all of every connection would be a storm of its own."""
GRACE_SECONDS = 30.0
"""How long a larger window holds after a smaller one was told: longer than a connection lives over which nothing arrives."""
FIRST_BATCHES = 4
"""The window that a connection begins with, if its share is not smaller."""
LEAST_BYTES = 4096
_TURNS = 10
"""An agent's window is looked at every so many ticks, a tenth of the agents each time."""
_FIRST_BATCH_BYTES, _FIRST_FRAME_BYTES = 4096, 1024
"""What a batch costs in memory and on the wire before any was seen: ten samples and some lines."""
_FIRST_BATCHES = 10
"""What that guess weighs, in batches."""
_KEPT = 0.98
"""Weight in the mean of what was seen before the last tenth of a second: five seconds, about."""


class Budget:
    """Memory for what is received and not committed, all agents together; one organisation gets at most its share."""

    def __init__(self, limit_bytes: int, *, share: float = 1.0) -> None:
        self.limit_bytes = limit_bytes
        self.share_bytes = int(limit_bytes * share)
        self.used_bytes = 0
        self.taken_batches = 0
        """Ever, with their bytes in memory and on the wire: the means of now are made of it."""
        self.taken_bytes = 0
        self.taken_frame_bytes = 0

    def take(self, organisation: Organisation, size: int, frame_bytes: int) -> bool:
        """Count a batch of `size` bytes in; False: it does not fit, nothing is counted."""
        if not self.hold(organisation, size):
            return False
        self.taken_batches += 1
        self.taken_bytes += size
        self.taken_frame_bytes += frame_bytes
        return True

    def hold(self, organisation: Organisation, size: int) -> bool:
        """Count `size` bytes of something else in, such as half a frame; False: they do not fit, nothing is counted."""
        if self.used_bytes + size > self.limit_bytes or organisation.ingest_bytes + size > self.share_bytes:
            return False
        self.used_bytes += size
        organisation.ingest_bytes += size
        return True

    def give(self, organisation: Organisation, size: int) -> None:
        """Count `size` bytes out."""
        self.used_bytes -= size
        organisation.ingest_bytes -= size


class Agents(Protocol):
    """The connected agents."""

    @property
    def records(self) -> Sized:
        """Hosts that are known."""

    def sessions(self) -> Iterable[Session]:
        """Of all that are connected."""

    def of_org(self, org: str) -> Sized:
        """Hosts of one organisation that are known."""


class Windows:
    """Grants, shrinks and regrows the agents' windows.

    Args:
        budget: of all.
        agents: who shares it.
        most: the largest window there is.
    """

    def __init__(self, budget: Budget, agents: Agents, most: Window) -> None:
        self._budget = budget
        self._agents = agents
        self._most = most
        self._round: list[list[Session]] = []
        """Whom the next ticks look at."""
        self._seen = (0, 0, 0)
        self._batches = float(_FIRST_BATCHES)
        """Batches of late, and below what they took."""
        self._bytes = float(_FIRST_BATCHES * _FIRST_BATCH_BYTES)
        self._frame_bytes = float(_FIRST_BATCHES * _FIRST_FRAME_BYTES)

    def grant(self, record: AgentRecord) -> Window:
        """What the agent, and each of its organisation, may have on its way now."""
        budget, organisation = self._budget, record.organisation
        hosts, of_org = len(self._agents.records), len(self._agents.of_org(record.org))
        memory = SHARED_OUT * min(budget.limit_bytes / max(1, hosts), budget.share_bytes / max(1, of_org))
        memory *= self._ease(organisation)
        batches = memory * self._batches / self._bytes
        size = memory * self._frame_bytes / self._bytes
        most = self._most
        return Window(
            batches=max(1, min(most.batches, int(batches))),
            bytes=max(min(LEAST_BYTES, most.bytes), min(most.bytes, int(size))),
        )

    def open(self, session: Session) -> None:
        """The first window of a session, told with its welcome."""
        record = session.record
        first = max(1, int(FIRST_BATCHES * self._ease(record.organisation)))
        session.window = _at_most(self.grant(record), first, self._frame())
        # What the connection before left on its way counts here, and is not on this one for the agent.
        session.window_before, session.window_before_until = self._most, time.monotonic() + GRACE_SECONDS
        session.window_acked = session.progress.acked

    def _ease(self, organisation: Organisation) -> float:
        """1: there is plenty of room; 0: what there is is needed for the one batch that everybody may send."""
        budget = self._budget
        used = max(budget.used_bytes / budget.limit_bytes, organisation.ingest_bytes / max(1, budget.share_bytes))
        return min(1.0, max(0.0, (FULL - used) / (FULL - EASY)))

    def _frame(self) -> float:
        """Bytes of a mean frame."""
        return self._frame_bytes / self._batches

    def allows(self, session: Session, batches: int, size: int, frame_bytes: int) -> bool:
        """Whether a frame fits beside `batches` of `size` bytes that are on their way. One alone always does."""
        window = session.window
        if not batches or (batches < window.batches and size + frame_bytes <= window.bytes):
            return True
        before = session.window_before
        return (
            time.monotonic() < session.window_before_until
            and batches < before.batches
            and size + frame_bytes <= before.bytes
        )

    def tick(self) -> None:
        """Ten times a second: learn what batches cost, and tell a tenth of the agents if their window is another."""
        self._learn()
        if not self._round:
            sessions = list(self._agents.sessions())
            self._round = [sessions[turn::_TURNS] for turn in range(_TURNS)]
        grants: dict[Organisation, Window] = {}
        for session in self._round.pop():
            if session.record.session is not session:
                continue  # it ended since the round began
            organisation = session.record.organisation
            if (window := grants.get(organisation)) is None:
                window = grants[organisation] = self.grant(session.record)
            if session.progress.acked == session.window_acked:
                # Nothing was stored since the last look: it has no use for more, or the database is away.
                window = _smaller(window, session.window)
            session.window_acked = session.progress.acked
            window = _at_most(window, 2 * session.window.batches, self._frame())
            if _differs(session.window, window):
                self._tell(session, window)

    def _tell(self, session: Session, window: Window) -> None:
        # One that does not read now is told the next time: what it was told last still holds.
        if session.socket.try_send(encode(WindowUpdate(batches=window.batches, bytes=window.bytes))):
            now = time.monotonic()
            before = session.window
            if now < session.window_before_until:
                looser = session.window_before
                before = Window(batches=max(before.batches, looser.batches), bytes=max(before.bytes, looser.bytes))
            session.window_before, session.window_before_until = before, now + GRACE_SECONDS
            session.window = window

    def _learn(self) -> None:
        budget = self._budget
        seen = (budget.taken_batches, budget.taken_bytes, budget.taken_frame_bytes)
        if seen[0] == self._seen[0]:
            return
        self._batches = _KEPT * self._batches + seen[0] - self._seen[0]
        self._bytes = _KEPT * self._bytes + seen[1] - self._seen[1]
        self._frame_bytes = _KEPT * self._frame_bytes + seen[2] - self._seen[2]
        self._seen = seen


def _at_most(window: Window, batches: int, frame_bytes: float) -> Window:
    """No more than so many batches, of twice the mean size."""
    if window.batches <= batches:
        return window
    return Window(batches=batches, bytes=min(window.bytes, max(LEAST_BYTES, int(2 * batches * frame_bytes))))


def _smaller(one: Window, other: Window) -> Window:
    return Window(batches=min(one.batches, other.batches), bytes=min(one.bytes, other.bytes))


def _differs(told: Window, window: Window) -> bool:
    return not (
        SHRINK * told.batches <= window.batches <= GROW * told.batches
        and SHRINK * told.bytes <= window.bytes <= GROW * told.bytes
    )
