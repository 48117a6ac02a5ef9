"""JSON Web Tokens: agents' and users', audiences apart. `server.auth.keys` says with which keys."""

import math
import re
import time
import uuid
from typing import Any

import jwt

from server.auth.keys import Audience, Keys
from server.auth.principal import ROLES, Agent, User
from server.errors import SeatrialError
from server.token_life import MAX_LIFE_SECONDS

ISSUER = "seatrial"
LEEWAY_SECONDS = 30
MAX_TOKEN_CHARACTERS = 8192
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TOKEN_ID = re.compile(r"[\x21-\x7e]{1,128}")
_REQUIRED = ["iss", "aud", "sub", "org", "iat", "exp", "jti"]


class TokenError(SeatrialError):
    """A token that we do not take. The sentence never holds the token.

    Attributes:
        reason: `missing_token`, `invalid_token`, `revoked` or `agent_revoked`, as the 401's body says it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Tokens:
    """Mints and checks tokens."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def mint_agent(self, *, org: str, host: str, seconds: int, issued_at: float | None = None) -> str:
        """A token for the agent of `host`, issued now or at a given time (Unix seconds).

        Raises:
            ValueError: what it would say is no good, or there is no key to sign it with.
        """
        claims = {"sub": _name("host", host), "org": _name("org", org)}
        return self._mint("agent", claims, seconds, issued_at)

    def mint_user(self, *, org: str, subject: str, role: str, seconds: int) -> str:
        """A token for a user of `org`.

        Raises:
            ValueError: what it would say is no good, or there is no key to sign it with.
        """
        if role not in ROLES:
            raise ValueError(f"role = {role!r}: expected one of {', '.join(ROLES)}")
        claims = {"sub": _name("user", subject), "org": _name("org", org), "role": role}
        return self._mint("user", claims, seconds, None)

    def agent(self, token: str | None) -> Agent:
        """The agent that a token names.

        Raises:
            TokenError: there is none, or it is not good.
        """
        claims = self._claims(token, "agent")
        return Agent(
            host=claims["sub"], org=claims["org"], expires_at=float(claims["exp"]), issued_at=float(claims["iat"]),
            token_id=claims["jti"],
        )  # fmt: skip

    def user(self, token: str | None) -> User:
        """The user that a token names.

        Raises:
            TokenError: there is none, or it is not good.
        """
        claims = self._claims(token, "user")
        if claims.get("role") not in ROLES:
            raise TokenError("invalid_token", f"claim role: expected one of {', '.join(ROLES)}")
        return User(
            subject=claims["sub"], org=claims["org"], role=claims["role"], expires_at=float(claims["exp"]),
            issued_at=float(claims["iat"]), token_id=claims["jti"],
        )  # fmt: skip

    def _mint(self, audience: Audience, claims: dict[str, Any], seconds: int, issued_at: float | None) -> str:
        signing = self._keys.signing
        if signing is None:
            raise ValueError("no key to sign tokens with")
        if not 0 < seconds <= MAX_LIFE_SECONDS:
            raise ValueError(f"life = {seconds} s: expected 1 to {MAX_LIFE_SECONDS}")
        # With its fraction: a token minted right after a revocation is told from one minted right before it.
        issued = round(time.time() if issued_at is None else issued_at, 6)
        claims |= {"iss": ISSUER, "aud": audience, "iat": issued, "exp": int(issued) + seconds, "jti": uuid.uuid4().hex}
        headers = None if signing.kid is None else {"kid": signing.kid}
        return jwt.encode(claims, signing.key, algorithm=signing.algorithm, headers=headers)

    def _claims(self, token: str | None, audience: Audience) -> dict[str, Any]:
        if not token:
            raise TokenError("missing_token", "expected a bearer token")
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise TokenError("invalid_token", f"expected at most {MAX_TOKEN_CHARACTERS} characters")
        try:
            key = self._keys.find(jwt.get_unverified_header(token).get("kid"))
            if key is None or key.audience not in {None, audience}:
                raise TokenError("invalid_token", f"header kid: expected a key for audience {audience}")
            decoded = jwt.decode_complete(
                token,
                key.key,
                algorithms=[key.algorithm],
                audience=audience,
                issuer=ISSUER,
                leeway=LEEWAY_SECONDS,
                options={"require": _REQUIRED, "strict_aud": True},
            )
        except (jwt.InvalidTokenError, ValueError, OverflowError, RecursionError) as error:
            # The last three: text that is not UTF-8, times beyond all bounds, nested without end.
            raise TokenError("invalid_token", _reason(error)) from None
        claims: dict[str, Any] = decoded["payload"]
        if decoded["header"].get("typ") != "JWT":
            raise TokenError("invalid_token", "header typ: expected JWT")
        for claim in ("exp", "iat"):
            if type(claims[claim]) not in {int, float} or not math.isfinite(claims[claim]):
                raise TokenError("invalid_token", f"claim {claim}: expected a number of seconds")
        if claims["exp"] - claims["iat"] > MAX_LIFE_SECONDS:
            raise TokenError("invalid_token", "exp: too far from iat")
        for claim in ("sub", "org"):
            if not isinstance(claims[claim], str) or not _NAME.fullmatch(claims[claim]):
                raise TokenError("invalid_token", f"claim {claim}: expected 1 to 128 letters, digits, dots, - or _")
        if not isinstance(claims["jti"], str) or not _TOKEN_ID.fullmatch(claims["jti"]):
            raise TokenError("invalid_token", "claim jti: expected 1 to 128 printable ASCII characters")
        return claims


def bearer(header: str | None) -> str | None:
    """The token of an `Authorization: Bearer` header; None: there is none."""
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _reason(error: Exception) -> str:
    """What is wrong with a token, without its text."""
    return str(error) if isinstance(error, jwt.InvalidTokenError) else "not a JSON Web Token"


def _name(field: str, value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{field} = {value!r}: expected 1 to 128 letters, digits, dots, - or _, the first no sign")
    return value
