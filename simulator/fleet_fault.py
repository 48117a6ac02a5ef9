"""What all faults of a fleet have in common: whom they strike, from when to when, and how often they really happened."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from server.protocol.close_codes import CloseCode
from simulator.agent import Agent
from simulator.fault_report import missed
from simulator.impaired_link import ImpairedLink
from simulator.link import Session
from simulator.scenario_faults import Fault
from simulator.services import Services
from simulator.signals import key_of


class FaultServices(Services, Protocol):
    """What a fault asks of the fleet besides."""

    def dial_besides(self, agent: int, session: Session, failed: Callable[[int | None, float | None], None]) -> None:
        """Open a connection with the identity of an agent that is not the agent's own and is not counted as one."""


class Victim:
    """An agent that faults strike.

    Attributes:
        agent: the agent.
        links: its connections, the newest last.
        held: dials that wait until a fault is over; None: none has to.
        token: how many seconds the token of its next dial lives, and which fault wants it so; None: as long as any.
    """

    __slots__ = ("agent", "held", "links", "number", "token")

    def __init__(self, number: int) -> None:
        self.number = number
        self.agent: Agent
        self.links: list[ImpairedLink] = []
        self.held: list[Callable[[], None]] | None = None
        self.token: tuple[int, FleetFault] | None = None

    @property
    def link(self) -> ImpairedLink | None:
        """The connection on which it is welcomed."""
        return self.links[-1] if self.links and self.agent.connected else None


class FleetFault:
    """One fault of a fleet. A kind overrides `begin`, and what else it needs.

    Args:
        fault: what the scenario says.
        victims: whom it strikes.
        services: the fleet.

    Attributes:
        counts: how often what happened.
        begun_us: Unix microseconds; None: its time has not come.
        ended_us: when it was over; None: it is not.
    """

    counted = "connections"
    """The one of `counts` that says whether, and how often, it happened."""
    refusal: CloseCode | None = None
    """The close code that the server owes a connection that it struck; None: none."""
    lasts = False
    """Whether it says itself when it is over, though it takes no `for`."""

    def __init__(self, fault: Fault, victims: Sequence[Victim], services: FaultServices) -> None:
        self.fault, self.victims, self.services = fault, tuple(victims), services
        self.counts: Counter[str] = Counter()
        self.begun_us: int | None = None
        self.ended_us: int | None = None

    @property
    def active(self) -> bool:
        """Whether it has begun and is not over."""
        return self.begun_us is not None and self.ended_us is None

    @property
    def happened(self) -> int:
        """How often it really happened."""
        return self.counts[self.counted]

    def begin(self) -> None:
        """Let it happen."""
        raise NotImplementedError

    def end(self) -> None:
        """What lasts is over."""

    def strike(self, link: ImpairedLink) -> None:
        """Note that a connection is struck: the fault hears of its end."""
        if self not in link.struck_by:
            link.struck_by.append(self)

    def refused(self, link: ImpairedLink, code: int, *, by_peer: bool) -> bool:
        """Whether the server closed a connection for what this fault did, and no newer one that it answers so."""
        return by_peer and link.blamed(code) is self

    def opened(self, victim: Victim, link: ImpairedLink) -> None:
        """A connection of a victim opened, at any time after the fault began."""

    def closed(self, link: ImpairedLink, code: int, *, by_peer: bool) -> None:
        """A connection that the fault struck is gone."""

    def report(self) -> dict[str, Any]:
        """As it stands in the fleet's report."""
        told: dict[str, Any] = {
            "kind": self.fault.kind,
            "planned": self.fault.describe(),
            "begun_us": self.begun_us,
            "ended_us": self.ended_us,
            "agents": len(self.victims),
            "counted": self.counted,
            "happened": self.happened,
            "counts": dict(self.counts),
        }
        return told | {"missed": missed(told)}


def choose(seed: int, place: int, fault: Fault, agents: range) -> list[int]:
    """The agents that a fault strikes, a function of the seed.

    Args:
        seed: of the run.
        place: of the fault among those of the run.
        fault: says how many.
        agents: the numbers of all.
    """
    count = fault.agents or max(1, round(fault.fraction * len(agents)))
    return sorted(sorted(agents, key=lambda number: key_of(seed, place, number))[:count])
