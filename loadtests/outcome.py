"""What a run gathers while it goes on, and the result that is made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from loadtests.audit_check import AuditFindings
from loadtests.catalogue import measurable
from loadtests.chart_check import ChartFindings
from loadtests.findings import Findings
from loadtests.fingerprint import Deployed, Postgres, environment
from loadtests.fleet_process import REPORT
from loadtests.fleet_report import catalogue as fleet_catalogue
from loadtests.fleet_report import fleet_faults, read_report, scheduled_rows
from loadtests.fleet_report import timed as fleet_timed
from loadtests.fleet_status import FleetStatus
from loadtests.growth import Growth, growths, largest, steady
from loadtests.measure import Latency, Series, now_us
from loadtests.network import Network
from loadtests.phases import phases
from loadtests.probes.looks import Looks
from loadtests.prunings import latencies
from loadtests.recorded import Recorded, catalogue, clocks_apart, first_violations
from loadtests.recorded import timed as users_timed
from loadtests.result import Course, FaultDone, Result, summarise
from loadtests.result_file import write_whole
from loadtests.sampling import Sampler
from loadtests.stage import ServerUnderTest
from loadtests.thresholds import Aborted, Judged, judge, statistics_of
from loadtests.timed import Timed, Window
from loadtests.users_process import check_seconds, measured_by_users
from server.protocol.close_codes import CloseCode
from simulator.fault_kinds import FAULTS
from simulator.fault_report import missed_reasons
from simulator.scenario import Scenario

_Measurement = Latency | Series | float

UNCHECKED_SECONDS = 30.0
"""A run with browsers that is longer must have held something that came against what is stored."""
SAMPLES_PER_VISIT = 10
"""A visit with room for so many samples of a container is long enough to hold one against what is stored."""
SAMPLES_PER_CHECK = 3
"""And so must be what a check looks back at: its newest interval is not over, and its first may have begun before."""

CLOSED_FOR_SLOWNESS = (CloseCode.SLOW_CONSUMER, CloseCode.INTERNAL_ERROR)
"""How the server counts the live sockets of browsers that do not read; the second, where a ping had no pong in time."""


@dataclass(slots=True)
class Outcome:
    """What a run gathers until it can be judged."""

    scenario: Scenario
    directory: Path
    started_us: int = field(default_factory=now_us)
    load_started_us: int = 0
    """When the fleet was started; 0: not yet."""
    load_ended_us: int = 0
    measured_from_us: int = 0
    """When the warm-up was over; 0: it never was."""
    postgres: Postgres | None = None
    sampler: Sampler | None = None
    status: FleetStatus | None = None
    """None: the fleet was not started."""
    server: ServerUnderTest | None = None
    """None: it is not this run's own, or was not started."""
    target: Deployed | None = None
    """The server, where it is not this run's own."""
    network: Network | None = None
    has_users: bool = False
    """Whether Locust was started."""
    measured: dict[str, _Measurement] = field(default_factory=dict)
    timed: dict[str, Timed] = field(default_factory=dict)
    growth: list[Growth] = field(default_factory=list)
    faults: list[FaultDone] = field(default_factory=list)
    """In the order in which they began, once the load is over."""
    server_back_us: list[int] = field(default_factory=list)
    """When the server was ready again after it had ended."""
    server_failures: int = 0
    unseen: list[Looks] = field(default_factory=list)
    """What is not looked at, and why."""
    invalid: list[str] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)
    """What users found wrong, by metric: the first of it."""
    findings: Findings = field(default_factory=Findings)
    scheduled_rows: float = 0.0
    """That the fleet's schedule held; 0: it left no report."""
    audit: AuditFindings | None = None
    """None: nobody acted, or it could not be checked."""
    charts: ChartFindings | None = None
    """None: nobody read any, or they could not be checked."""
    aborted: Aborted | None = None
    interrupted: bool = False

    def count_faults(self) -> None:
        """A fault that was still under way when the load ended is none that the load has met."""
        self.faults.sort(key=lambda fault: fault.at_us)
        ours = sum(not fault.of_fleet for fault in self.scenario.faults)  # of its own the fleet tells itself
        left = ours - len(self.faults)
        if left and not self.invalid and self.aborted is None:
            self.invalid.append(f"{left} of {ours} faults were not over when the load ended")

    def warmed_up(self) -> None:
        """The warm-up is over: from now on latencies and series count."""
        if self.sampler is not None:
            self.sampler.warmed_up()
        if self.status is not None:
            self.status.warmed_up()
        self.measured_from_us = now_us()

    def statistics(self) -> dict[str, Mapping[str, float]]:
        """What is known of the run so far, by metric."""
        found: dict[str, Mapping[str, float]] = {}
        if self.status is not None:
            found |= self.status.statistics()
            found |= {name: series.statistics() for name, series in self.status.series.items()}
        if self.has_users:
            found |= self._statistics_of_users()
        found |= {name: statistics_of(name, value) for name, value in self._looked_at().items()}
        return found | {name: {"count": float(count)} for name, count in self._ledger().items()}

    def measure(self) -> None:
        """Gather what the parts measured, as far as the run came."""
        self.measured.update(self._looked_at())
        if self.sampler is not None:
            self.measured["insert_batch_ms"] = self.sampler.flushes()
        if self.network is not None:
            self.measured["connection_resets"] = float(self.network.carried.resets)
            self.measured["withheld_bytes"] = float(self.network.carried.withheld_bytes)
        if self.status is not None:
            self.status.poll()
            self.measured.update(self.status.series)
            self._measure_fleet()
        if self.has_users:
            self._measure_users()
            self._doubt_slow_closed()
        if self.audit is not None:
            self.measured.update(self.audit.measured())
        if self.charts is not None:
            self.measured.update(self.charts.measured())
        if self.sampler is not None and self.load_started_us:
            self._measure_growth(self.sampler)
            self._measure_prunings(self.sampler)

    def result(self) -> Result:
        """Judge what there is. Writes the findings beside it; reads and writes files, so not for an event loop.

        Raises:
            OSError: the findings cannot be written.
        """
        self.measured.update({name: float(count) for name, count in self._ledger().items()})
        self.measured["ledger_verified_fraction"] = self.findings.verified_fraction
        if self.scheduled_rows and measurable("stored_fraction", self.scenario):
            self.measured["stored_fraction"] = self.findings.stored_acked / self.scheduled_rows
        if self.findings.unverified:
            self.invalid.append(f"{self.findings.unverified} stored rows unverified: the fleet's ledger fell silent")
        self._write("findings.json", self.findings)
        if self.audit is not None:
            self._write("audit.json", self.audit)
        if self.charts is not None:
            self._write("charts.json", self.charts)
        ended_us = now_us()
        course = Course(
            started_at_us=self.started_us,
            ended_at_us=ended_us,
            load_started_at_us=self.load_started_us,
            load_ended_at_us=self.load_ended_us,
            measured_from_us=self.measured_from_us,
            faults=self.faults,
            phases=phases(
                self._broken(self.load_ended_us or ended_us),
                started_us=self.load_started_us,
                ended_us=self.load_ended_us or ended_us,
                ramp_seconds=max(self.scenario.fleet.ramp_seconds, self.scenario.warm_up_seconds),
                settle_seconds=self.scenario.settle_seconds,
            ),
            probes=[
                *(self.sampler.looks if self.sampler else ()), *([self.status.looks] if self.status else ()),
                *self.unseen,
            ],
            statements=self.sampler.statements if self.sampler else (),
            growth=self.growth,
        )  # fmt: skip
        return summarise(
            self.scenario,
            course,
            environment=environment(self.postgres, self.target),
            measured=self.measured,
            timed=self.timed,
            judged=explained(
                judge(self.scenario, self.measured, self.timed, course.phases, self.aborted), self.examples
            ),
            invalid=self.invalid,
            interrupted=self.interrupted,
        )

    def _looked_at(self) -> dict[str, Series | float]:
        """What the runner itself has seen so far."""
        found: dict[str, Series | float] = {}
        if self.sampler is not None:
            found.update(self.sampler.series)
        if self.sampler is not None and self.sampler.sees_the_server:
            found["server_unready_s"] = self.sampler.unready_seconds
            for name in ("rows_replayed", "batches_replayed"):
                found[name] = self.sampler.total(f"seatrial_{name}_total")
        if self.server is not None:
            found["server_restarts"] = float(self.server.restarts)
            found["server_failures"] = float(self.server_failures)
        return found

    def _ledger(self) -> dict[str, int]:
        return {f"ledger_{kind}": self.findings.counts[kind] for kind in ("missing", "foreign", "altered")}

    def _broken(self, ended_us: int) -> list[Window]:
        """From each fault's begin until what it broke worked again."""
        found = []
        for fault in self.faults:
            mended_us = fault.ended_at_us
            if FAULTS[fault.kind].part == "server":
                mended_us = next((back for back in self.server_back_us if back >= fault.at_us), ended_us)
            found.append(Window(fault.at_us, mended_us))
        return found

    def _measure_growth(self, sampler: Sampler) -> None:
        storage = self.scenario.storage
        filling = [at_us for at_us, minutes in sampler.series["rollup_minutes_to_fill"].points if minutes]
        time = steady(
            self.load_started_us, self.load_ended_us or now_us(), retention_seconds=storage.retention_seconds,
            backfill_seconds=storage.backfill_seconds, prune_interval_seconds=storage.prune_interval_seconds,
            not_before_us=max(filling, default=0),
        )  # fmt: skip
        if time is not None:
            self.growth = growths(sampler.tables, time, storage.retention_seconds)
            self.measured.update(largest(self.growth))

    def _measure_prunings(self, sampler: Sampler) -> None:
        """Latencies while the server pruned and between, where it did both."""
        for name, ratio in (("ack_latency_ms", "pruning_ack_p99_ratio"), ("live_latency_ms", "pruning_live_p99_ratio")):
            if name not in self.timed:
                continue
            pruning, quiet = latencies(sampler.prunings, self.timed[name])
            if pruning.count and quiet.count:
                self.measured |= {f"pruning_{name}": pruning, f"quiet_{name}": quiet}
                self.measured[ratio] = pruning.statistics()["p99"] / quiet.statistics()["p99"]

    def _measure_fleet(self) -> None:
        try:
            report = read_report(self.directory / REPORT)
        except (OSError, ValueError) as error:
            self.invalid.append(f"the fleet left no report: {error}")
            return
        self.faults = sorted((*self.faults, *fleet_faults(report)), key=lambda fault: fault.at_us)
        told = fleet_catalogue(report, self.faults)
        self.measured.update({name: told[name] for name in told if measurable(name, self.scenario)})
        self.timed.update(fleet_timed(report))
        self.scheduled_rows = scheduled_rows(report)
        # A load that was ended early has not met them all; that is told already.
        untimely = () if self.aborted is None else missed_reasons(report["faults"])
        self.invalid += [f"fleet: {reason}" for reason in report["invalid"] if reason not in untimely]

    def _measure_users(self) -> None:
        try:
            recorded = measured_by_users(self.directory)
        except (OSError, ValueError) as error:
            self.invalid.append(f"the users' measurements cannot be read: {error}")
            return
        processes = self.scenario.ui.processes
        if len(recorded) < processes:
            self.invalid.append(f"{processes - len(recorded)} of {processes} Locust processes left no measurements")
        if cut_off := sum(not one.ended_at_us for one in recorded):
            self.invalid.append(
                f"{cut_off} of {processes} Locust processes ended without a last word: what they measured is not whole"
            )
        if not recorded:
            return
        found = catalogue(recorded)
        self.measured.update({name: found[name] for name in found if measurable(name, self.scenario)})
        self.examples = first_violations(recorded)
        self.invalid += clocks_apart(found)
        if self.aborted is None:  # a run that was ended early may have been too short for them
            self.invalid += unanswered(self.scenario, recorded)
        self.timed.update(
            {name: times for name, times in users_timed(recorded).items() if measurable(name, self.scenario)}
        )

    def _doubt_slow_closed(self) -> None:
        """Hold what slow browsers claim against the server's own count, where it can be seen."""
        if self.sampler is not None and self.sampler.sees_the_server:
            told = sum(self.sampler.live_closed(code) for code in CLOSED_FOR_SLOWNESS)
            if note := hold_against(self.measured, told):
                self.unseen.append(Looks(probe="slow browsers", note=note))

    def _statistics_of_users(self) -> dict[str, Mapping[str, float]]:
        """What Locust wrote last; nothing before it wrote anything."""
        try:
            recorded = measured_by_users(self.directory)
        except (OSError, ValueError):
            return {}
        found = catalogue(recorded) if recorded else {}
        return {name: statistics_of(name, value) for name, value in found.items() if measurable(name, self.scenario)}

    def _write(self, name: str, found: Findings | AuditFindings | ChartFindings) -> None:
        write_whole(self.directory / name, msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")


def unanswered(scenario: Scenario, recorded: Sequence[Recorded]) -> list[str]:
    """Why the figures of users say nothing: the server never gave them anything; empty: it did."""
    found = []
    if measurable("live_messages", scenario) and not any(one.messages for one in recorded):
        found.append("browsers got no live message at all")
    elif browsers_must_check(scenario) and not any(one.checked for one in recorded):
        found.append("no browser held what came against what is stored: nothing proves that all of it came")
    elif (
        browsers_must_check(scenario)
        and scenario.ui.subscribers  # a reconnecting browser may end on a connection of a second
        and scenario.ui.visit_seconds >= SAMPLES_PER_VISIT * scenario.fleet.interval_seconds
        and check_seconds(scenario) >= SAMPLES_PER_CHECK * scenario.fleet.interval_seconds
        and not any(one.held for one in recorded)
    ):
        found.append("no browser held a stored sample against what came: nothing proves that every sample came")
    if measurable("api_violations", scenario) and not any(one.answers for one in recorded):
        found.append("users of the API got no good answer at all")
    return found


def explained(judged: Sequence[Judged], examples: Mapping[str, str]) -> list[Judged]:
    """Thresholds that failed, with an example of what was wrong where there is one."""
    return [
        msgspec.structs.replace(one, reason=f"{one.reason}: {examples[one.metric]}")
        if one.reason and one.metric in examples
        else one
        for one in judged
    ]


def browsers_must_check(scenario: Scenario) -> bool:
    """Whether a run is long enough that browsers at a common pace hold what came against what is stored.

    UI subscribers do so in the middle of a visit for the first time, reconnecting browsers at its end.
    """
    ui, seconds = scenario.ui, scenario.duration_seconds
    reached = (ui.subscribers and seconds >= 0.6 * ui.visit_seconds) or (
        ui.reconnecting and seconds >= 1.3 * ui.visit_seconds
    )
    return bool(reached) and seconds > UNCHECKED_SECONDS


def hold_against(measured: dict[str, _Measurement], told: float) -> str:
    """A slow browser that lost its connection cannot tell why: beyond what the server closed for slowness it is an error.

    Args:
        measured: by metric; `slow_closed` and `live_errors` are set right.
        told: live sockets that the server closed for slowness, by its own count.

    Returns:
        What was wrong, for people; empty: nothing.
    """
    claimed, errors = measured.get("slow_closed", 0.0), measured.get("live_errors", 0.0)
    if not isinstance(claimed, float) or not isinstance(errors, float) or claimed <= told:
        return ""
    lost = claimed - told
    measured["slow_closed"], measured["live_errors"] = told, errors + lost
    return (
        f"of {claimed:g} slow browsers that were closed the server counts {told:g} for being slow: {lost:g} live_errors"
    )
