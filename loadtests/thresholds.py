"""The judgement of a run against its thresholds."""

from collections.abc import Iterator, Mapping
from math import isnan

from msgspec import Struct

from loadtests.catalogue import METRICS, STATISTICS, has_phases, known_meanwhile, lack
from loadtests.measure import Latency, Series
from loadtests.phases import Phases, in_phase
from loadtests.timed import Timed
from simulator.scenario import Problem, Scenario, ScenarioError, Threshold
from simulator.scenario_format import unknown

ALWAYS: tuple[Threshold, ...] = (
    Threshold(metric="ledger_missing", stat="count", op="==", limit=0),
    Threshold(metric="ledger_foreign", stat="count", op="==", limit=0),
    Threshold(metric="ledger_altered", stat="count", op="==", limit=0),
    Threshold(metric="ledger_verified_fraction", stat="value", op=">=", limit=0.99),
    Threshold(metric="live_foreign", stat="count", op="==", limit=0),
    Threshold(metric="live_violations", stat="count", op="==", limit=0),
    Threshold(metric="api_violations", stat="count", op="==", limit=0),
    Threshold(metric="charts_wrong", stat="count", op="==", limit=0),
    Threshold(metric="audit_missing", stat="count", op="==", limit=0),
    Threshold(metric="audit_duplicate", stat="count", op="==", limit=0),
    Threshold(metric="audit_wrong", stat="count", op="==", limit=0),
    Threshold(metric="actions_executed_twice", stat="count", op="==", limit=0),
    Threshold(metric="actions_sent_twice", stat="count", op="==", limit=0),
    Threshold(metric="trespasses", stat="count", op=">", limit=0),
)
"""Judged in every run that can measure them, whatever the scenario says: it can be stricter, never laxer."""

UNLESS_SET: tuple[Threshold, ...] = (
    Threshold(metric="batches_unsettled", stat="count", op="==", limit=0),
    Threshold(metric="api_errors", stat="count", op="==", limit=0),
    Threshold(metric="live_errors", stat="count", op="==", limit=0),
)
"""Judged in every run that can measure them, where the scenario has no bound of its own on the same statistic."""

_EXPLAINED_BY_OUTAGES = frozenset({"api_errors", "live_errors"})
_OUTAGES = frozenset({"server", "postgres", "network"})
"""Parts whose faults users feel as failed requests and closed sockets."""

# Without a refusal nothing is proven; that is no leak, which `live_foreign` would count.
_CORRECTNESS = frozenset(threshold.metric for threshold in ALWAYS) - {"trespasses"}

Measured = Mapping[str, Latency | Series | float]
"""What a run measured, by metric; a metric without samples may be absent."""


NO_PHASES: Phases = {}
NO_TIMES: Mapping[str, Timed] = {}


class Judged(Struct, frozen=True, kw_only=True):
    """One threshold, and how it went."""

    metric: str
    stat: str
    phase: str = ""
    """`before`, `during` or `after` a fault; empty: the whole run."""
    unit: str
    value: float | None
    """None: no samples."""
    limit: str
    """The bound as in the scenario: `< 1000`."""
    passed: bool
    aborted: bool = False
    """Whether it ended the run."""
    reason: str = ""
    """Why it failed; empty: it passed."""

    @property
    def key(self) -> str:
        """The name as it stands in a scenario: `ack_latency_ms.p99`, `after.ack_latency_ms.p99`."""
        return ".".join(filter(None, (self.phase, self.metric, self.stat)))

    @property
    def correctness(self) -> bool:
        """Whether this is about data and not about speed. Without samples nothing was found, good or bad."""
        return self.metric in _CORRECTNESS and self.value is not None


class Aborted(Struct, frozen=True, kw_only=True):
    """The threshold that ended a run early."""

    threshold: Threshold
    value: float
    """When it did."""
    after_seconds: float
    """Since the start of the load."""

    @property
    def reason(self) -> str:
        """For people."""
        bound = self.threshold.bound
        return f"{self.value:.15g} is not {bound}: it ended the run after {self.after_seconds:.1f} s"


def validate_thresholds(scenario: Scenario) -> None:
    """Check that every threshold names a metric and a statistic that this scenario can measure.

    Raises:
        ScenarioError: with every threshold that does not.
    """
    problems = []
    for threshold in scenario.thresholds:
        mistake = _mistake(threshold, scenario)
        if mistake:
            problems.append(Problem(scenario.path, f"thresholds.{threshold.key}", threshold.bound, mistake))
    if problems:
        raise ScenarioError(*problems)


