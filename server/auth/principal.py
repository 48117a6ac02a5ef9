"""Who is asking: an agent or a user, as the token says."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["viewer", "operator", "admin", "owner"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "admin", "owner")
"""Lowest first."""


@dataclass(frozen=True, slots=True)
class Agent:
    """The agent of a host. Times in Unix seconds."""

    host: str
    org: str
    expires_at: float
    issued_at: float = 0.0
    token_id: str = ""


@dataclass(frozen=True, slots=True)
class User:
    """A person, or a program that acts for one. Times in Unix seconds."""

    subject: str
    org: str
    role: Role
    expires_at: float
    issued_at: float = 0.0
    token_id: str = ""
    topics: frozenset[str] | None = None
    """Live topics that it may watch; None: all of its organisation."""

    def may(self, least: Role) -> bool:
        """Whether its role is at least `least`."""
        return ROLES.index(self.role) >= ROLES.index(least)
