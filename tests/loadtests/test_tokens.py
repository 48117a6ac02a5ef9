"""User tokens for simulated users."""

import jwt
import pytest

from loadtests.tokens import TokenError, user_token

SECRET = "s" * 32


def test_a_given_token_is_used_as_it_is() -> None:
    """The token of the environment beats the secret."""
    assert user_token({"SEATRIAL_USER_TOKEN": "abc", "SEATRIAL_JWT_SECRET": SECRET}, "x") == "abc"


@pytest.mark.parametrize(("environ", "org"), [({}, "demo"), ({"SEATRIAL_ORG": "acme"}, "acme")])
def test_a_token_is_minted_from_the_secret(environ: dict[str, str], org: str) -> None:
    """A viewer's token of the organisation, with every claim that the server asks for."""
    token = user_token(environ | {"SEATRIAL_JWT_SECRET": SECRET}, "loadtest-1")
    claims = jwt.decode(
        token, SECRET, algorithms=["HS256"], audience="user", issuer="seatrial",
        options={"require": ["iss", "aud", "sub", "org", "iat", "exp", "jti"]},
    )  # fmt: skip

    assert (claims["sub"], claims["org"], claims["role"]) == ("loadtest-1", org, "viewer")
    assert jwt.get_unverified_header(token)["typ"] == "JWT"


@pytest.mark.parametrize("role", ["operator", "admin", "owner"])
def test_other_roles_are_minted_even_beside_a_given_token(role: str) -> None:
    """A token that somebody gave is a viewer's: it would make every other attempt a denied one."""
    token = user_token({"SEATRIAL_USER_TOKEN": "abc", "SEATRIAL_JWT_SECRET": SECRET}, "x", role)

    assert jwt.decode(token, SECRET, algorithms=["HS256"], audience="user")["role"] == role


def test_other_roles_need_the_secret() -> None:
    """The error names role and variable."""
    with pytest.raises(TokenError, match="no token of role operator: set SEATRIAL_JWT_SECRET"):
        user_token({"SEATRIAL_USER_TOKEN": "abc"}, "x", "operator")


def test_neither_token_nor_secret() -> None:
    """The error names both variables."""
    with pytest.raises(TokenError, match=r"set SEATRIAL_USER_TOKEN .* or SEATRIAL_JWT_SECRET"):
        user_token({}, "x")


def test_a_short_secret() -> None:
    """A secret that the server would refuse is refused here, and not shown."""
    with pytest.raises(TokenError, match="has 5 bytes: expected at least 32") as error:
        user_token({"SEATRIAL_JWT_SECRET": "hello"}, "x")

    assert "hello" not in str(error.value)
