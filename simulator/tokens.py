"""Agent tokens, minted with the secret that a development server shares."""

import time
import uuid

import jwt

SECRET_VARIABLE = "SEATRIAL_JWT_SECRET"  # noqa: S105 - the variable's name
MIN_SECRET_BYTES = 32
LIFETIME_SECONDS = 3600


def agent_token(secret: str, org: str, host: str, lifetime_seconds: int = LIFETIME_SECONDS) -> str:
    """A JWT (HS256) with which the agent of `host` may connect, valid from now on."""
    now = int(time.time())
    claims = {
        "iss": "seatrial",
        "aud": "agent",
        "sub": host,
        "org": org,
        "iat": now,
        "exp": now + lifetime_seconds,
        "jti": uuid.uuid4().hex,
    }
    return jwt.encode(claims, secret, algorithm="HS256", headers={"typ": "JWT"})
