"""`bench fanout`: what subscribers that stop reading cost those that read, in pairs of halves with and without them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from loadtests.bench.bootstrap import median_interval
from loadtests.bench.figures import Figure, Report, median, options_told
from loadtests.bench.plan import plan
from loadtests.bench.receivers_plan import Neighbour, Received, ReceiversPlan, spread
from loadtests.bench.receivers_process import ReceiversProcess, lag_p99_ms, live_latency, weaknesses
from loadtests.bench.rig import Rig, hosts_of, rig, topics_of
from loadtests.bench.stall_check import stall_failures
from loadtests.fingerprint import environment
from loadtests.scrape import get
from loadtests.stage import ServerUnderTest
from server.protocol.close_codes import CloseCode
from simulator.scenario import Scenario

RAMP_SECONDS = 5.0
_MEDIANS = (
    ("deliveries", "deliveries", "1/s"),
    ("live_p50_ms", "live_p50", "ms"),
    ("live_p99_ms", "live_p99", "ms"),
    ("lag_p99_ms", "receivers_lag_p99", "ms"),
)
"""Attributes of a half that are told as the median of its kind, their names and units."""
_STALLS = "neighbours that stopped reading, warm-up included"
_CLOSED = "of them closed while it was measured, by the server's count"
_SKIPPED = "not delivered: a newer one of the container took their place"


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured. Times in seconds."""

    receivers: int = 500
    """Sockets that read, in both halves."""
    topics: int = 50
    """Container topics of each socket: as many samples a second."""
    stalled_share: float = 0.1
    """Neighbours that stop reading, beside the receivers, as a share of them."""
    pairs: int = 5
    seconds: float = 20.0
    """Of a half."""
    warm_up_seconds: float = 10.0
    """Of a half, before it is measured."""
    agents: int = 100
    containers: int = 10
    """Of each agent, a sample a second each."""
    seed: int = 1
    database_url: str | None = None
    postgres: Mapping[str, str] = field(default_factory=dict)
    """Settings of the private Postgres."""
    server: Mapping[str, str] = field(default_factory=dict)
    """Variables of the server beside those that the benchmark needs; they win over them."""
    pins: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def stalled(self) -> int:
        """Neighbours that stop reading, at least one."""
        return max(1, round(self.receivers * self.stalled_share))


@dataclass(frozen=True, slots=True)
class Half:
    """What one half showed."""

    received: Received
    live_p50_ms: float
    live_p99_ms: float
    lag_p99_ms: float
    """How late the receivers themselves were."""
    cores: Mapping[str, float]
    """Used by each component."""
    closed_slow: float
    """Live sockets that the server closed with 4008 while it was measured."""

    @property
    def deliveries(self) -> float:
        """Samples that reached a reader in a second."""
        return self.received.deliveries / self.received.seconds


async def run(options: Options, directory: Path) -> Report:
    """Measure `pairs` pairs; which half of a pair comes first changes from pair to pair, so that a drift hits both alike.

    Raises:
        StageError, ChildError: the environment could not be set up, or the receivers were not served.
    """
    without: list[Half] = []
    stalled: list[Half] = []
    async with rig(
        _scenario(options), directory, database_url=options.database_url, settings=options.postgres, pins=options.pins
    ) as running:
        containers = await running.containers(hosts_of(options.agents, options.agents))
        topics = topics_of(containers)
        readers = spread(topics, options.receivers, options.topics, seed=options.seed)
        beside = [
            Neighbour(topics=watched, host=f"host:{containers[number % len(containers)].host}")
            for number, watched in enumerate(spread(topics, options.stalled, options.topics, seed=options.seed + 1))
        ]
        for pair in range(1, options.pairs + 1):
            order = [("without", without), ("stalled", stalled)]
            for kind, halves in order if pair % 2 else reversed(order):
                made = ReceiversPlan(
                    url=running.server.http, readers=readers, stalled=beside if halves is stalled else [],
                    interval_us=running.scenario.fleet.interval_us, warm_up_seconds=options.warm_up_seconds,
                    seconds=options.seconds,
                )  # fmt: skip
                half = await _half(running, made, f"receivers-{pair}-{kind}")
                halves.append(half)
                if made.stalled:
                    running.failures += stall_failures(half.received, half.closed_slow, f"pair {pair}")
        await running.end_fleet()
    return Report(
        benchmark="fanout", options=options_told(options),
        environment=await asyncio.to_thread(environment, running.postgres),
        figures=tuple(_figures(options, without, stalled)), failures=tuple(dict.fromkeys(running.failures)),
    )  # fmt: skip


