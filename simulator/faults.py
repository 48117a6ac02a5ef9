"""The fleet's own faults on their timeline: each at its time, on its agents, and accounted for."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from simulator.agent import Agent
from simulator.connection_faults import Disconnect, HalfOpen, ReconnectStorm, SlowLink, TokenExpiry, UnreadAcks
from simulator.fault_report import missed_reasons
from simulator.fleet_fault import FaultServices, FleetFault, Victim, choose
from simulator.impaired_link import ImpairedLink
from simulator.link import Session
from simulator.message_faults import (
    ClockSkew,
    ClonedEpoch,
    DuplicateIdentity,
    FrameFlood,
    Impostors,
    MalformedFrames,
    OversizedFrames,
    WindowFlood,
)
from simulator.plan import Plan
from simulator.scenario_faults import Fault
from simulator.services import Timer

KINDS: dict[str, type[FleetFault]] = {
    "disconnect": Disconnect,
    "reconnect_storm": ReconnectStorm,
    "half_open": HalfOpen,
    "unread_acks": UnreadAcks,
    "slow_link": SlowLink,
    "token_expiry": TokenExpiry,
    "clock_skew": ClockSkew,
    "duplicate_identity": DuplicateIdentity,
    "cloned_epoch": ClonedEpoch,
    "malformed_frames": MalformedFrames,
    "oversized_frames": OversizedFrames,
    "window_flood": WindowFlood,
    "frame_flood": FrameFlood,
}
"""What does each kind."""


class Faults:
    """All faults of a fleet; the watcher of its victims' links. Agents that no fault strikes cost nothing.

    Args:
        plan: of the fleet; where it is a shard, it takes those of the struck agents that are its own.
        services: the fleet.
    """

    def __init__(self, plan: Plan, services: FaultServices) -> None:
        self._services = services
        self._victims: dict[int, Victim] = {}
        self._timers: list[Timer] = []
        self._stopped = False
        self.faults = [
            KINDS[fault.kind](fault, self._struck(plan, place, fault), services)
            for place, fault in enumerate(plan.faults)
        ]
        self._of: dict[int, list[FleetFault]] = {number: [] for number in self._victims}
        for fault in self.faults:
            for victim in fault.victims:
                self._of[victim.number].append(fault)

    def __len__(self) -> int:
        return len(self.faults)

    def __contains__(self, agent: int) -> bool:
        """Whether any fault strikes the agent of this number."""
        return agent in self._victims

    def by_kind(self) -> dict[str, int]:
        """How often each kind happened so far, of those that did."""
        found: Counter[str] = Counter()
        for fault in self.faults:
            found[fault.fault.kind] += fault.happened
        return dict(+found)

    @property
    def clock_ahead_us(self) -> tuple[int, int]:
        """How far any clock will be ahead at least (below 0: behind) and at most."""
        skews = [0, *(round(fault.fault.skew_seconds * 1e6) for fault in self.faults)]
        return min(skews), max(skews)

    def start(self, agents: Sequence[Agent], t0_us: int) -> None:
        """Let the timeline run.

        Args:
            agents: of the fleet, in the order of their numbers.
            t0_us: Unix microseconds of its start.
        """
        first = agents[0].number
        for victim in self._victims.values():
            victim.agent = agents[victim.number - first]
        since = (self._services.now_us() - t0_us) / 1e6
        for fault in self.faults:
            self._timers.append(
                self._services.call_later(fault.fault.at_seconds - since, lambda fault=fault: self._begin(fault))  # type: ignore[misc]
            )

    def stop(self) -> None:
        """End what is under way; it counts as not over. Safe to call twice."""
        if self._stopped:
            return
        self._stopped = True
        for timer in self._timers:
            timer.cancel()
        for fault in self.faults:
            if fault.active:
                fault.end()
            if isinstance(fault, Impostors):
                fault.stop()

    def reports(self) -> list[dict[str, Any]]:
        """What each did."""
        return [fault.report() for fault in self.faults]

    def missed(self) -> list[str]:
        """Why some did not happen; empty: all did."""
        return missed_reasons(self.reports())

    # ------------------------------------------------------------ what the fleet asks at a dial

    def session_for(self, agent: int, session: Session) -> Session:
        """The session under which an agent's dial goes."""
        victim = self._victims.get(agent)
        if victim is None:
            return session
        link = ImpairedLink(agent, session, self)
        if victim.token is not None:
            victim.token[1].strike(link)
        return link

    def token_seconds(self, agent: int) -> int | None:
        """How long the token of an agent's own dial lives; None: as long as any."""
        victim = self._victims.get(agent)
        return None if victim is None or victim.token is None else victim.token[0]

    def holds(self, agent: int, dial: Callable[[], None]) -> bool:
        """Whether an agent's dial has to wait; then it comes later."""
        victim = self._victims.get(agent)
        if victim is None or victim.held is None:
            return False
        victim.held.append(dial)
        return True

    # ------------------------------------------------------------ what the links tell, see Watcher

    def opened(self, link: ImpairedLink) -> None:
        """See `Watcher`."""
        victim = self._victims[link.agent]
        victim.links.append(link)
        for fault in self._of[link.agent]:
            if fault.begun_us is not None:
                fault.opened(victim, link)

    def closed(self, link: ImpairedLink, code: int, *, by_peer: bool) -> None:
        """See `Watcher`."""
        victim = self._victims[link.agent]
        victim.links.remove(link)
        for fault in self._of[link.agent]:
            if fault in link.struck_by:
                fault.closed(link, code, by_peer=by_peer)

    def _struck(self, plan: Plan, place: int, fault: Fault) -> list[Victim]:
        """Whom a fault strikes of this shard. All shards choose of the whole fleet, so together they strike so many."""
        chosen = choose(plan.seed, place, fault, range(plan.first_agent, plan.first_agent + plan.agents))
        return [self._victims.setdefault(number, Victim(number)) for number in chosen if number in plan.numbers]

    def _begin(self, fault: FleetFault) -> None:
        fault.begun_us = self._services.now_us()
        fault.begin()
        if fault.fault.for_seconds:
            ends = fault.fault.for_seconds + fault.fault.late_seconds
            self._timers.append(self._services.call_later(ends, lambda: self._end(fault)))
        elif not fault.lasts:
            self._end(fault)

    def _end(self, fault: FleetFault) -> None:
        fault.end()
        fault.ended_us = self._services.now_us()
