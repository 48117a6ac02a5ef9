"""Tokens of simulated users."""

import time
import uuid
from collections.abc import Mapping

import jwt

USER_TOKEN = "SEATRIAL_USER_TOKEN"  # noqa: S105 - a name, not a secret
JWT_SECRET = "SEATRIAL_JWT_SECRET"  # noqa: S105
ORG = "SEATRIAL_ORG"
DEFAULT_ORG = "demo"
LIFE_SECONDS = 3600
VIEWER = "viewer"


class TokenError(Exception):
    """There is nothing to make a user token of."""


def user_token(environ: Mapping[str, str], subject: str, role: str = VIEWER, org: str = "") -> str:
    """A user JWT, signed with `SEATRIAL_JWT_SECRET` and good for an hour; a viewer's may come as `SEATRIAL_USER_TOKEN`.

    Args:
        environ: the environment; `SEATRIAL_ORG` names the organisation (default `demo`).
        subject: who the minted token is for.
        role: viewer, operator, admin or owner.
        org: the organisation; empty: the environment's.

    Raises:
        TokenError: there is nothing to make it of, or the secret is too short.
    """
    if role == VIEWER and environ.get(USER_TOKEN):
        return environ[USER_TOKEN]
    secret = environ.get(JWT_SECRET, "")
    if not secret and role == VIEWER:
        raise TokenError(f"no user token: set {USER_TOKEN} to a user's JWT, or {JWT_SECRET} to the server's secret")
    if not secret:
        raise TokenError(f"no token of role {role}: set {JWT_SECRET} to the server's secret")
    if len(secret.encode()) < 32:
        raise TokenError(
            f"{JWT_SECRET} has {len(secret.encode())} bytes: expected at least 32, the same as the server's"
        )
    now = int(time.time())
    claims = {
        "iss": "seatrial", "aud": "user", "sub": subject, "org": org or environ.get(ORG) or DEFAULT_ORG,
        "role": role,
        "iat": now, "exp": now + LIFE_SECONDS, "jti": uuid.uuid4().hex,
    }  # fmt: skip
    return jwt.encode(claims, secret, algorithm="HS256")
