"""From which addresses a fleet connects.

A connection is told by both ends' addresses and ports. Linux gives about 28,000 ports to the connections from one address
to one server, so a larger fleet needs several addresses. Loopback has them: all of 127.0.0.0/8 is this machine.
"""

import socket
from ipaddress import IPv4Address, ip_address
from urllib.parse import urlsplit

from simulator.addresses import is_loopback
from simulator.plan import PlanError

AGENTS_PER_ADDRESS = 20_000
"""Agents that share an address: a takeover takes a second port for a moment, and a closed connection keeps its own for a
minute.
"""
MAX_ADDRESSES = 1_000
_FIRST = IPv4Address("127.0.0.1")


def source_addresses(wanted: str | None, url: str, agents: int) -> tuple[str, ...]:
    """The addresses from which a fleet connects.

    Args:
        wanted: how many of 127.0.0.0/8, or the addresses themselves with commas between them; None: as many as the agents
            need.
        url: of the server.
        agents: of the whole fleet.

    Returns:
        The addresses; empty: the system's choice will do.

    Raises:
        PlanError: not of that form; loopback addresses cannot reach this server; or the fleet needs several addresses
            and there is no telling which.
    """
    host = urlsplit(url).hostname or ""
    if wanted is not None and not wanted.isdecimal():
        return _given(wanted)
    if not _reached_over_ipv4_loopback(host):
        if wanted is not None:
            raise PlanError(
                "source-addresses",
                wanted,
                f"the addresses themselves, as {host} is not on 127.0.0.0/8: 10.0.0.5,10.0.0.6",
            )
        if agents > AGENTS_PER_ADDRESS:
            raise PlanError(
                "agents", agents,
                f"at most {AGENTS_PER_ADDRESS} from one address, or --source-addresses with those of this machine from"
                f" which {host} can be reached, or shards on several machines",
            )  # fmt: skip
        return ()
    count = max(1, -(-agents // AGENTS_PER_ADDRESS)) if wanted is None else int(wanted)
    if not 1 <= count <= MAX_ADDRESSES:
        raise PlanError("source-addresses", wanted or count, f"1 to {MAX_ADDRESSES} addresses")
    return tuple(str(_FIRST + number) for number in range(count)) if wanted is not None or count > 1 else ()


def check_usable(addresses: tuple[str, ...]) -> None:
    """Make sure that this machine has these addresses.

    Raises:
        PlanError: it has not.
    """
    for address in addresses:
        family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            try:
                trial.bind((address, 0))
            except OSError as error:
                raise PlanError(
                    "source-addresses", address, f"an address of this machine ({error.strerror or error})"
                ) from None


def _given(wanted: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in wanted.split(","))
    try:
        versions = {ip_address(address).version for address in found}
    except ValueError:
        raise PlanError(
            "source-addresses", wanted, "a number, or IP addresses with commas between them: 10.0.0.5,10.0.0.6"
        ) from None
    if len(versions) > 1 or len(found) > MAX_ADDRESSES or len(set(found)) < len(found):
        raise PlanError(
            "source-addresses", wanted, f"at most {MAX_ADDRESSES} different addresses, all IPv4 or all IPv6"
        )
    return found


def _reached_over_ipv4_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return is_loopback(host)
    return address.version == 4 and address.is_loopback
