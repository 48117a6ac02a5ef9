"""What enrolment hands out: a token that is good once, then a host's credentials. Times in Unix microseconds."""

import hashlib
import secrets
from dataclasses import dataclass

TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Enrolment:
    """An invitation for the agent of one host."""

    host: str
    token: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class Credentials:
    """An agent's token, and who it makes it."""

    token: str
    host: str
    org: str
    expires_at: int


def new_token() -> str:
    """A random enrolment token of 256 bits."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def digest(token: str) -> bytes:
    """What is stored of a token. It is random and long: a plain hash is enough."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
