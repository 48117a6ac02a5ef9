"""Tokens: what we mint we take, and nothing else."""

import time
from typing import Any

import jwt
import pytest

from server.auth.keys import Keys
from server.auth.principal import ROLES
from server.auth.tokens import LEEWAY_SECONDS, TokenError, Tokens, bearer
from server.token_life import MAX_LIFE_SECONDS

SECRET = "a-secret-of-the-tests-that-is-long-enough"
TOKENS = Tokens(Keys.of_secret(SECRET))


def token(*, key: str = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """An agent's token with some claims changed, or left out where they are `...`."""
    now = int(time.time())
    good = {"iss": "seatrial", "aud": "agent", "sub": "h1", "org": "o", "iat": now, "exp": now + 60, "jti": "j"}
    kept = {name: value for name, value in (good | claims).items() if value is not ...}
    return jwt.encode(kept, key, algorithm=algorithm, headers=headers)


def refused(text: str | None) -> TokenError:
    """The error with which a token is refused; it never holds the token."""
    with pytest.raises(TokenError) as caught:
        TOKENS.agent(text)
    assert not text or text not in str(caught.value)
    return caught.value


def test_an_agents_token_names_its_host() -> None:
    """What was minted for a host is its identity."""
    agent = TOKENS.agent(TOKENS.mint_agent(org="o", host="host-1", seconds=60))

    assert (agent.org, agent.host) == ("o", "host-1")
    assert 50 < agent.expires_at - time.time() <= 60


@pytest.mark.parametrize("role", ROLES)
def test_a_users_token_names_subject_and_role(role: str) -> None:
    """What was minted for a user is theirs, with each role."""
    user = TOKENS.user(TOKENS.mint_user(org="o", subject="ada", role=role, seconds=60))

    assert (user.org, user.subject, user.role) == ("o", "ada", role)


def test_tokens_are_not_alike() -> None:
    """Each token has an id of its own, by which it can be revoked."""
    one, two = (TOKENS.mint_agent(org="o", host="h", seconds=60) for _ in range(2))

    assert one != two


def test_audiences_do_not_mix() -> None:
    """A user's token is no agent's, nor the other way round."""
    assert refused(TOKENS.mint_user(org="o", subject="ada", role="owner", seconds=60)).reason == "invalid_token"
    with pytest.raises(TokenError):
        TOKENS.user(TOKENS.mint_agent(org="o", host="h1", seconds=60))


@pytest.mark.parametrize("text", [None, ""])
def test_no_token(text: str | None) -> None:
    """No token at all has a reason of its own."""
    assert refused(text).reason == "missing_token"


@pytest.mark.parametrize("text", ["x", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "\ud800", "a" * 100_000])
def test_what_is_no_token(text: str) -> None:
    """Garbage is refused like a bad token."""
    assert refused(text).reason == "invalid_token"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(token(algorithm="none", key=""), id="alg none"),
        pytest.param(token(key="another-secret-that-is-just-as-long-as-ours"), id="another key"),
        pytest.param(token(algorithm="HS512", key=SECRET * 2), id="another algorithm"),
        pytest.param(token(headers={"crit": ["x"], "x": 1}), id="unknown critical header"),
        pytest.param(token(headers={"typ": "at+jwt"}), id="typ"),
        pytest.param(token(headers={"typ": None}), id="no typ"),
        pytest.param(token()[:-4] + "AAAA", id="signature"),
    ],
)
def test_what_is_not_signed_by_us(text: str) -> None:
    """Another key, algorithm or kind of token is refused."""
    assert refused(text).reason == "invalid_token"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "other"},
        {"aud": "admin"},
        {"exp": time.time() - LEEWAY_SECONDS - 5},
        {"nbf": time.time() + 3600},
        {"iat": time.time() + 3600, "exp": time.time() + 7200},
        {"exp": int(time.time()) + MAX_LIFE_SECONDS + 86_400},
        {"exp": str(int(time.time()) + 60)},
        {"exp": [1]},
        {"exp": float("inf")},
        {"sub": ""},
        {"sub": 5},
        {"sub": "a/b"},
        {"sub": "h1\n"},
        {"sub": ".."},
        {"sub": "x" * 129},
        {"org": "o o"},
        {"org": "ö"},
        {"org": None},
        {"org": ["o"]},
    ],
    ids=" ".join,
)
def test_a_bad_claim(claims: dict[str, Any]) -> None:
    """Each claim that is not as it must be refuses the token, signed or not."""
    assert refused(token(**claims)).reason == "invalid_token"


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "org", "iat", "exp", "jti"])
def test_a_missing_claim(claim: str) -> None:
    """Every claim is required, and the refusal names it."""
    claims: dict[str, Any] = {claim: ...}

    assert claim in str(refused(token(**claims)))


@pytest.mark.parametrize("role", [..., None, "root", "Owner", ["owner"]])
def test_an_unknown_role(role: object) -> None:
    """A user's token needs a role that there is."""
    with pytest.raises(TokenError, match="role: expected one of viewer, operator, admin, owner"):
        TOKENS.user(token(aud="user", role=role))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"host": "a/b"}, "host = 'a/b': expected 1 to 128 letters"),
        ({"host": "a\n"}, "host = 'a\\\\n'"),
        ({"org": ""}, "org = ''"),
        ({"seconds": 0}, "life = 0 s: expected 1 to"),
        ({"seconds": MAX_LIFE_SECONDS + 1}, "life ="),
    ],
)
def test_what_is_not_minted(fields: dict[str, Any], message: str) -> None:
    """A token that would be refused is not made; the error names field, value and expectation."""
    good: dict[str, Any] = {"org": "o", "host": "h", "seconds": 60}

    with pytest.raises(ValueError, match=message):
        TOKENS.mint_agent(**good | fields)
    with pytest.raises(ValueError, match="role = 'root': expected one of"):
        TOKENS.mint_user(org="o", subject="ada", role="root", seconds=60)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic abc", None),
        ("Bearerabc", None),
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
    ],
)
def test_the_header(header: str | None, found: str | None) -> None:
    """The token of an Authorization header, whatever its case; other schemes hold none."""
    assert bearer(header) == found
