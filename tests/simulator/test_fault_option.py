"""The option `--fault`: what it takes, and how each mistake is told."""

import pytest

from simulator.fault_kinds import FAULTS, FLEET_FAULTS
from simulator.fault_option import parse_faults
from simulator.scenario_faults import Fault
from simulator.scenario_format import ScenarioError


def test_faults_come_in_the_order_of_time_with_their_defaults() -> None:
    """Keys that are left out have the defaults of their kind; a number of agents takes the place of the share."""
    faults = parse_faults(
        ("clock_skew:at=20s,for=5s,skew=-90s,agents=3", "disconnect:at=10s,fraction=0.1", "slow_link:at=30s"), 60, 100
    )

    assert faults == (
        Fault(at_seconds=10, kind="disconnect", fraction=0.1),
        Fault(at_seconds=20, kind="clock_skew", for_seconds=5, skew_seconds=-90, agents=3),
        Fault(
            at_seconds=30, kind="slow_link", for_seconds=5, fraction=0.5, bytes_per_second=10_000, latency_seconds=0.2
        ),
    )


@pytest.mark.parametrize("kind", FLEET_FAULTS)
def test_a_fault_is_told_as_it_was_read(kind: str) -> None:
    """What the runner hands to the fleet is the fault of the scenario, to the microsecond."""
    skew = ",skew=-1.234567s" if "skew" in FAULTS[kind].keys else ""
    (fault,) = parse_faults((f"{kind}:at=12.345678s,fraction=0.123{skew}",), None, 100)

    assert parse_faults((fault.option(),), None, 100) == (fault,)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["disconect:at=1s"], '--fault disconect:at=1s: kind = "disconect": unknown fault; did you mean disconnect?'),
        (["quake:at=1s"], f"unknown fault; expected one of {', '.join(FLEET_FAULTS)}"),
        (["server_kill:at=1s"], "only `seatrial run` can do this; it owns what breaks"),
        (["disconnect"], "at: missing; when it happens, after the start of the load."),
        (["disconnect:at=60s"], "--fault disconnect:at=60s: at: must lie inside the duration of 1m"),
        (["half_open:at=57s,for=5s"], "for: must end inside the duration of 1m"),
        (["disconnect:at=1s,fraction=0"], "fraction = \"0\": expected a number from 0.001 to 1"),
        (["disconnect:at=1s,fraction=1.1"], "fraction = \"1.1\": expected a number from 0.001 to 1"),
        (["disconnect:at=1s,agents=0"], "agents = \"0\": expected an integer from 1 to 100000"),
        (["disconnect:at=1s,agents=101"], "agents: expected at most the fleet's 100"),
        (["disconnect:at=1s,agents=1,fraction=1"], "agents: expected either agents or fraction"),
        (["disconnect:at=1s,skew=5s"], "skew: has no effect with disconnect"),
        (["disconnect:at=1s,fractoin=1"], 'fractoin = "1": unknown key; did you mean fraction?'),
        (["disconnect:at=1s,at=2s"], "given twice"),
        (["disconnect:at=1s,now"], "expected key=value"),
        (["disconnect:at=1"], 'expected a number with a unit (ms, s, m or h), such as "40s"'),
        (["clock_skew:at=1s,skew=0s"], "expected a duration from 1ms to 1h, with a minus for a clock that is behind"),
        (["token_expiry:at=1s,for=1.5s"], "for: expected whole seconds, as tokens have them"),
        (
            ["half_open:at=10s,for=5s", "slow_link:at=12s"],
            "--fault slow_link:at=12s: at: must lie after the end of half_open at 15s",
        ),
        (
            ["token_expiry:at=10s,for=5s", "disconnect:at=19s"],
            "--fault disconnect:at=19s: at: must lie after the end of token_expiry at 20s",
        ),
        (["token_expiry:at=50s,for=5s"], "for: must end inside the duration of 1m"),
        (["clock_skew:at=1s,for=5s", "clock_skew:at=6s"], "at: must lie after the end of clock_skew at 6s"),
    ],
)  # fmt: skip
def test_a_mistake_names_option_key_and_what_was_expected(texts: list[str], message: str) -> None:
    """One sentence each."""
    with pytest.raises(ScenarioError) as caught:
        parse_faults(texts, 60, 100)

    assert message in str(caught.value)


def test_every_mistake_is_told_at_once() -> None:
    """Two wrong options are two lines."""
    with pytest.raises(ScenarioError) as caught:
        parse_faults(["quake", "disconnect:at=1s,fraction=7"], 60, 100)

    assert len(str(caught.value).splitlines()) == 2
