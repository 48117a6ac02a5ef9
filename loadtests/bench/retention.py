"""`bench retention`: what pruning costs those who wait for acks, in pairs of a pruning and the quiet time around it.

A fleet streams at a steady rate into a full window, so that each pruning removes what came in an interval. The server tells
when each began and ended, and how many rows it removed; the fleet keeps its ack latencies by the second.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.bench.bootstrap import median_interval
from loadtests.bench.figures import Figure, Report, median, options_told
from loadtests.bench.plan import plan
from loadtests.bench.rig import Rig, rig
from loadtests.bench.usage import Moment
from loadtests.fingerprint import Postgres, environment
from loadtests.fleet_process import read_report
from loadtests.fleet_report import timed
from loadtests.prunings import Pruning, Prunings, quiet_around
from loadtests.scrape import scrape
from loadtests.stage import StageError
from loadtests.timed import Timed
from simulator.scenario import Scenario

ACKS = "ack_latency_ms"
STORED = ("seatrial_metric_rows_stored_total", "seatrial_log_rows_stored_total")
LEAST_PRUNED_SHARE = 0.8
"""Of what was stored meanwhile: a pruning that removes less is no pruning of a steady window."""
_LOOK_SECONDS = 0.25
_SPARE_INTERVALS = 4
"""Waited for beyond what it must take: the first pruning of a full window, and one that a busy machine makes late."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured. Times in seconds."""

    strategies: tuple[str, ...] = ("plain", "partitioned")
    agents: int = 2_000
    containers: int = 10
    """Of each, a sample a second."""
    log_lines: int = 1
    """Of each agent and second."""
    window_seconds: float = 60.0
    """How long a row is kept."""
    interval_seconds: float = 15.0
    """From one pruning to the next."""
    pairs: int = 8
    ramp_seconds: float = 10.0
    seed: int = 1
    database_url: str | None = None
    postgres: Mapping[str, str] = field(default_factory=dict)
    """Settings of the private Postgres."""
    server: Mapping[str, str] = field(default_factory=dict)
    """Variables of the server beside those that the benchmark needs; they win over them."""
    pins: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pair:
    """A pruning, and the quiet time around it."""

    pruning: Pruning
    during_p99_ms: float
    quiet_p99_ms: float

    @property
    def ratio(self) -> float:
        """Above 1: acks were later while it pruned."""
        return self.during_p99_ms / self.quiet_p99_ms


