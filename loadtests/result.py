"""The outcome of a run: its verdict, and everything that `result.json` holds.

`docs/result.schema.json` is made of these types.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum

from msgspec import Struct, field

from loadtests.catalogue import METRICS, SOURCES
from loadtests.fingerprint import Environment
from loadtests.growth import Growth
from loadtests.measure import Latency, Series
from loadtests.phases import Phases
from loadtests.probes.looks import Looks
from loadtests.probes.postgres import Statement
from loadtests.thresholds import NO_PHASES, NO_TIMES, Judged, Measured, phase_measurements, statistics_of
from loadtests.timed import Moment, Timed, Window
from simulator.scenario import Scenario

VERSION = 2
"""Of the layout of `result.json`."""


class Verdict(IntEnum):
    """How a run ended; the number is the exit code."""

    PASSED = 0
    USAGE = 2
    ENVIRONMENT = 3
    THRESHOLD_FAILED = 10
    CORRECTNESS_FAILED = 11
    INVALID = 12
    INTERRUPTED = 130


MEANING: dict[Verdict, str] = {
    Verdict.PASSED: "every threshold held",
    Verdict.USAGE: "wrong usage, or a mistake in the scenario; nothing ran",
    Verdict.ENVIRONMENT: "Postgres, the server or the load could not be set up",
    Verdict.THRESHOLD_FAILED: "a threshold failed",
    Verdict.CORRECTNESS_FAILED: "data was lost, altered, invented or not verified",
    Verdict.INVALID: "the load generator was the bottleneck, or durability was off: the figures say nothing",
    Verdict.INTERRUPTED: "stopped by hand; the results are partial",
}
"""What each verdict means."""


class FaultDone(Struct, frozen=True, kw_only=True):
    """A fault as it happened."""

    at_us: int
    """Unix microseconds: when it began."""
    ended_at_us: int
    """When it was over, and what was broken was mended; the server is started again by others."""
    kind: str
    detail: str = ""


class PhaseFigures(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A metric in one phase of the run alone."""

    statistics: dict[str, float]
    """Empty: no samples."""
    hdr: str = ""
    """Of a latency: its histogram, as in `Figures`, to two digits."""