async def _half(running: Rig, made: ReceiversPlan, name: str) -> Half:
    receivers = ReceiversProcess(made, running.server, running.directory, name)
    try:
        await receivers.start()
        running.pin("receivers", receivers.child)
        await receivers.measuring()
        closed = await _closed_slow(running.server)
        cores = await running.used(made.seconds)
        closed = await _closed_slow(running.server) - closed
        received = await receivers.received()
    finally:
        await receivers.child.stop()
    running.failures += weaknesses(received)
    latency = live_latency(received)
    cores["receivers"] = received.cpu_seconds / received.seconds
    return Half(received, latency["p50"], latency["p99"], lag_p99_ms(received), cores, closed)


async def _closed_slow(server: ServerUnderTest) -> float:
    """Live sockets that it closed with 4008 so far."""
    body = await get(f"{server.http}/metrics") or b""
    wanted = {"endpoint": "live", "code": str(int(CloseCode.SLOW_CONSUMER))}
    return sum(
        sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name == "seatrial_sockets_closed_total" and sample.labels == wanted
    )


def _scenario(options: Options) -> Scenario:
    # Twice over: a socket counts until the server has given it up, and neighbours come back before that.
    sockets = 2 * (options.receivers + options.stalled) + 100
    return plan(
        "bench-fanout", agents=options.agents, containers=options.containers, ramp_seconds=RAMP_SECONDS, seed=options.seed,
        env={
            "SEATRIAL_MAX_SUBSCRIBERS": str(sockets),
            "SEATRIAL_ORG_MAX_SUBSCRIBERS": str(sockets),
            "SEATRIAL_MAX_SUBSCRIPTIONS": str(options.topics + 1),
            "SEATRIAL_MAX_AGENTS": str(options.agents),
            "SEATRIAL_ORG_MAX_AGENTS": str(options.agents),
            "SEATRIAL_ORG_MAX_CONTAINERS": str(options.agents * options.containers),
            **options.server,
        },
    )  # fmt: skip


def _figures(options: Options, without: list[Half], stalled: list[Half]) -> list[Figure]:
    return [
        Figure(name="offered", value=float(options.receivers * options.topics), unit="deliveries/s"),
        *_of_halves("without", without),
        *_of_halves("stalled", stalled),
        Figure(name="stalls", value=float(sum(half.received.stalls for half in stalled)), unit="sockets", note=_STALLS),
        Figure(name="closed_4008", value=sum(half.closed_slow for half in stalled), unit="sockets", note=_CLOSED),
        *_of_pairs([b.live_p99_ms / a.live_p99_ms for a, b in zip(without, stalled, strict=True)]),
    ]


def _of_halves(kind: str, halves: list[Half]) -> list[Figure]:
    """Medians of the halves of a kind."""
    figures = []
    for attribute, name, unit in _MEDIANS:
        values = [getattr(half, attribute) for half in halves]
        note = f"{min(values):.4g} to {max(values):.4g} in {len(values)} halves"
        figures.append(Figure(name=f"{name}_{kind}", value=median(values), unit=unit, note=note))
    skipped = float(sum(half.received.skipped for half in halves))
    figures.append(Figure(name=f"skipped_{kind}", value=skipped, unit="samples", note=_SKIPPED))
    dropped = float(sum(half.received.dropped_lines for half in halves))
    figures.append(Figure(name=f"gap_lines_{kind}", value=dropped, unit="lines"))
    cpu = median(half.cores["server"] / half.deliveries * 1e6 for half in halves)
    figures.append(Figure(name=f"server_cpu_per_delivery_{kind}", value=cpu, unit="us"))
    for component in ("server", "postgres", "fleet", "receivers"):
        used = [half.cores[component] for half in halves if component in half.cores]
        note = "" if used else "not visible from here"
        figures.append(
            Figure(name=f"{component}_cores_{kind}", value=median(used) if used else None, unit="cores", note=note)
        )
    return figures


def _of_pairs(ratios: list[float]) -> list[Figure]:
    """What the pairs say together."""
    interval = median_interval(ratios)
    return [
        *(Figure(name=f"p99_ratio_pair_{number}", value=ratio, unit="ratio") for number, ratio in enumerate(ratios, 1)),
        Figure(name="p99_stalled_to_without", value=median(ratios), unit="ratio", note="median of the pairs"),
        Figure(name="p99_ratio_low", value=interval.low, unit="ratio", note="of its 95 % interval"),
        Figure(name="p99_ratio_high", value=interval.high, unit="ratio"),
    ]
