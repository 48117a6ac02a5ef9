"""`bench actions`: round trips of start, stop and restart at a fixed rate, while a fleet streams and subscribers watch."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.attempts import read_attempts
from loadtests.audit_check import AuditFindings, compare, read_audit
from loadtests.bench.figures import Figure, Report, options_told
from loadtests.bench.operators import ANSWER_SECONDS, Attempted, OperatorsPlan, Target
from loadtests.bench.plan import plan
from loadtests.bench.planned_process import PlannedProcess, busy, signing
from loadtests.bench.receivers_plan import Received, ReceiversPlan, spread
from loadtests.bench.receivers_process import ReceiversProcess, lag_p99_ms, live_latency, weaknesses
from loadtests.bench.rig import Rig, hosts_of, rig, topics_of
from loadtests.fingerprint import environment
from loadtests.fleet_process import LEDGER
from loadtests.measure import Latency, now_us
from loadtests.places import is_running
from simulator.host import host_id
from simulator.ledger import LedgerReader
from simulator.scenario import Scenario

MOST_HOSTS = 500
"""Hosts that are acted on and watched, evenly over the fleet."""
WARM_UP_SECONDS = 5.0
START_SECONDS = 30.0
"""Time for the operators to begin, and to write what they found."""
_SHARE = "round trip less the time that the simulated host takes"


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured. Times in seconds."""

    rate: float = 100.0
    """Attempts a second."""
    agents: int = 5_000
    containers: int = 10
    log_lines: int = 1
    """Of each agent and second."""
    subscribers: int = 200
    topics: int = 10
    """Container topics of each subscriber."""
    seconds: float = 60.0
    ramp_seconds: float = 20.0
    seed: int = 1
    database_url: str | None = None
    postgres: Mapping[str, str] = field(default_factory=dict)
    """Settings of the private Postgres."""
    server: Mapping[str, str] = field(default_factory=dict)
    """Variables of the server beside those that the benchmark needs; they win over them."""
    pins: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def watched(self) -> int:
        """Containers of these hosts that may be watched: one of each is acted on, if it has others."""
        return len(self.hosts) * max(1, self.containers - 1)

    @property
    def hosts(self) -> list[str]:
        """Hosts that are acted on and watched."""
        return hosts_of(self.agents, MOST_HOSTS)


@dataclass(frozen=True, slots=True)
class Load:
    """What the load showed."""

    attempted: Attempted
    received: Received
    cores: Mapping[str, float]
    """Used by each component while it was measured."""
    audit: AuditFindings


async def run(options: Options, directory: Path) -> Report:
    """Measure, then hold the audit log against what was attempted and carried out.

    Raises:
        StageError, ChildError: the environment could not be set up.
        AuditCheckError: the audit log cannot be read.
    """
    async with rig(
        _scenario(options), directory, database_url=options.database_url, settings=options.postgres, pins=options.pins
    ) as running:
        load = await _load(options, running)
    failures = [*running.failures, *_failures(load)]
    return Report(
        benchmark="actions", options=options_told(options), environment=await asyncio.to_thread(environment, running.postgres),
        figures=tuple(_figures(options, load)), failures=tuple(failures),
    )  # fmt: skip


async def _load(options: Options, running: Rig) -> Load:
    containers = await running.containers(options.hosts)
    agents = {host_id(number): number for number in range(1, options.agents + 1)}
    # One of each host: many agents, each with little to do, and what is watched goes on streaming.
    targets = {c.host: c for c in containers if is_running(c) and not c.protected}
    watched = [c for c in containers if c is not targets.get(c.host)] or containers
    watching = ReceiversPlan(
        url=running.server.http, stalled=[], interval_us=running.scenario.fleet.interval_us,
        readers=spread(topics_of(watched), options.subscribers, options.topics, seed=options.seed),
        warm_up_seconds=WARM_UP_SECONDS, seconds=options.seconds,
    )  # fmt: skip
    receivers = ReceiversProcess(watching, running.server, running.directory, "receivers")
    attempts = running.directory / "attempts.jsonl"
    acting = OperatorsPlan(
        url=running.server.http, targets=[Target(container=c.id, agent=agents[c.host]) for c in targets.values()],
        per_second=options.rate, seconds=options.seconds, run="bench-actions", attempts=str(attempts),
    )  # fmt: skip
    operators = PlannedProcess(
        "loadtests.bench.operators", acting, Attempted, signing(running.server), running.directory, "operators"
    )
    since_us = now_us()
    try:
        await receivers.start()
        running.pin("receivers", receivers.child)
        await receivers.measuring()
        await operators.start()
        running.pin("operators", operators.child)
        cores = await running.used(options.seconds)
        received = await receivers.received()
        attempted = await operators.found(ANSWER_SECONDS + START_SECONDS)
    finally:
        await operators.child.stop()
        await receivers.child.stop()
    entries = await read_audit(running.server.http, lambda: running.authorization("bench-auditor", "admin"), since_us)
    await running.end_fleet()
    audit = compare("bench-actions", read_attempts(attempts), entries, _executed(running.directory / LEDGER))
    return Load(attempted, received, cores, audit)


