"""Agent tokens carry the claims that the server asks for."""

import jwt

from simulator.tokens import agent_token

SECRET = "s" * 32


def test_a_token_has_the_agents_claims() -> None:
    """Issuer, audience, host, organisation, times and an id of its own."""
    token = agent_token(SECRET, "acme", "host-00007", 60)
    claims = jwt.decode(
        token, SECRET, algorithms=["HS256"], audience="agent", issuer="seatrial",
        options={"require": ["iss", "aud", "sub", "org", "iat", "exp", "jti"]},
    )  # fmt: skip

    assert claims["sub"] == "host-00007"
    assert claims["org"] == "acme"
    assert claims["exp"] - claims["iat"] == 60
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}


def test_no_two_tokens_are_equal() -> None:
    """Each token has another id."""
    assert agent_token(SECRET, "o", "h") != agent_token(SECRET, "o", "h")
