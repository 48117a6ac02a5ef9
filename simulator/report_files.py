"""Reports of one fleet's shards, from the files of several machines, as one report."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from simulator.errors import PlanError
from simulator.merge import add_reports
from simulator.plan import Shard, parse_shard
from simulator.report import VERSION

_SAME = ("org", "containers", "log_lines", "interval_ms", "seed", "transport", "warm_up_ms")
"""What all reports of a fleet say alike. The server's address may differ from machine to machine."""


class ReportError(ValueError):
    """Files that are no reports of one fleet. The message names the file, the value and what was expected."""


class _Summary(msgspec.Struct):
    clamped: int
    hdr: str


class _Fault(msgspec.Struct):
    planned: str
    agents: int
    happened: int
    counts: dict[str, int]


class _Process(msgspec.Struct):
    shard: str
    first_agent: int
    agents: int


class _Report(msgspec.Struct):
    """What is looked at; the other keys are those of every report."""

    version: int
    shard: str | None
    first_agent: int
    agents: int
    org: str
    containers: int
    log_lines: int
    interval_ms: float
    seed: int
    transport: str
    warm_up_ms: float
    started_us: int
    stopped_us: int
    faults: list[_Fault]
    invalid: list[str]
    connections: list[list[int]]
    batches: dict[str, int]
    cpu: dict[str, float]
    ack_latency_ms: _Summary
    bystander_ack_latency_ms: _Summary
    schedule_lag_ms: _Summary
    processes: list[_Process] = []


class _File(NamedTuple):
    path: Path
    raw: dict[str, Any]
    known: _Report


class _Part(NamedTuple):
    """The agents of one process."""

    begin: Fraction
    """Of the fleet, from 0 to 1, as is the end."""
    end: Fraction
    shard: Shard
    first_agent: int
    agents: int
    file: _File


def merge_files(paths: Sequence[Path]) -> dict[str, Any]:
    """The report of a whole fleet.

    Args:
        paths: of the reports of all its shards, in any order; at least one.

    Raises:
        ReportError: a file cannot be read or is no whole report; the fleets differ; shards overlap or are missing.
    """
    files = [_read(path) for path in paths]
    for file in files[1:]:
        _check_same(files[0], file)
    parts = sorted((part for file in files for part in _parts(file)), key=lambda part: (part.begin, part.end))
    _check_whole(parts)
    _check_time(files)
    ordered = {part.file.path: part.file.raw for part in parts}
    return add_reports(list(ordered.values()))


def _read(path: Path) -> _File:
    expected = "expected a whole file of `seatrial simulate --report`"
    try:
        raw = msgspec.json.decode(path.read_bytes())
        known = msgspec.convert(raw, _Report)
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror or error}: {expected}") from None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ReportError(f"{path}: {error}: {expected}") from None
    if known.version != VERSION:
        raise ReportError(f"{path}: version = {known.version}: expected {VERSION}")
    return _File(path, raw, known)


def _check_same(first: _File, other: _File) -> None:
    def differ(name: str, ours: object, theirs: object) -> None:
        if ours != theirs:
            raise ReportError(f"{other.path}: {name} = {theirs}: expected {ours}, as in {first.path}")

    for name in _SAME:
        differ(name, getattr(first.known, name), getattr(other.known, name))
    differ("faults", *([fault.planned for fault in file.known.faults] for file in (first, other)))
    differ("keys", *(sorted(_keys(file.raw)) for file in (first, other)))


def _keys(report: Mapping[str, Any]) -> set[str]:
    return set(report) - {"processes"}


def _parts(file: _File) -> list[_Part]:
    """Of a report: itself, or the processes of its machine."""
    known = file.known
    processes = known.processes or [_Process(known.shard or "", known.first_agent, known.agents)]
    parts = []
    for process in processes:
        try:
            shard = parse_shard(process.shard)
        except PlanError as error:
            raise ReportError(f"{file.path}: {error}") from None
        begin, end = Fraction(shard.number - 1, shard.of), Fraction(shard.number, shard.of)
        parts.append(_Part(begin, end, shard, process.first_agent, process.agents, file))
    return parts


def _check_whole(parts: Sequence[_Part]) -> None:
    """Each agent of the fleet is in one part, and none is missing."""
    for before, part in pairwise(parts):
        if part.begin < before.end:
            raise ReportError(
                f"{part.file.path}: shard = {part.shard}: expected no agents of shard {before.shard}, "
                f"which {before.file.path} has"
            )
    ends = [Fraction(0), *(part.end for part in parts)]
    begins = [*(part.begin for part in parts), Fraction(1)]
    if begins != ends:
        shards = ", ".join(str(part.shard) for part in parts)
        raise ReportError(f"shards = {shards}: expected all shards of the fleet, a report of each")
    agents, first_agent = sum(part.agents for part in parts), parts[0].first_agent
    for part in parts:
        first, after = (agents * number // part.shard.of for number in (part.shard.number - 1, part.shard.number))
        if (part.first_agent, part.agents) != (first_agent + first, after - first):
            raise ReportError(
                f"{part.file.path}: agents = {part.agents} from {part.first_agent} on in shard {part.shard}: expected "
                f"{after - first} from {first_agent + first} on, if all are of one fleet of {agents}"
            )


def _check_time(files: Sequence[_File]) -> None:
    """They ran at the same time: figures of two runs are none of one fleet."""
    first = min(files, key=lambda file: file.known.stopped_us)
    for file in files:
        if file.known.started_us >= first.known.stopped_us:
            raise ReportError(
                f"{file.path}: started_us = {file.known.started_us}: expected a start before {first.known.stopped_us}, "
                f"when the shard of {first.path} ended"
            )
