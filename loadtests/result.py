"""The outcome of a run: verdict, exit code, `result.json`, and the table that people read."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, TextIO

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtests.fingerprint import Environment
from loadtests.measure import Latency, Series
from loadtests.thresholds import METRICS, Judged, Measured, statistics_of
from simulator.scenario import Scenario

VERSION = 1
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


class Result(Struct, frozen=True, kw_only=True):
    """Everything that `result.json` holds."""

    version: int = VERSION
    scenario: Scenario
    """As it was run: defaults and overrides put in."""
    seed: int
    started_at_us: int
    ended_at_us: int
    environment: Environment
    metrics: dict[str, dict[str, Any]]
    """By name: unit, kind, statistics, and the HDR histogram (`hdr`) or the points of the series."""
    faults: tuple[FaultDone, ...]
    thresholds: tuple[Judged, ...]
    verdict: str
    exit_code: int
    reasons: tuple[str, ...]
    """Why the verdict is not PASSED, worst first."""


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
    *,
    started_at_us: int,
    ended_at_us: int,
    environment: Environment,
    measured: Measured,
    judged: Sequence[Judged],
    faults: Sequence[FaultDone] = (),
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
        started_at_us=started_at_us,
        ended_at_us=ended_at_us,
        environment=environment,
        metrics={name: _metric(name, measured[name]) for name in METRICS if name in measured},
        faults=tuple(faults),
        thresholds=tuple(judged),
        verdict=verdict.name,
        exit_code=int(verdict),
        reasons=(*wrong[:correctness], *(f"invalid: {reason}" for reason in invalid), *wrong[correctness:]),
    )


def _metric(name: str, measurement: Latency | Series | float) -> dict[str, Any]:
    told: dict[str, Any] = {
        "unit": METRICS[name].unit,
        "kind": METRICS[name].kind,
        "statistics": statistics_of(name, measurement),
    }
    if isinstance(measurement, Latency):
        told["hdr"] = measurement.encode()
        told["clamped"] = measurement.clamped
    elif isinstance(measurement, Series):
        told["points"] = measurement.points
    return told


# ---------------------------------------------------------------- files


def create_run_directory(runs: Path, scenario: str) -> Path:
    """Make `runs/<scenario>-<UTC time>/` and let the link `runs/latest` point at it.

    Raises:
        OSError: it cannot be made.
    """
    runs.mkdir(parents=True, exist_ok=True)
    name = f"{scenario}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    for number in range(1, 100):
        directory = runs / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            directory.mkdir()
            break
    else:
        raise FileExistsError(f"{runs / name}: 99 runs began in this second")
    _point(runs / "latest", directory)
    return directory


def _point(link: Path, directory: Path) -> None:
    """Let `link` point at its sibling `directory`; whoever looks finds the old one or the new one, never none."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(directory.name)
    try:
        temporary.replace(link)
    except OSError:
        temporary.unlink()
        raise


def write_result(directory: Path, result: Result) -> Path:
    """Write `result.json` into `directory`, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    path = directory / "result.json"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    text = msgspec.json.format(msgspec.json.encode(result), indent=2)
    try:
        with temporary.open("wb") as file:
            file.write(text + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return path


# ---------------------------------------------------------------- for people

_COLUMNS = ("metric", "value", "unit", "limit", "", "")


def show(result: Result, path: Path, stream: TextIO | None = None) -> None:
    """Write the verdict: a table of the thresholds, what made the run invalid, the verdict, and where `result.json` is.

    Args:
        result: the run's outcome.
        path: of `result.json`.
        stream: standard output by default. A terminal gets colours, anything else aligned plain text.
    """
    stream = stream or sys.stdout
    console = Console(file=stream, highlight=False, soft_wrap=True)
    rows = [_row(threshold, _marks(stream)) for threshold in result.thresholds]
    last = f"{result.verdict} (exit {result.exit_code})"
    if not console.is_terminal:
        stream.write(_plain(rows) + _notes(result) + f"{last}  {path}\n")
        return
    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column == "value" else "left", overflow="fold")
    for threshold, row in zip(result.thresholds, rows, strict=True):
        table.add_row(*map(Text, row), style="" if threshold.passed else "red")
    console.print(table)
    console.print(Text(_notes(result)), end="")
    console.print(Text(last, "bold green" if result.exit_code == 0 else "bold red"), Text(str(path)))


def _row(threshold: Judged, marks: Mapping[bool, str]) -> tuple[str, ...]:
    value = "-" if threshold.value is None else _number(threshold.value)
    return threshold.key, value, threshold.unit, threshold.limit, marks[threshold.passed], threshold.reason


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100_000 else f"{value:,.6g}"


def _marks(stream: TextIO) -> dict[bool, str]:
    marks = {True: "\N{CHECK MARK}", False: "\N{BALLOT X}"}
    try:
        "".join(marks.values()).encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return {True: "ok", False: "FAILED"}
    return marks


def _plain(rows: Sequence[tuple[str, ...]]) -> str:
    lines = [_COLUMNS, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    text = ""
    for line in lines:
        cells = [
            cell.rjust(width) if i == 1 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text += "  ".join(cells).rstrip() + "\n"
    return text


def _notes(result: Result) -> str:
    """What the table of thresholds does not tell: the reasons for which the run is invalid."""
    invalid = [reason for reason in result.reasons if reason.startswith("invalid: ")]
    return "".join(f"{reason}\n" for reason in invalid)
