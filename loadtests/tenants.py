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

    def owns(self, host: str) -> bool:
        """Whether a host is of this organisation, by its name, which holds the number of its agent."""
        match = _HOST.fullmatch(host)
        return self.of == 1 or (match is not None and (int(match[1]) - 1) % self.of + 1 == self.number)

    def neighbour(self) -> "Tenant":
        """The next organisation."""
        number = self.number % self.of + 1
        return Tenant(f"{self.org.rpartition('-')[0]}-{number}", number, self.of)


ALONE = Tenant()
"""Where there is one organisation only."""


def tenant(org: str, organisations: int, number: int) -> Tenant:
    """The organisation of user, or agent, `number`, from 1."""
    return Tenant(organisation(org, organisations, number), (number - 1) % organisations + 1, organisations)


def tenants(org: str, organisations: int) -> list[Tenant]:
    """All of them."""
    return [tenant(org, organisations, number) for number in range(1, organisations + 1)]
