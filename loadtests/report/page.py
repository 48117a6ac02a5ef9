"""The report: one page that needs nothing but itself, and its plots as PNG beside it."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from loadtests.catalogue import METRICS, STATISTICS
from loadtests.numbers import number
from loadtests.offered import offered, warm_up
from loadtests.report.figures import Figure, begin_us, figures
from loadtests.report.plots import Mark, png, svg
from loadtests.result import MEANING, Result, Verdict
from loadtests.result_file import write_whole
from loadtests.timed import Moment
from simulator.scenario_format import seconds

NAME, PLOTS = "report.html", "plots"
SLOWEST = 10
_IN_PHASES = ("min", "mean", "p50", "p99", "max", "count")
"""Statistics that the page tells of a phase; `result.json` has all of them."""
_TITLES = {
    Verdict.PASSED: "Passed",
    Verdict.THRESHOLD_FAILED: "Threshold failed",
    Verdict.CORRECTNESS_FAILED: "Correctness failed",
    Verdict.INVALID: "Invalid",
    Verdict.INTERRUPTED: "Interrupted",
}


class Slow(NamedTuple):
    """One of the slowest moments of the run."""

    metric: str
    seconds: float
    """Since the start of the load."""
    clock: str
    """UTC."""
    samples: int
    p99: str
    max: str
    during: str
    """The fault that was going on."""


def write_report(result: Result, directory: Path) -> Path:
    """Write `report.html` and `plots/*.png` into a directory.

    Raises:
        OSError: something cannot be written.
    """
    drawn = list(figures(result))
    marks = _marks(result)
    plots = directory / PLOTS
    plots.mkdir(exist_ok=True)
    for figure in drawn:
        write_whole(plots / f"{figure.key}.png", png(figure, marks))
    path = directory / NAME
    write_whole(path, render(result, drawn).encode(errors="replace"))
    return path


def render(result: Result, drawn: Sequence[Figure]) -> str:
    """The page."""
    marks = _marks(result)
    verdict = Verdict(result.exit_code)
    environment = Environment(
        loader=PackageLoader("loadtests.report", "."), autoescape=select_autoescape(default=True),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = number
    return environment.get_template("page.html.jinja").render(
        result=result,
        verdict=verdict,
        title=_TITLES.get(verdict, verdict.name),
        meaning=MEANING[verdict],
        begun=_utc(result.started_at_us),
        offered=offered(result),
        warm_up=warm_up(result),
        thresholds=sorted(result.thresholds, key=lambda threshold: threshold.passed),
        figures=[
            {
                "figure": figure,
                "lines": list({line.path: line for panel in figure.panels for line in panel.lines}.values()),
                "wide": Markup(svg(figure, marks, narrow=False)),  # noqa: S704 - matplotlib escapes what it writes
                "narrow": Markup(svg(figure, marks, narrow=True)),  # noqa: S704
            }
            for figure in drawn
        ],
        faults=_faults(result),
        slowest=slowest(result),
        metrics=_metrics(result),
        scenario=msgspec.json.format(msgspec.json.encode(result.scenario), indent=2).decode(),
        packages=", ".join(f"{name} {version}" for name, version in sorted(result.environment.packages.items())),
        seconds=seconds,
    )


def slowest(result: Result) -> list[Slow]:
    """The intervals after the warm-up with the highest 99th percentiles, of all latencies that people or agents wait for."""
    begun = begin_us(result)
    measured_from_us = result.measured_from_us if result.scenario.warm_up_seconds else 0
    found = [
        (moment.p99, name, moment)
        for name, figures_ in result.metrics.items()
        if name != "schedule_lag_ms" and not name.startswith("chart_query_ms")
        for moment in figures_.moments
        if moment.at_us >= measured_from_us
    ]
    found.sort(key=lambda entry: (-entry[0], entry[1], entry[2].at_us))
    return [
        Slow(
            name, (moment.at_us - begun) / 1e6, f"{_utc(moment.at_us):%H:%M:%S}", moment.count, number(moment.p99),
            number(moment.max), _going_on(result, moment),
        )
        for _, name, moment in found[:SLOWEST]
    ]  # fmt: skip


def _going_on(result: Result, moment: Moment) -> str:
    """The fault of which an interval has a part in the phase `during`."""
    ends_us = moment.at_us + moment.width_us
    during = result.phases.get("during", ())
    if not any(from_us < ends_us and moment.at_us < until_us for from_us, until_us in during):
        return ""
    return next((fault.kind for fault in reversed(result.faults) if fault.at_us < ends_us), "")


def _marks(result: Result) -> list[Mark]:
    begun = begin_us(result)
    windows = result.phases.get("during", ())
    found = []
    if result.scenario.warm_up_seconds and result.measured_from_us:
        found.append(Mark(0.0, (result.measured_from_us - begun) / 1e6, "warm-up", quiet=True))
    for fault in result.faults:
        until = next((w.until_us for w in windows if w.from_us <= fault.at_us <= w.until_us), fault.ended_at_us)
        found.append(Mark((fault.at_us - begun) / 1e6, (until - begun) / 1e6, fault.kind))
    return found


def _faults(result: Result) -> list[dict[str, Any]]:
    begun = begin_us(result)
    return [
        {
            "kind": fault.kind,
            "detail": fault.detail,
            "at": (fault.at_us - begun) / 1e6,
            "took": (fault.ended_at_us - fault.at_us) / 1e6,
            "clock": f"{_utc(fault.at_us):%H:%M:%S}",
        }
        for fault in result.faults
    ]


def _metrics(result: Result) -> Iterator[dict[str, Any]]:
    for name, found in result.metrics.items():
        order = STATISTICS.get(found.kind, ())
        statistics = sorted(found.statistics.items(), key=lambda item: order.index(item[0]) if item[0] in order else 99)
        yield {
            "name": name,
            "unit": found.unit,
            "source": found.source,
            "meaning": METRICS[name].meaning if name in METRICS else "",
            "statistics": [(statistic, number(value)) for statistic, value in statistics],
            "phases": {
                phase: [(name, number(part.statistics[name])) for name in _IN_PHASES if name in part.statistics]
                for phase, part in found.phases.items()
            },
        }


def _utc(at_us: int) -> datetime:
    return datetime.fromtimestamp(at_us / 1e6, UTC)
