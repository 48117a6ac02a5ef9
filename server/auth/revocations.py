"""What is revoked: users, single tokens and hosts of an organisation, as the database said last.

A revocation of a user or a host ends every token issued up to its moment; a token issued later is good again. `iat` of a
token from elsewhere is whole seconds, rounded down, so `issued_at <= revoked_at` also refuses one that was issued later in
the same second: it errs on the safe side, and the next second's is good. Tokens that this server mints carry fractions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from server.auth.principal import Agent, User

Kind = Literal["user", "token", "host"]
KINDS: tuple[Kind, ...] = ("user", "token", "host")
Subject = tuple[str, Kind, str]
"""Organisation, kind, and the user's, token's (`jti`) or host's id."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """One of them, with who did it and why. Times in Unix microseconds."""

    kind: Kind
    subject: str
    revoked_at: int
    revoked_by: str
    reason: str


class Revocations:
    """The revocations in force, in memory: asked at every door, without waiting."""

    def __init__(self) -> None:
        self._moments: Mapping[Subject, float] = {}

    def __len__(self) -> int:
        return len(self._moments)

    def revoked(self, who: User | Agent) -> bool:
        """Whether the token that names `who` is worth nothing any more."""
        moments = self._moments
        if not moments:
            return False
        if (who.org, "token", who.token_id) in moments:
            return True
        owner: Subject = (who.org, "user", who.subject) if isinstance(who, User) else (who.org, "host", who.host)
        moment = moments.get(owner)
        return moment is not None and who.issued_at <= moment

    def replace(self, moments: Mapping[Subject, float]) -> None:
        """Take over what is in force now; each moment in Unix seconds."""
        self._moments = moments
