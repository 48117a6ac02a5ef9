"""A fleet's values are checked before anything starts; the error names field, value and expectation."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.plan import Plan, PlanError, Shard, Workload, agent_url, parse_shard

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
        ("shard", Shard(0, 2), "shard = 0/2: expected a shard from 1/2 to 2/2"),
        ("shard", Shard(3, 2), "shard = 3/2: expected a shard from 1/2 to 2/2"),
        ("shard", Shard(1, 101), "shard = 1/101: expected at most 100 shards and processes, an agent for each"),
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


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 20), st.integers(1, 5), st.integers(1, 10**6))
def test_shards_are_the_fleet(agents: int, shards: int, processes: int, first: int) -> None:
    """Every agent is in exactly one shard, also where shards are split over processes, and none is empty."""
    agents = max(agents, shards * processes)
    numbers: list[int] = []
    for number in range(1, shards + 1):
        shard = Shard(number, shards)
        whole = _plan(agents=agents, first_agent=first, shard=shard).numbers
        parts = [
            _plan(agents=agents, first_agent=first, shard=shard.part(p, processes)).numbers
            for p in range(1, processes + 1)
        ]
        assert all(parts)
        assert [n for part in parts for n in part] == list(whole)
        numbers += whole

    assert numbers == list(range(first, first + agents))


def test_the_ramp_is_that_of_the_whole_fleet() -> None:
    """An agent dials at the same moment whichever process it is in."""
    whole = _plan(agents=7, first_agent=3, ramp_us=700_000)
    halves = [_plan(agents=7, first_agent=3, ramp_us=700_000, shard=Shard(n, 2)) for n in (1, 2)]

    assert [half.start_us(n) for half in halves for n in half.numbers] == [whole.start_us(n) for n in whole.numbers]


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b"])
def test_a_text_that_is_no_shard_is_refused(text: str) -> None:
    """A number from 1 and how many there are."""
    with pytest.raises(PlanError, match=f"shard = {text}: expected a shard such as 2/3"):
        parse_shard(text)
    assert parse_shard("2/3") == Shard(2, 3)


def _plan(**values: Any) -> Plan:
    return Plan(**({"url": "ws://127.0.0.1:1/ws/agent", "secret": SECRET} | values))
