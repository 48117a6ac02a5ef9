"""Which tokens are taken, and which are not."""

import time
from typing import Any

import jwt
import pytest

from server.auth.tokens import TokenError, Tokens, bearer
from server.logs import redact

SECRET = "a-secret-of-the-tests-that-is-long-enough-for-every-algorithm-of-the-family"


def claims(**changes: Any) -> dict[str, Any]:
    """Claims of a good agent's token."""
    now = int(time.time())
    good = {"iss": "seatrial", "aud": "agent", "sub": "h", "org": "o", "iat": now, "exp": now + 60, "jti": "j"}
    return {key: value for key, value in (good | changes).items() if value is not None}


def signed(algorithm: str = "HS256", secret: str = SECRET, **changes: Any) -> str:
    """A token with changed claims."""
    return jwt.encode(claims(**changes), secret if algorithm != "none" else "", algorithm=algorithm)


def test_a_good_token_names_its_agent() -> None:
    """Host, organisation and expiry come from the claims."""
    agent = Tokens(SECRET).agent(signed())

    assert (agent.host, agent.org) == ("h", "o")


@pytest.mark.parametrize(
    "token",
    [
        signed(aud="user"), signed(iss="other"), signed(exp=1), signed(exp=None), signed(iat=None), signed(jti=None),
        signed(sub=None), signed(org=None), signed(sub="../x"), signed(org=""), signed(org=7), signed(exp=10**18),
        signed(iat=int(time.time()) + 3600), signed(secret="another-secret-that-is-also-long-enough"),
        signed(algorithm="none"), signed(algorithm="HS512"), "rubbish", "a.b.c",
    ],
)  # fmt: skip
def test_any_other_token_is_refused(token: str) -> None:
    """Wrong audience, issuer, times, names, signature or algorithm, or a claim left out: none is taken."""
    with pytest.raises(TokenError) as caught:
        Tokens(SECRET).agent(token)
    assert caught.value.reason == "invalid_token"
    assert token not in str(caught.value)


def test_a_user_needs_a_known_role() -> None:
    """A role that nobody has is no role."""
    tokens = Tokens(SECRET)
    assert tokens.user(tokens.mint_user(org="o", subject="u", role="operator", seconds=5)).role == "operator"
    with pytest.raises(TokenError):
        tokens.user(signed(aud="user", role="king"))


@pytest.mark.parametrize(
    ("header", "token"), [(None, None), ("Bearer x", "x"), ("bearer  x ", "x"), ("Basic x", None), ("x", None)]
)
def test_bearer_tokens_are_read_from_their_header(header: str | None, token: str | None) -> None:
    """Only the Bearer scheme counts, in any case."""
    assert bearer(header) == token


@pytest.mark.parametrize(
    "text",
    ["GET /ws/live?ticket=SECRETSECRET HTTP", "x?token=SECRETSECRET&y", "Authorization: Bearer SECRETSECRET", signed()],
)
def test_secrets_are_taken_out_of_log_lines(text: str) -> None:
    """Nothing of a ticket, token or header value is left."""
    assert "SECRETSECRET" not in redact(text)
    assert "eyJ" not in redact(text)
