"""The organisations of a run: which of its agents and simulated users belong to which, see `simulator.organisations`."""

import re
from typing import NamedTuple

from simulator.organisations import organisation

_HOST = re.compile(r"host-([0-9]+)")


class Tenant(NamedTuple):
    """One of the organisations."""

    org: str = ""
    """Empty: the one of the environment."""
    number: int = 1
    of: int = 1
    """How many there are."""
    agents: int = 0
    """Of all of them together; 0: not known."""

    def owns(self, host: str) -> bool:
        """Whether a host is of this organisation, by its name, which holds the number of its agent."""
        match = _HOST.fullmatch(host)
        return self.of == 1 or (match is not None and (int(match[1]) - 1) % self.of + 1 == self.number)

    def too_many(self, hosts: int) -> bool:
        """Whether so many hosts are more than this organisation's share of the agents, as far as that is known."""
        return self.of > 1 and self.agents > 0 and hosts > (self.agents - self.number + self.of) // self.of

    def neighbour(self) -> "Tenant":
        """The next organisation."""
        number = self.number % self.of + 1
        return Tenant(f"{self.org.rpartition('-')[0]}-{number}", number, self.of, self.agents)


ALONE = Tenant()
"""Where there is one organisation only."""


def tenant(org: str, organisations: int, number: int, agents: int = 0) -> Tenant:
    """The organisation of user, or agent, `number`, from 1; there are so many `agents` in all, 0: that is not known."""
    return Tenant(organisation(org, organisations, number), (number - 1) % organisations + 1, organisations, agents)


def dealt(local: int, worker: int, workers: int) -> int:
    """The number, from 1, by which a user gets its organisation: those of all workers interleave, so each one has some.

    Args:
        local: number of the user among those of its kind in its worker, from 0.
        worker: number of the worker, from 0.
        workers: how many there are.
    """
    return local * workers + worker + 1


def tenants(org: str, organisations: int) -> list[Tenant]:
    """All of them."""
    return [tenant(org, organisations, number) for number in range(1, organisations + 1)]
