"""Who may do what to a container."""

from typing import get_args

import pytest

from server.action_policy import denial
from server.auth.principal import Role, User
from server.protocol.messages import ActionKind
from tests.support.actions import request


def user(role: Role) -> User:
    """A user of organisation o."""
    return User(subject="ada", org="o", role=role, expires_at=4e9, issued_at=1.7e9, token_id="t")


def refused(role: Role, kind: ActionKind, **target: bool) -> str | None:
    """The code of the refusal, if it is one."""
    found = denial(user(role), request(kind=kind, **target))
    return None if found is None else found.code


@pytest.mark.parametrize("kind", get_args(ActionKind))
def test_operators_and_above_act(kind: ActionKind) -> None:
    """Of the four roles only the viewer is refused, whatever is asked."""
    answers = [refused(role, kind) for role in get_args(Role)]
    assert dict(zip(get_args(Role), answers, strict=True)) == {
        "viewer": "forbidden", "operator": None, "admin": None, "owner": None,
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "operator"), [("start", None), ("stop", "protected"), ("restart", "protected")])
def test_only_admins_end_what_is_protected(kind: ActionKind, operator: str | None) -> None:
    """An operator may start it; stop and restart are an admin's."""
    assert refused("operator", kind, protected=True) == operator
    assert refused("admin", kind, protected=True) is None
    assert refused("owner", kind, protected=True) is None


def test_the_role_is_judged_first() -> None:
    """A viewer does not learn from the refusal whether the container is there or protected."""
    assert refused("viewer", "stop", removed=True, protected=True) == "forbidden"
    assert refused("operator", "stop", removed=True, protected=True) == "container_gone"
    assert refused("owner", "start", removed=True) == "container_gone"