def _executed(ledger: Path) -> Counter[str]:
    """How many times the fleet carried out each action."""
    reader = LedgerReader(ledger)
    try:
        reader.poll()
        return reader.executed
    finally:
        reader.close()


def _failures(load: Load) -> list[str]:
    attempted = load.attempted
    found = [*weaknesses(load.received), *busy("operators", attempted.cpu_seconds, attempted.seconds)]
    if bad := {outcome: count for outcome, count in attempted.outcomes.items() if outcome != "succeeded"}:
        told = ", ".join(f"{outcome} {count}" for outcome, count in sorted(bad.items()))
        found.append(f"of {attempted.attempts} attempts did not succeed: {told}")
    if load.audit.counts:
        found.append(f"the audit log does not tell what took place: {dict(load.audit.counts)}")
    return found


def _scenario(options: Options) -> Scenario:
    agents, subscribers = str(options.agents), str(options.subscribers + 100)
    return plan(
        "bench-actions", agents=options.agents, containers=options.containers, log_lines=options.log_lines,
        ramp_seconds=options.ramp_seconds, seed=options.seed,
        env={
            "SEATRIAL_MAX_AGENTS": agents,
            "SEATRIAL_ORG_MAX_AGENTS": agents,
            "SEATRIAL_ORG_MAX_CONTAINERS": str(options.agents * options.containers),
            "SEATRIAL_ORG_BATCHES_PER_SECOND": str(10 * options.agents),
            "SEATRIAL_ORG_BUDGET_SHARE": "1.0",
            "SEATRIAL_MAX_SUBSCRIBERS": subscribers,
            "SEATRIAL_ORG_MAX_SUBSCRIBERS": subscribers,
            "SEATRIAL_MAX_SUBSCRIPTIONS": str(options.topics),
            "SEATRIAL_ORG_WRITES_PER_SECOND": str(round(10 * options.rate) + 50),
            "SEATRIAL_MAX_OPEN_ACTIONS": str(round(ANSWER_SECONDS * options.rate) + 100),
            **options.server,
        },
    )  # fmt: skip


def _figures(options: Options, load: Load) -> list[Figure]:
    attempted, received = load.attempted, load.received
    round_trip, share, late = (
        Latency.decode([encoded]).statistics()
        for encoded in (attempted.round_trip, attempted.server_share, attempted.late)
    )
    live = live_latency(received)
    cores = {
        **{name: load.cores.get(name) for name in ("server", "postgres", "fleet")},
        "receivers": received.cpu_seconds / received.seconds,
        "operators": attempted.cpu_seconds / attempted.seconds,
    }
    return [
        Figure(name="attempts", value=float(attempted.attempts), unit="actions", note=f"{options.rate:g}/s, open loop"),
        Figure(name="succeeded", value=float(attempted.outcomes.get("succeeded", 0)), unit="actions"),
        *(Figure(name=f"round_trip_{key}", value=round_trip[key], unit="ms") for key in ("p50", "p99", "max")),
        *(Figure(name=f"server_share_{key}", value=share[key], unit="ms", note=_SHARE if key == "p50" else "")
          for key in ("p50", "p99", "max")),
        Figure(name="operators_late_p99", value=late["p99"], unit="ms", note="part of the round trip"),
        Figure(name="audit_rows", value=float(load.audit.entries), unit="rows"),
        *(Figure(name=name, value=value, unit="rows" if name.startswith("audit") else "actions")
          for name, value in load.audit.measured().items()),
        Figure(name="deliveries", value=received.deliveries / received.seconds, unit="1/s",
               note=f"{options.subscribers} subscribers, {options.topics} topics each"),
        *(Figure(name=f"live_{key}", value=live[key], unit="ms") for key in ("p50", "p99", "max")),
        Figure(name="receivers_lag_p99", value=lag_p99_ms(received), unit="ms", note="part of the live latency"),
        Figure(name="skipped", value=float(received.skipped), unit="samples"),
        *(Figure(name=f"{name}_cores", value=used, unit="cores", note="" if used is not None else "not visible from here")
          for name, used in cores.items()),
    ]  # fmt: skip
