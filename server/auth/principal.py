"""Who is asking: an agent or a user, as the token says."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["viewer", "operator", "admin", "owner"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "admin", "owner")
"""Lowest first."""


@dataclass(frozen=True, slots=True)
class Agent:
    """The agent of a host. `expires_at` in Unix seconds."""

    host: str
    org: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class User:
    """A person, or a program that acts for one. `expires_at` in Unix seconds."""

    subject: str
    org: str
    role: Role
    expires_at: float
