"""Tokens of simulated users."""

from collections.abc import Mapping
from pathlib import Path

from simulator.errors import PlanError
from simulator.tokens import KEY_VARIABLE, KID_VARIABLE, MIN_SECRET_BYTES, read_key, signed

USER_TOKEN = "SEATRIAL_USER_TOKEN"  # noqa: S105 - a name, not a secret
JWT_SECRET = "SEATRIAL_JWT_SECRET"  # noqa: S105
ORG = "SEATRIAL_ORG"
DEFAULT_ORG = "demo"
LIFE_SECONDS = 3600
VIEWER = "viewer"


class TokenError(Exception):
    """There is nothing to make a user token of."""


def user_token(environ: Mapping[str, str], subject: str, role: str = VIEWER, org: str = "") -> str:
    """A user JWT, good for an hour; a viewer's may come as `SEATRIAL_USER_TOKEN`.

    It is signed with the private key in the file of `SEATRIAL_JWT_SIGNING_KEY`, or with `SEATRIAL_JWT_SECRET`.

    Args:
        environ: the environment; `SEATRIAL_ORG` names the organisation (default `demo`).
        subject: who the minted token is for.
        role: viewer, operator, admin or owner.
        org: the organisation; empty: the environment's.

    Raises:
        TokenError: there is nothing to make it of, or it cannot be used.
    """
    if role == VIEWER and environ.get(USER_TOKEN):
        return environ[USER_TOKEN]
    claims = {"aud": "user", "sub": subject, "org": org or environ.get(ORG) or DEFAULT_ORG, "role": role}
    if not environ.get(KEY_VARIABLE) and not environ.get(JWT_SECRET):
        if role == VIEWER:
            raise TokenError(f"no user token: set {USER_TOKEN} to a user's JWT, or {JWT_SECRET} to the server's secret")
        raise TokenError(f"no token of role {role}: set {JWT_SECRET} to the server's secret")
    secret, kid = signer(environ)
    return signed(claims, secret, LIFE_SECONDS, kid=kid)


def signer(environ: Mapping[str, str]) -> tuple[str, str | None]:
    """What signs tokens: a private key in PEM and its kid, or a secret and None.

    Raises:
        TokenError: it cannot be used.
    """
    if environ.get(KEY_VARIABLE):
        kid = environ.get(KID_VARIABLE)
        try:
            return read_key(Path(environ[KEY_VARIABLE]), kid), kid
        except PlanError as error:
            raise TokenError(str(error)) from None
    secret = environ.get(JWT_SECRET, "")
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise TokenError(
            f"{JWT_SECRET} has {len(secret.encode())} bytes: expected at least {MIN_SECRET_BYTES}, the same as the server's"
        )
    return secret, None
