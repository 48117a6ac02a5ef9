"""What a fleet shall be, checked before anything starts."""

import re
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit, urlunsplit

from simulator.addresses import is_loopback
from simulator.errors import PlanError
from simulator.ledger import Ramp, Replayed
from simulator.link import Transport
from simulator.organisations import organisation
from simulator.scenario_faults import Fault
from simulator.tokens import LIFETIME_SECONDS, MIN_SECRET_BYTES
from simulator.workload import HOUR_US, MIN_INTERVAL_US, Workload, at_least

__all__ = [
    "AGENT_PATH", "HOUR_US", "MIN_INTERVAL_US", "WHOLE", "Plan", "PlanError", "Shard", "Workload", "agent_url",
    "parse_shard", "server_url",
]  # fmt: skip

AGENT_PATH = "/ws/agent"
_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


class Shard(NamedTuple):
    """A part of a fleet: shard 2 of 3. All its shards together are the fleet, and no agent is in two of them."""

    number: int
    """From 1."""
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def part(self, number: int, of: int) -> "Shard":
        """A shard of this shard."""
        return Shard((self.number - 1) * of + number, self.of * of)


WHOLE = Shard(1, 1)
"""All of a fleet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Workload):
    """A fleet: what it sends, to whom, and how, and which part of it one process is. Durations in microseconds.

    Raises:
        PlanError: on creation.
    """

    url: str
    """Of the server's agent socket."""
    secret: str
    """Signs the agents' tokens; with `kid` it is a private key in PEM."""
    kid: str | None = None
    """Names the private key to the server; None: `secret` is a secret that the server shares."""
    org: str = "demo"
    organisations: int = 1
    """To which the agents belong in turn, see `organisation`."""
    shard: Shard = WHOLE
    source_addresses: tuple[str, ...] = ()
    """From which the agents connect, in turn; empty: the system chooses."""
    duration_us: int | None = None
    """From the start, the ramp included; None: until it is stopped."""
    warm_up_us: int = 0
    """From the start: latencies and lag of what was due before its end are left out of the report."""
    ramp_us: int = 5_000_000
    """Over which the agents connect for the first time."""
    transport: Transport = Transport.PICOWS
    token_seconds: int = LIFETIME_SECONDS
    spool_bytes: int = 8 << 20
    spool_us: int = 600_000_000
    refused_seconds: tuple[float, float] = (300.0, 600.0)
    """Shortest and longest pause after 401, 403 and 45xx."""
    split_cpu: bool = False
    """Whether the CPU time of making rows is measured; that costs 1 us a message, 2 us with log lines."""
    faults: tuple[Fault, ...] = ()
    """Of the fleet's own, in the order in which they happen."""
    troubled_commands: float = 0.0
    """Share of the commands that a host carries out late, or refuses."""

    replayed: Replayed | None = None
    """A recording that is sent instead of what the seed makes; `agents` is a multiple of its agents then."""
    replay_once: bool = False
    """Whether each host stops after its recorded agent's last batch; else the recording begins anew."""
    t0_us: int | None = None
    """Start of the timeline, Unix microseconds; None: when the fleet starts."""
    continues_us: int | None = None
    """Where on that timeline a history ends: the first ticks are those that follow it, and they wait for the connection."""

    def __post_init__(self) -> None:
        Workload.__post_init__(self)
        at_least(self, ramp_us=0, warm_up_us=0, token_seconds=1, spool_bytes=1, spool_us=1)
        if self.duration_us is not None and self.duration_us <= 0:
            raise PlanError("duration", f"{self.duration_us / 1e6:g}s", "more than 0s")
        if not 0 <= self.troubled_commands <= 1:
            raise PlanError("troubled-commands", f"{self.troubled_commands:g}", "a share from 0 to 1")
        if not 1 <= self.organisations <= self.agents:
            raise PlanError("organisations", self.organisations, f"1 to {self.agents}, an agent for each")
        if not 1 <= len(organisation(self.org, self.organisations, self.organisations)) <= 128:
            raise PlanError("org", repr(self.org), "1 to 128 characters")
        if len(self.secret.encode()) < MIN_SECRET_BYTES:
            raise PlanError("jwt-secret", f"<{len(self.secret.encode())} bytes>", f"at least {MIN_SECRET_BYTES} bytes")
        if not 0 < self.refused_seconds[0] <= self.refused_seconds[1]:
            raise PlanError(
                "refused-retry", self.refused_seconds, "a shortest pause above 0, and a longest not below it"
            )
        if not 1 <= self.shard.number <= self.shard.of:
            raise PlanError("shard", self.shard, f"a shard from 1/{self.shard.of} to {self.shard.of}/{self.shard.of}")
        if self.shard.of > self.agents:
            raise PlanError("shard", self.shard, f"at most {self.agents} shards and processes, an agent for each")

    @property
    def numbers(self) -> range:
        """Numbers of the agents of this shard."""
        first, after = (self.agents * part // self.shard.of for part in (self.shard.number - 1, self.shard.number))
        return range(self.first_agent + first, self.first_agent + after)

    def start_us(self, number: int) -> int:
        """When an agent dials for the first time, after the start; the ramp is that of the whole fleet."""
        return self.ramp.start_us(number)

    @property
    def ramp(self) -> Ramp:
        """Of the whole fleet."""
        return Ramp(us=self.ramp_us, agents=self.agents, first_agent=self.first_agent)

    def source_address(self, number: int) -> str | None:
        """The address from which an agent connects; None: the system's choice."""
        sources = self.source_addresses
        return sources[(number - self.first_agent) % len(sources)] if sources else None


def parse_shard(text: str) -> Shard:
    """The shard of a text such as `2/3`.

    Raises:
        PlanError: it is no shard.
    """
    match = _SHARD.fullmatch(text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise PlanError("shard", text, "a shard such as 2/3: its number, from 1, and how many there are")
    return Shard(int(match[1]), int(match[2]))


def agent_url(url: str, *, any_host: bool) -> str:
    """The address of the agent socket on a server.

    Args:
        url: `ws://host:port`; a path may be given, else it is the protocol's.
        any_host: whether a host other than this machine is allowed.

    Raises:
        PlanError: it is no ws or wss address, or points elsewhere without leave.
    """
    parts = _checked("url", url, any_host=any_host)
    return urlunsplit((parts.scheme, parts.netloc, parts.path if parts.path not in {"", "/"} else AGENT_PATH, "", ""))


def server_url(url: str, *, field: str, any_host: bool) -> str:
    """The address of a server, without a path; see `agent_url`. `field` is what it is called in an error."""
    parts = _checked(field, url, any_host=any_host)
    if parts.path not in {"", "/"}:
        raise PlanError(field, url, "a server's address without a path: agents bring theirs")
    return urlunsplit((parts.scheme, parts.netloc, "", "", ""))


def _checked(field: str, url: str, *, any_host: bool) -> SplitResult:
    parts = urlsplit(url)
    try:
        port_is_good = parts.port is None or parts.port > 0
    except ValueError:
        port_is_good = False
    if parts.scheme not in {"ws", "wss"} or not parts.hostname or not port_is_good or parts.query or parts.fragment:
        raise PlanError(field, url, "ws://host:port or wss://host:port")
    if not any_host and not is_loopback(parts.hostname):
        raise PlanError(field, url, "a server on this machine, or --i-own-this for one that you may load")
    return parts
