"""Tokens, signed with the secret that a development server shares, or with a private key whose public half the server has."""

import time
import uuid
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from simulator.errors import PlanError

SECRET_VARIABLE = "SEATRIAL_JWT_SECRET"  # noqa: S105 - the variable's name
KEY_VARIABLE, KID_VARIABLE = "SEATRIAL_JWT_SIGNING_KEY", "SEATRIAL_JWT_SIGNING_KID"
MIN_SECRET_BYTES = 32
LIFETIME_SECONDS = 3600
_MAX_KEY_BYTES = 64 * 1024


def agent_token(
    secret: str, org: str, host: str, lifetime_seconds: int = LIFETIME_SECONDS, *, kid: str | None = None
) -> str:
    """A JWT with which the agent of `host` may connect, valid from now on; see `signed`."""
    return signed({"aud": "agent", "sub": host, "org": org}, secret, lifetime_seconds, kid=kid)


def signed(claims: Mapping[str, Any], secret: str, lifetime_seconds: int, *, kid: str | None = None) -> str:
    """A JWT of these claims and of those that every token has, valid from now on.

    Args:
        claims: whose it is.
        secret: of HS256; with `kid` a private key in PEM.
        lifetime_seconds: until it ends.
        kid: names the private key to the server.

    Raises:
        ValueError: with `kid`: the secret is no such key.
    """
    now = int(time.time())
    every = {"iss": "seatrial", "iat": now, "exp": now + lifetime_seconds, "jti": uuid.uuid4().hex}
    if kid is None:
        return jwt.encode({**claims, **every}, secret, algorithm="HS256", headers={"typ": "JWT"})
    algorithm, key = _private_key(secret)
    return jwt.encode({**claims, **every}, key, algorithm=algorithm, headers={"typ": "JWT", "kid": kid})


def read_key(path: Path, kid: str | None) -> str:
    """The text of a PEM file that `signed` can sign with.

    Raises:
        PlanError: it cannot be read or holds something else, or nothing names it.
    """
    try:
        with path.open(encoding="ascii") as file:
            text = file.read(_MAX_KEY_BYTES)
        _private_key(text)
    except (OSError, ValueError) as error:
        why = (
            error.strerror
            if isinstance(error, OSError)
            else "expected an unencrypted PEM private key, Ed25519 or P-256"
        )
        raise PlanError("signing-key", path, str(why)) from None
    if not kid:
        raise PlanError("kid", "nothing", f"the kid of {path}, as `seatrial token keys` printed it ({KID_VARIABLE})")
    return text


@lru_cache(maxsize=4)
def _private_key(pem: str) -> tuple[str, Any]:
    """The algorithm of a private key, and the key, read once."""
    for algorithm in ("EdDSA", "ES256"):
        try:
            key = jwt.get_algorithm_by_name(algorithm).prepare_key(pem)
        except (jwt.InvalidKeyError, ValueError, TypeError, UnsupportedAlgorithm):
            continue
        if hasattr(key, "private_bytes"):
            return algorithm, key
    raise ValueError("expected an unencrypted PEM private key, Ed25519 or P-256")