class Figures(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was measured of one metric."""

    unit: str
    """Empty: a plain number."""
    kind: str
    """`latency`, `series`, `count` or `value`."""
    source: str
    """Where it comes from: a file beside `result.json`, or what a probe read."""
    statistics: dict[str, float]
    """Empty: no samples."""
    hdr: str = ""
    """Of a latency: its HDR histogram in microseconds, base64 V2."""
    clamped: int = 0
    """Of a latency: values outside its histogram, kept at the nearest end."""
    points: list[tuple[int, float]] = field(default_factory=list)
    """Of a series: Unix microseconds and value. A very long run keeps the smallest and largest of each group of neighbours."""
    moments: list[Moment] = field(default_factory=list)
    """Of a latency: by the time at which something was meant to happen."""
    phases: dict[str, PhaseFigures] = field(default_factory=dict)


class Result(Struct, frozen=True, kw_only=True):
    """Everything that `result.json` holds."""

    version: int = VERSION
    scenario: Scenario
    """As it was run: defaults and overrides put in."""
    seed: int
    started_at_us: int
    ended_at_us: int
    load_started_at_us: int
    """When the fleet began; 0: it did not."""
    load_ended_at_us: int
    """When it had left."""
    measured_from_us: int = 0
    """When the scenario's warm-up was over: what was before counts in no latency and no series; 0: it never was."""
    environment: Environment
    metrics: dict[str, Figures]
    """By name, as in the catalogue."""
    faults: tuple[FaultDone, ...]
    phases: dict[str, tuple[Window, ...]]
    """Before, during and after the faults, in Unix microseconds; empty without faults."""
    probes: tuple[Looks, ...]
    """How often each probe looked, and how often in vain."""
    statements: tuple[Statement, ...]
    """The slowest statements of Postgres, by their time in all; empty where it does not tell."""
    growth: list[Growth] = field(default_factory=list)
    """How each table went on after the first window; empty: the run was too short for that."""
    thresholds: tuple[Judged, ...]
    verdict: str
    exit_code: int
    reasons: tuple[str, ...]
    """Why the verdict is not PASSED, worst first."""

    @property
    def duration_seconds(self) -> float:
        """Of the load, or of the whole run where there was none."""
        begun, ended = self.load_started_at_us or self.started_at_us, self.load_ended_at_us or self.ended_at_us
        return max(0, ended - begun) / 1e6


class Course(Struct, frozen=True, kw_only=True):
    """What happened when, and how it was looked at: everything of a result but figures and judgement."""

    started_at_us: int
    ended_at_us: int
    load_started_at_us: int = 0
    load_ended_at_us: int = 0
    measured_from_us: int = 0
    faults: Sequence[FaultDone] = ()
    phases: Phases = NO_PHASES
    probes: Sequence[Looks] = ()
    statements: Sequence[Statement] = ()
    growth: Sequence[Growth] = ()


def decide(judged: Sequence[Judged], invalid: Sequence[str] = (), *, interrupted: bool = False) -> Verdict:
    """The verdict of a run that took place.

    An interrupted run is told as such. Else lost data beats an invalid run, which beats a failed threshold: nothing may
    hide lost data, and figures of an invalid run say nothing.

    Args:
        judged: every threshold.
        invalid: reasons for which the run says nothing.
        interrupted: whether it was stopped by hand.
    """
    if interrupted:
        return Verdict.INTERRUPTED
    if any(threshold.correctness and not threshold.passed for threshold in judged):
        return Verdict.CORRECTNESS_FAILED
    if invalid:
        return Verdict.INVALID
    return Verdict.PASSED if all(threshold.passed for threshold in judged) else Verdict.THRESHOLD_FAILED


def summarise(
    scenario: Scenario,
    course: Course,
    *,
    environment: Environment,
    measured: Measured,
    judged: Sequence[Judged],
    timed: Mapping[str, Timed] = NO_TIMES,
    invalid: Sequence[str] = (),
    interrupted: bool = False,
) -> Result:
    """Put a run's outcome together, verdict included.

    Raises:
        ValueError: `measured` holds what the catalogue does not.
    """
    verdict = decide(judged, invalid, interrupted=interrupted)
    failed = sorted((threshold for threshold in judged if not threshold.passed), key=lambda t: not t.correctness)
    wrong = [f"{threshold.key} {threshold.limit}: {threshold.reason}" for threshold in failed]
    correctness = sum(threshold.correctness for threshold in failed)
    return Result(
        scenario=scenario,
        seed=scenario.seed,
        started_at_us=course.started_at_us,
        ended_at_us=course.ended_at_us,
        load_started_at_us=course.load_started_at_us,
        load_ended_at_us=course.load_ended_at_us,
        measured_from_us=course.measured_from_us,
        environment=environment,
        metrics={name: _figures(name, measured, timed, course.phases) for name in METRICS if name in measured},
        faults=tuple(course.faults),
        phases=dict(course.phases),
        probes=tuple(course.probes),
        statements=tuple(course.statements),
        growth=list(course.growth),
        thresholds=tuple(judged),
        verdict=verdict.name,
        exit_code=int(verdict),
        reasons=(*wrong[:correctness], *(f"invalid: {reason}" for reason in invalid), *wrong[correctness:]),
    )


def _figures(name: str, measured: Measured, timed: Mapping[str, Timed], phases: Phases) -> Figures:
    measurement = measured[name]
    latency = measurement if isinstance(measurement, Latency) else None
    return Figures(
        unit=METRICS[name].unit,
        kind=METRICS[name].kind,
        source=SOURCES[name],
        statistics=statistics_of(name, measurement),
        hdr=latency.encode() if latency else "",
        clamped=latency.clamped if latency else 0,
        points=measurement.points if isinstance(measurement, Series) else [],
        moments=timed[name].moments() if latency and name in timed else [],
        phases={
            phase: PhaseFigures(
                statistics=part.statistics(), hdr=part.encode() if isinstance(part, Latency) and part.count else ""
            )
            for phase, part in phase_measurements(name, measured, timed, phases)
        },
    )
