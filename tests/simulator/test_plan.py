"""A fleet's values are checked before anything starts; the error names field, value and expectation."""

from typing import Any

import pytest

from simulator.plan import Plan, PlanError, Workload, agent_url

SECRET = "s" * 32
MOST = "1800, so that a container lives for 10 intervals on average"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("agents", 0, "agents = 0: expected at least 1"),
        ("containers", 0, "containers = 0: expected at least 1"),
        ("log_lines", -1, "log_lines = -1: expected at least 0"),
        ("first_agent", 0, "first_agent = 0: expected at least 1"),
        ("interval_us", 99_999, "interval = 99.999ms: expected at least 100ms"),
        ("profiles", {"web": 0}, "profiles = web=0: expected a weight from 1 to 1000000 for web, not 0"),
        ("churn_per_hour", -1.0, f"churn-per-hour = -1: expected 0 to {MOST}"),
        ("churn_per_hour", 1801.0, f"churn-per-hour = 1801: expected 0 to {MOST}"),
        ("troubled_commands", 1.5, "troubled-commands = 1.5: expected a share from 0 to 1"),
        ("duration_us", 0, "duration = 0s: expected more than 0s"),
        ("secret", "short", "jwt-secret = <5 bytes>: expected at least 32 bytes"),
        ("org", "", "org = '': expected 1 to 128 characters"),
    ],
)
def test_a_wrong_value_is_named(field: str, value: object, message: str) -> None:
    """Each field has its bound; the secret's own text is never shown."""
    values: dict[str, Any] = {"url": "ws://127.0.0.1:1/ws/agent", "secret": SECRET, field: value}

    with pytest.raises(PlanError) as caught:
        Plan(**values)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://127.0.0.1:8000", "ws://127.0.0.1:8000/ws/agent"),
        ("ws://localhost:8000/", "ws://localhost:8000/ws/agent"),
        ("wss://[::1]:443", "wss://[::1]:443/ws/agent"),
        ("ws://127.0.0.9:1/elsewhere", "ws://127.0.0.9:1/elsewhere"),
    ],
)
def test_the_path_is_the_protocols(url: str, expected: str) -> None:
    """A bare address gets the path of the agent socket."""
    assert agent_url(url, any_host=False) == expected


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "127.0.0.1:8000", "ws://", "ws://127.0.0.1:99999", "ws://h?x=1", ""]
)
def test_other_addresses_are_refused(url: str) -> None:
    """Only ws and wss with a host and a possible port are addresses."""
    with pytest.raises(PlanError, match="expected ws://host:port"):
        agent_url(url, any_host=True)


@pytest.mark.parametrize("url", ["ws://example.org:80", "ws://10.0.0.1:80", "ws://localhost.example.org"])
def test_strangers_are_not_loaded_without_leave(url: str) -> None:
    """A server elsewhere needs a word that one may load it."""
    with pytest.raises(PlanError, match="i-own-this"):
        agent_url(url, any_host=False)
    assert agent_url(url, any_host=True).endswith("/ws/agent")


@pytest.mark.parametrize(
    ("churn_per_hour", "containers", "interval_us", "ticks"),
    [(0.0, 5, 1_000_000, 0), (6.0, 5, 1_000_000, 3000), (6.0, 10, 5_000_000, 1200), (1800.0, 5, 1_000_000, 10)],
)
def test_churn_is_told_in_ticks(churn_per_hour: float, containers: int, interval_us: int, ticks: int) -> None:
    """Each container is re-created once in so many ticks that the host has its number in an hour."""
    workload = Workload(churn_per_hour=churn_per_hour, containers=containers, interval_us=interval_us)

    assert workload.churn_ticks == ticks
