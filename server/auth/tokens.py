"""JSON Web Tokens: agents' and users', audiences apart. HS256 with one secret, for development."""

import re
import time
import uuid
from typing import Any

import jwt

from server.auth.principal import ROLES, Agent, User
from server.errors import SeatrialError

ISSUER = "seatrial"
ALGORITHM = "HS256"
LEEWAY_SECONDS = 30
MAX_LIFE_SECONDS = 400 * 86_400
"""A token that claims to live longer is refused: an agent's is renewed each year."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_REQUIRED = ["iss", "aud", "sub", "org", "iat", "exp", "jti"]


class TokenError(SeatrialError):
    """A token that we do not take. The sentence never holds the token.

    Attributes:
        reason: `missing_token` or `invalid_token`, as the 401's body says it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Tokens:
    """Mints and checks tokens with one secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def mint_agent(self, *, org: str, host: str, seconds: int) -> str:
        """A token for the agent of `host`."""
        return self._mint({"aud": "agent", "sub": _name("host", host), "org": _name("org", org)}, seconds)

    def mint_user(self, *, org: str, subject: str, role: str, seconds: int) -> str:
        """A token for a user of `org`."""
        if role not in ROLES:
            raise ValueError(f"role = {role!r}: expected one of {', '.join(ROLES)}")
        return self._mint(
            {"aud": "user", "sub": _name("user", subject), "org": _name("org", org), "role": role}, seconds
        )

    def agent(self, token: str | None) -> Agent:
        """The agent that a token names.

        Raises:
            TokenError: there is none, or it is not good.
        """
        claims = self._claims(token, "agent")
        return Agent(host=claims["sub"], org=claims["org"], expires_at=float(claims["exp"]))

    def user(self, token: str | None) -> User:
        """The user that a token names.

        Raises:
            TokenError: there is none, or it is not good.
        """
        claims = self._claims(token, "user")
        if claims.get("role") not in ROLES:
            raise TokenError("invalid_token", f"claim role: expected one of {', '.join(ROLES)}")
        return User(subject=claims["sub"], org=claims["org"], role=claims["role"], expires_at=float(claims["exp"]))

    def _mint(self, claims: dict[str, Any], seconds: int) -> str:
        if not 0 < seconds <= MAX_LIFE_SECONDS:
            raise ValueError(f"life = {seconds} s: expected 1 to {MAX_LIFE_SECONDS}")
        now = int(time.time())
        claims |= {"iss": ISSUER, "iat": now, "exp": now + seconds, "jti": uuid.uuid4().hex}
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM)

    def _claims(self, token: str | None, audience: str) -> dict[str, Any]:
        if not token:
            raise TokenError("missing_token", "expected a bearer token")
        try:
            decoded = jwt.decode_complete(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                audience=audience,
                issuer=ISSUER,
                leeway=LEEWAY_SECONDS,
                options={"require": _REQUIRED},
            )
        except (jwt.InvalidTokenError, ValueError, OverflowError) as error:
            # The last two: text that is not UTF-8, times beyond all bounds.
            raise TokenError("invalid_token", str(error)) from None
        claims: dict[str, Any] = decoded["payload"]
        if decoded["header"].get("typ") != "JWT":
            raise TokenError("invalid_token", "header typ: expected JWT")
        for claim in ("exp", "iat"):
            if not isinstance(claims[claim], int | float):
                raise TokenError("invalid_token", f"claim {claim}: expected a number of seconds")
        if claims["exp"] - claims["iat"] > MAX_LIFE_SECONDS:
            raise TokenError("invalid_token", "exp: too far from iat")
        for claim in ("sub", "org"):
            if not isinstance(claims[claim], str) or not _NAME.fullmatch(claims[claim]):
                raise TokenError("invalid_token", f"claim {claim}: expected 1 to 128 letters, digits, dots, - or _")
        return claims


def bearer(header: str | None) -> str | None:
    """The token of an `Authorization: Bearer` header; None: there is none."""
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _name(field: str, value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{field} = {value!r}: expected 1 to 128 letters, digits, dots, - or _, the first no sign")
    return value