def _mistake(threshold: Threshold, scenario: Scenario) -> str:
    metric = METRICS.get(threshold.metric)
    if metric is None:
        return unknown(threshold.metric, METRICS, "metric")
    statistics = STATISTICS[metric.kind]
    if threshold.stat not in statistics:
        return f"unknown statistic; {threshold.metric} has {', '.join(statistics)}"
    if threshold.phase and not has_phases(threshold.metric):
        return f"{threshold.metric} is known for the whole run only, not {threshold.phase} a fault"
    if threshold.abort and not known_meanwhile(threshold.metric):
        return f"abort: {threshold.metric} is known at the end only, so it cannot end a run"
    return lack(metric, scenario)


def judge(
    scenario: Scenario,
    measured: Measured,
    timed: Mapping[str, Timed] = NO_TIMES,
    phases: Phases = NO_PHASES,
    aborted: Aborted | None = None,
) -> list[Judged]:
    """Judge the thresholds of `ALWAYS`, those of `UNLESS_SET` and then the scenario's own, in their order.

    A threshold on a metric without samples has failed.

    Args:
        scenario: with the thresholds.
        measured: over the whole run.
        timed: latencies by the time at which something was meant to happen, for thresholds of a phase.
        phases: the windows of each phase that the run had.
        aborted: the threshold that ended the run; it has failed, whatever came after.

    Raises:
        ValueError: `measured` holds a name that is no metric, or a metric measured as another kind.
    """
    statistics = {name: statistics_of(name, measurement) for name, measurement in measured.items()}
    defaults = [threshold for threshold in (*ALWAYS, *_unless_set(scenario)) if not _mistake(threshold, scenario)]
    judged = []
    for threshold in dict.fromkeys((*defaults, *scenario.thresholds)):
        if aborted is not None and threshold == aborted.threshold:
            judged.append(_failed(threshold, aborted))
        elif threshold.phase:
            judged.append(_judge(threshold, _of_phase(threshold, measured, timed, phases)))
        else:
            judged.append(_judge(threshold, statistics.get(threshold.metric, {})))
    return judged


def _unless_set(scenario: Scenario) -> Iterator[Threshold]:
    """Those of `UNLESS_SET` that the scenario neither bounds itself nor explains by what it breaks."""
    own = {threshold.key for threshold in scenario.thresholds}
    outage = any(fault.part in _OUTAGES for fault in scenario.faults)
    for threshold in UNLESS_SET:
        if threshold.key not in own and not (outage and threshold.metric in _EXPLAINED_BY_OUTAGES):
            yield threshold


def phase_measurements(
    name: str, measured: Measured, timed: Mapping[str, Timed], phases: Phases
) -> Iterator[tuple[str, Latency | Series]]:
    """A metric in each phase that the run had, if it can be told so."""
    measurement = timed.get(name) or measured.get(name)
    if isinstance(measurement, Timed | Series):
        for phase, windows in phases.items():
            yield phase, in_phase(measurement, phase, windows)


def _of_phase(threshold: Threshold, measured: Measured, timed: Mapping[str, Timed], phases: Phases) -> dict[str, float]:
    found = dict(phase_measurements(threshold.metric, measured, timed, phases)).get(threshold.phase)
    return {} if found is None else found.statistics()


def statistics_of(name: str, measurement: Latency | Series | float) -> dict[str, float]:
    """The statistics of one measured metric; empty: no samples.

    Raises:
        ValueError: the name is no metric, or its kind is another.
    """
    if name not in METRICS:
        raise ValueError(f"{name}: {unknown(name, METRICS, 'metric')}")
    kind = METRICS[name].kind
    if isinstance(measurement, Latency | Series):
        found = measurement.statistics()
        given = "latency" if isinstance(measurement, Latency) else "series"
    else:
        given = kind if kind in {"count", "value"} else "count"
        found = {kind: float(measurement)}
    if given != kind:
        raise ValueError(f"{name} = {measurement!r}: expected a {kind}")
    return found


def _judge(threshold: Threshold, statistics: Mapping[str, float]) -> Judged:
    value = statistics.get(threshold.stat)
    if value is None or isnan(value):
        return _judged(threshold, None, "no samples")
    return _judged(threshold, value, "" if threshold.holds(value) else f"{value:.15g} is not {threshold.bound}")


def _failed(threshold: Threshold, aborted: Aborted) -> Judged:
    return _judged(threshold, aborted.value, aborted.reason, aborted=True)


def _judged(threshold: Threshold, value: float | None, reason: str, *, aborted: bool = False) -> Judged:
    return Judged(
        metric=threshold.metric, stat=threshold.stat, phase=threshold.phase,
        unit="" if threshold.stat == "count" else METRICS[threshold.metric].unit,
        value=value, limit=threshold.bound, passed=not reason, aborted=aborted, reason=reason,
    )  # fmt: skip
