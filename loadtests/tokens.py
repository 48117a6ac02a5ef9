"""The token with which simulated browsers ask for tickets."""

import time
import uuid
from collections.abc import Mapping

import jwt

USER_TOKEN = "SEATRIAL_USER_TOKEN"  # noqa: S105 - a name, not a secret
JWT_SECRET = "SEATRIAL_JWT_SECRET"  # noqa: S105
ORG = "SEATRIAL_ORG"
DEFAULT_ORG = "demo"
LIFE_SECONDS = 3600


class TokenError(Exception):
    """There is nothing to make a user token of."""


def user_token(environ: Mapping[str, str], subject: str) -> str:
    """A user JWT: the one of `SEATRIAL_USER_TOKEN`, or a viewer's, signed with `SEATRIAL_JWT_SECRET`, good for an hour.

    Args:
        environ: the environment; `SEATRIAL_ORG` names the organisation (default `demo`).
        subject: who the minted token is for.

    Raises:
        TokenError: neither is set, or the secret is too short.
    """
    if environ.get(USER_TOKEN):
        return environ[USER_TOKEN]
    secret = environ.get(JWT_SECRET, "")
    if not secret:
        raise TokenError(f"no user token: set {USER_TOKEN} to a user's JWT, or {JWT_SECRET} to the server's secret")
    if len(secret.encode()) < 32:
        raise TokenError(
            f"{JWT_SECRET} has {len(secret.encode())} bytes: expected at least 32, the same as the server's"
        )
    now = int(time.time())
    claims = {
        "iss": "seatrial", "aud": "user", "sub": subject, "org": environ.get(ORG) or DEFAULT_ORG, "role": "viewer",
        "iat": now, "exp": now + LIFE_SECONDS, "jti": uuid.uuid4().hex,
    }  # fmt: skip
    return jwt.encode(claims, secret, algorithm="HS256")