@dataclass(slots=True)
class Course:
    """One strategy's prunings, and what was stored between the first one's end and the last one's."""

    prunings: list[Pruning] = field(default_factory=list)
    stored: float = 0.0
    cores: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From the end of the first to that of the last."""
        return (self.prunings[-1].window.until_us - self.prunings[0].window.until_us) / 1e6

    @property
    def pruned(self) -> float:
        """Rows removed in this time."""
        return sum(pruning.rows for pruning in self.prunings[1:])


async def run(options: Options, directory: Path) -> Report:
    """Measure one strategy after the other, each with a server and a database of its own.

    Raises:
        StageError, ChildError: the environment could not be set up, or the server did not prune.
    """
    figures: list[Figure] = []
    failures: list[str] = []
    postgres: Postgres | None = None
    for name in options.strategies:
        part = directory / name
        part.mkdir()
        async with rig(
            _scenario(options, name),
            part,
            database_url=options.database_url,
            settings=options.postgres,
            pins=options.pins,
        ) as running:
            course = await _follow(options, running)
            await running.end_fleet()
        postgres = running.postgres
        pairs = _pairs(course, timed(read_report(part)).get(ACKS, Timed()))
        failures += [f"{name}: {reason}" for reason in (*running.failures, *_failures(options, course, pairs))]
        figures += _figures(name, course, pairs)
    return Report(
        benchmark="retention", options=options_told(options), environment=await asyncio.to_thread(environment, postgres),
        figures=tuple(figures), failures=tuple(dict.fromkeys(failures)),
    )  # fmt: skip


async def _follow(options: Options, running: Rig) -> Course:
    """Wait until the window is full, and then for so many prunings with a quiet time on both sides."""
    loop = asyncio.get_running_loop()
    prunings, course = Prunings(), Course()
    wanted = options.pairs + 2
    limit = options.window_seconds + (wanted + _SPARE_INTERVALS) * options.interval_seconds
    deadline = loop.time() + limit
    stored, before, first_rows = 0.0, Moment.now(running.components), 0.0
    while len(course.prunings) < wanted:
        if loop.time() > deadline:
            raise StageError(
                f"{len(course.prunings)} of {wanted} prunings of a full window were over within {limit:.0f} s: expected all,"
                " each within its --interval"
            )
        await asyncio.sleep(_LOOK_SECONDS)
        counters = await scrape(f"{running.server.http}/metrics")
        if counters is None:
            continue
        known = len(prunings.done)
        prunings.update(counters)
        if len(prunings.done) == known:
            continue
        stored = sum(counters.get((name, ""), 0.0) for name in STORED)
        # The first that removes anything removes what is left of the ramp: from the next one on it is an interval's worth.
        if not course.prunings and not (known and prunings.done[-2].rows):
            continue
        course.prunings.append(prunings.done[-1])
        if len(course.prunings) == 1:
            before, first_rows = Moment.now(running.components), stored
    after = Moment.now(running.components)
    course.cores = {name: used / (after.at - before.at) for name, used in after.since(before).items()}
    course.stored = stored - first_rows
    return course


def _pairs(course: Course, acks: Timed) -> list[Pair]:
    """Those of which both halves have acks."""
    found = []
    for pruning, quiet in quiet_around(course.prunings):
        during = acks.between([pruning.window], whole=False).statistics().get("p99")
        between = acks.between(quiet).statistics().get("p99")
        if during and between:
            found.append(Pair(pruning, during, between))
    return found


def _failures(options: Options, course: Course, pairs: list[Pair]) -> list[str]:
    """Why the figures say nothing of pruning; empty: they do."""
    found = []
    if len(pairs) < options.pairs:
        found.append(
            f"{options.pairs - len(pairs)} of {options.pairs} prunings have no quiet second on both sides: expected a longer"
            " --interval, or a load that leaves the server time"
        )
    if idle := sum(not pair.pruning.rows for pair in pairs):
        found.append(f"{idle} of {len(pairs)} prunings removed nothing")
    if course.pruned < LEAST_PRUNED_SHARE * course.stored:
        found.append(
            f"{course.pruned:,.0f} rows were pruned while {course.stored:,.0f} were stored: the window was not steady"
        )
    return found


def _figures(name: str, course: Course, pairs: list[Pair]) -> list[Figure]:
    windows = [pruning.window for pruning in course.prunings[1:]]
    busy = sum(window.until_us - window.from_us for window in windows) / 1e6
    stored = course.stored / course.seconds
    pruned = course.pruned / busy if busy else None
    rows = [pair.pruning.rows for pair in pairs]
    figures = [
        Figure(name=f"{name}_ingest", value=stored, unit="rows/s", note=f"stored in {course.seconds:.0f} s"),
        Figure(name=f"{name}_prune", value=pruned, unit="rows/s",
               note=f"{course.pruned:,.0f} rows in {busy:.2f} s, rests included"),
        Figure(name=f"{name}_prune_to_ingest", value=pruned / stored if pruned and stored else None, unit="ratio"),
        Figure(name=f"{name}_pruned_to_stored", value=course.pruned / course.stored if course.stored else None, unit="ratio",
               note="rows, in the same time; 1: the window is steady"),
        Figure(name=f"{name}_pruning_share", value=busy / course.seconds, unit="ratio", note="of the time"),
        Figure(name=f"{name}_rows_pruned_least", value=min(rows, default=None), unit="rows", note="in the pruning of a pair"),
        *(Figure(name=f"{name}_{part}_cores", value=course.cores.get(part), unit="cores") for part in ("server", "postgres")),
        Figure(name=f"{name}_ack_p99_pruning", value=_median([pair.during_p99_ms for pair in pairs]), unit="ms"),
        Figure(name=f"{name}_ack_p99_between", value=_median([pair.quiet_p99_ms for pair in pairs]), unit="ms"),
        *(Figure(name=f"{name}_p99_ratio_pair_{number}", value=pair.ratio, unit="ratio",
                 note=f"{pair.pruning.rows:,.0f} rows in {_seconds(pair):.2f} s")
          for number, pair in enumerate(pairs, 1)),
        Figure(name=f"{name}_p99_pruning_to_between", value=_median([pair.ratio for pair in pairs]), unit="ratio",
               note="median of the pairs"),
    ]  # fmt: skip
    if len(pairs) >= 2:
        interval = median_interval([pair.ratio for pair in pairs])
        figures += [
            Figure(name=f"{name}_p99_ratio_low", value=interval.low, unit="ratio", note="of its 95 % interval"),
            Figure(name=f"{name}_p99_ratio_high", value=interval.high, unit="ratio"),
        ]
    return figures


def _seconds(pair: Pair) -> float:
    return (pair.pruning.window.until_us - pair.pruning.window.from_us) / 1e6


def _median(values: list[float]) -> float | None:
    return median(values) if values else None


def _scenario(options: Options, strategy: str) -> Scenario:
    return plan(
        "bench-retention", storage=strategy, agents=options.agents, containers=options.containers,
        log_lines=options.log_lines, ramp_seconds=options.ramp_seconds, seed=options.seed,
        retention_seconds=options.window_seconds, prune_interval_seconds=options.interval_seconds,
        env={
            "SEATRIAL_MAX_AGENTS": str(options.agents),
            "SEATRIAL_ORG_MAX_AGENTS": str(options.agents),
            "SEATRIAL_ORG_MAX_CONTAINERS": str(options.agents * options.containers),
            "SEATRIAL_ORG_BATCHES_PER_SECOND": str(10 * options.agents),
            "SEATRIAL_ORG_BUDGET_SHARE": "1.0",
            "SEATRIAL_RECONNECTS_PER_SECOND": "100000",  # the ramp paces them
            **options.server,
        },
    )  # fmt: skip
