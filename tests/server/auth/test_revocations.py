"""Which tokens a revocation ends."""

import pytest

from server.auth.principal import Agent, User
from server.auth.revocations import Revocations


def user(issued_at: float = 100.0, jti: str = "t1", subject: str = "ada", org: str = "o") -> User:
    """A user of a token."""
    return User(
        subject=subject, org=org, role="viewer", expires_at=4e9, issued_at=issued_at, token_id=jti
    )  # fmt: skip


def agent(issued_at: float = 100.0, jti: str = "t1", host: str = "h", org: str = "o") -> Agent:
    """An agent of a token."""
    return Agent(host=host, org=org, expires_at=4e9, issued_at=issued_at, token_id=jti)


@pytest.fixture
def revocations() -> Revocations:
    """Ada and the host h at 100.5, and the token `dead`, of organisation o."""
    made = Revocations()
    made.replace({("o", "user", "ada"): 100.5, ("o", "host", "h"): 100.5, ("o", "token", "dead"): 50.0})
    return made


@pytest.mark.parametrize(
    ("issued_at", "revoked"),
    [(0.0, True), (100.0, True), (100.499999, True), (100.5, True), (100.500001, False), (101.0, False)],
)
def test_what_was_issued_up_to_the_moment_is_ended(revocations: Revocations, issued_at: float, revoked: bool) -> None:
    """Up to and with the moment itself, and in whole seconds rounded down: the doubt goes against the token."""
    assert revocations.revoked(user(issued_at)) is revoked
    assert revocations.revoked(agent(issued_at)) is revoked


def test_a_token_by_its_id(revocations: Revocations) -> None:
    """A token that is named is ended whenever it was issued, an agent's as well as a user's."""
    assert revocations.revoked(user(4e8, jti="dead", subject="bob"))
    assert revocations.revoked(agent(4e8, jti="dead", host="other"))


def test_others_are_not_concerned(revocations: Revocations) -> None:
    """Another subject, another organisation, or a host with a user's name keep their tokens."""
    assert not revocations.revoked(user(subject="bob"))
    assert not revocations.revoked(user(org="p"))
    assert not revocations.revoked(user(subject="h"))
    assert not revocations.revoked(agent(host="ada"))
    assert not revocations.revoked(agent(org="p", jti="dead"))
    assert not Revocations().revoked(user(0.0))
