"""From which addresses a fleet connects, and which wishes are refused."""

import pytest

from simulator.link import Transport
from simulator.plan import PlanError
from simulator.sources import AGENTS_PER_ADDRESS, check_usable, source_addresses
from tests.support.fake_server import fake_server
from tests.support.fleets import eventually, running_fleet

LOOPBACK = "ws://127.0.0.1:8000/ws/agent"
ELSEWHERE = "ws://10.1.2.3:8000/ws/agent"


@pytest.mark.parametrize(
    ("wanted", "url", "agents", "expected"),
    [
        (None, LOOPBACK, AGENTS_PER_ADDRESS, ()),
        (None, LOOPBACK, AGENTS_PER_ADDRESS + 1, ("127.0.0.1", "127.0.0.2")),
        (None, "ws://localhost:1/", 3 * AGENTS_PER_ADDRESS, ("127.0.0.1", "127.0.0.2", "127.0.0.3")),
        ("2", LOOPBACK, 10, ("127.0.0.1", "127.0.0.2")),
        ("1", LOOPBACK, 10, ("127.0.0.1",)),
        (None, ELSEWHERE, AGENTS_PER_ADDRESS, ()),
        ("10.0.0.5, 10.0.0.6", ELSEWHERE, 50_000, ("10.0.0.5", "10.0.0.6")),
    ],
)
def test_addresses_are_as_many_as_needed(wanted: str | None, url: str, agents: int, expected: tuple[str, ...]) -> None:
    """Past a bound a fleet on loopback spreads by itself; a number or a list says it otherwise."""
    assert source_addresses(wanted, url, agents) == expected


def test_many_addresses_are_all_different() -> None:
    """They go on past 127.0.0.255."""
    assert source_addresses("300", LOOPBACK, 1)[-1] == "127.0.1.44"


@pytest.mark.parametrize(
    ("wanted", "url", "agents", "message"),
    [
        ("0", LOOPBACK, 1, "source-addresses = 0: expected 1 to 1000"),
        ("1001", LOOPBACK, 1, "source-addresses = 1001: expected 1 to 1000"),
        ("many", LOOPBACK, 1, "source-addresses = many: expected a number, or IP addresses"),
        ("10.0.0.5,::1", LOOPBACK, 1, "all IPv4 or all IPv6"),
        ("10.0.0.5,10.0.0.5", ELSEWHERE, 1, "different addresses"),
        ("4", ELSEWHERE, 1, "source-addresses = 4: expected the addresses themselves, as 10.1.2.3 is not on 127.0.0.0/8"),
        ("4", "ws://[::1]:8000/", 1, "expected the addresses themselves, as ::1 is not"),
        (None, ELSEWHERE, AGENTS_PER_ADDRESS + 1, "agents = 20001: expected at most 20000 from one address, or --source"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(wanted: str | None, url: str, agents: int, message: str) -> None:
    """The error names the option, the value and what was expected."""
    with pytest.raises(PlanError) as caught:
        source_addresses(wanted, url, agents)
    assert message in str(caught.value)


def test_an_address_that_is_not_ours_is_refused() -> None:
    """What this machine has not is found before anything starts."""
    check_usable(("127.0.0.1", "127.1.2.3"))
    with pytest.raises(PlanError, match=r"source-addresses = 192\.0\.2\.1: expected an address of this machine"):
        check_usable(("127.0.0.1", "192.0.2.1"))


@pytest.mark.parametrize("transport", list(Transport))
async def test_agents_take_the_addresses_in_turn(transport: Transport) -> None:
    """The server sees the connections come from all of them, with either library."""
    sources = ("127.0.0.1", "127.0.0.2", "127.9.9.9")
    async with (
        fake_server() as server,
        running_fleet(server, agents=6, transport=transport, source_addresses=sources) as fleet,
    ):
        await eventually(lambda: fleet.counts.welcomes == 6)
        seen = [peer.connection.remote_address[0] for peer in server.peers]

    assert sorted(seen) == sorted([*sources, *sources])
