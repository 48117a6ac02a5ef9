"""`bench simulator`: what the fleet itself costs, against a sink that only acknowledges, beside other generators."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.bench.figures import Figure, Report, options_told
from loadtests.bench.simulator_load import FleetOptions, Load, measure_fleet, measure_peer, sink
from loadtests.bench.simulator_peers import Peer, artillery, frame, locust
from loadtests.children import ChildError
from loadtests.fingerprint import environment

GOAL_TRANSPORT_US, GOAL_ALL_US = 40.0, 65.0
GOAL_LAG_MS, GOAL_RSS_KB = 50.0, 25.0
GOAL_ARTILLERY, GOAL_LOCUST = 8.0, 4.0
_ALONE_SECONDS = 1.0
_SPARE_SECONDS = 60.0
"""Artillery's users have more sends before them than are measured: none must run out meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured."""

    agents: int
    containers: int
    log_lines: int
    seconds: float
    connects_per_second: float
    """While a load comes up."""
    websockets_agents: int
    users: int
    """Of Locust and of Artillery."""
    seed: int
    artillery: str | None
    """The command; None: the one on PATH."""
    pins: dict[str, tuple[int, ...]] = field(default_factory=dict)


async def run(options: Options, directory: Path) -> Report:
    """Measure the fleet, the same over `websockets`, Locust and Artillery, one after the other.

    Raises:
        ChildError: a part could not be run.
    """
    alone = await _fleet(options, directory, "alone", 1, "picows", _ALONE_SECONDS)
    fleet = await _fleet(options, directory, "picows", options.agents, "picows", options.seconds)
    slower = await _fleet(options, directory, "websockets", options.websockets_agents, "websockets", options.seconds)
    payload = frame(options.containers, options.log_lines, options.seed)
    peers = [await _peer(name, options, payload, directory) for name in ("locust", "artillery")]
    failures = [failure for load in (fleet, slower, *(load for _, load in peers if load)) for failure in load.failures]
    return Report(
        benchmark="simulator", options=options_told(options), environment=await asyncio.to_thread(environment, None),
        figures=tuple(_figures(options, alone, fleet, slower, peers, len(payload))), failures=tuple(failures),
    )  # fmt: skip


async def _fleet(options: Options, directory: Path, name: str, agents: int, transport: str, seconds: float) -> Load:
    wanted = FleetOptions(
        name=name, agents=agents, containers=options.containers, log_lines=options.log_lines, seed=options.seed,
        transport=transport, ramp_seconds=agents / options.connects_per_second, seconds=seconds,
    )  # fmt: skip
    return await measure_fleet(wanted, directory, options.pins)


async def _peer(name: str, options: Options, payload: bytes, directory: Path) -> tuple[Peer, Load | None]:
    """A peer, and what it cost; None: it is not here."""
    ramp_seconds = options.users / options.connects_per_second
    async with sink(directory, name, options.pins) as running:
        if name == "locust":
            peer = locust(running.url, payload, options.users, ramp_seconds, directory)
        else:
            lasting = 2 * ramp_seconds + options.seconds + _SPARE_SECONDS
            peer = artillery(running.url, payload, options.users, ramp_seconds, lasting, options.artillery, directory)
        if peer.child is None:
            return peer, None
        try:
            load = await measure_peer(peer, running, options.users, ramp_seconds, options.seconds, options.pins)
        except OSError as error:
            raise ChildError(str(error)) from None
    return peer, load


def _figures(
    options: Options, alone: Load, fleet: Load, slower: Load, peers: list[tuple[Peer, Load | None]], frame_bytes: int
) -> list[Figure]:
    made = fleet.per_message_us(fleet.generation_seconds)
    written = fleet.per_message_us(fleet.ledger_seconds)
    each_kb = (fleet.rss_bytes - alone.rss_bytes) / max(1, options.agents - 1) / 1000
    lag = fleet.lag.statistics()
    found = [
        Figure(name="messages", value=fleet.rate, unit="1/s",
               note=f"{options.agents} agents, {options.containers} samples and {options.log_lines} lines each"),
        Figure(name="frame", value=float(frame_bytes), unit="bytes"),
        Figure(name="cpu_per_message", value=fleet.cost_us, unit="us", note=_at_most(fleet.cost_us, GOAL_ALL_US)),
        Figure(name="transport_and_codec", value=fleet.cost_us - made - written, unit="us",
               note=_at_most(fleet.cost_us - made - written, GOAL_TRANSPORT_US) + "; all that is not the next two"),
        Figure(name="generation", value=made, unit="us", note="by the thread's CPU clock, whose reading is in it"),
        Figure(name="ledger", value=written, unit="us", note="by the same clock, four writes a second"),
        Figure(name="rss_per_agent", value=each_kb, unit="KB",
               note=_at_most(each_kb, GOAL_RSS_KB) + "; beyond that of a fleet of one"),
        Figure(name="rss", value=fleet.rss_bytes / 1e6, unit="MB", note=f"a fleet of one: {alone.rss_bytes / 1e6:.0f} MB"),
        Figure(name="schedule_lag_p50", value=lag.get("p50"), unit="ms"),
        Figure(name="schedule_lag_p99", value=lag.get("p99"), unit="ms", note=_at_most(lag.get("p99"), GOAL_LAG_MS)),
        Figure(name="skipped_ticks", value=float(fleet.skipped_ticks), unit="ticks"),
        Figure(name="fleet_cores", value=fleet.cpu_seconds / fleet.seconds, unit="cores"),
        Figure(name="sink_cores", value=fleet.sink_cores, unit="cores"),
        Figure(name="websockets: cpu_per_message", value=slower.cost_us, unit="us",
               note=f"{options.websockets_agents} agents of the same fleet, generation and ledger included"),
        Figure(name="websockets: messages", value=slower.rate, unit="1/s"),
        Figure(name="websockets to picows", value=slower.cost_us / fleet.cost_us, unit="ratio"),
    ]  # fmt: skip
    goals = {"locust": GOAL_LOCUST, "artillery": GOAL_ARTILLERY}
    for peer, load in peers:
        cost, rate = (None, None) if load is None else (load.cost_us, load.rate)
        ratio = None if cost is None else cost / fleet.cost_us
        found += [
            Figure(name=f"{peer.name}: cpu_per_message", value=cost, unit="us", note=peer.note),
            Figure(name=f"{peer.name}: messages", value=rate, unit="1/s"),
            Figure(name=f"{peer.name} to picows", value=ratio, unit="ratio", note=_at_least(ratio, goals[peer.name])),
        ]
    return found


def _at_most(value: float | None, goal: float) -> str:
    return f"goal: at most {goal:g}" + ("" if value is None else ", met" if value <= goal else ", missed")


def _at_least(value: float | None, goal: float) -> str:
    return f"goal: at least {goal:g}" + ("" if value is None else ", met" if value >= goal else ", missed")
