"""The reports of a fleet's processes, or of its machines, as one report."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from simulator.fault_report import add_faults, missed_reasons
from simulator.latency import add_summaries

CONNECTION_SECONDS = 20_000
"""Seconds in which connections changed that are kept; of a longer run the newest."""

_SAME = {
    "version", "url", "org", "containers", "log_lines", "interval_ms", "seed", "transport", "warm_up_ms",
}  # fmt: skip
_LEAST, _MOST = {"first_agent", "started_us"}, {"stopped_us", "loop_lag_max_ms"}
_SECOND_US = 1_000_000

Connections = Sequence[Sequence[int]]


def add_reports(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One report of all processes.

    Counts are added; histograms too, without loss. CPU and the lag of the event loop are those of the busiest process, for
    one that is late makes the fleet late. What makes one of them invalid makes the fleet so, with the shard's name.

    Args:
        reports: of the shards of one fleet, at least one; some may be such reports of several shards themselves.
    """
    if len(reports) == 1:
        return dict(reports[0])
    faults = add_faults([report["faults"] for report in reports])
    whole = {key: _merged(key, [report[key] for report in reports]) for key in reports[0] if key not in _OWN}
    whole |= {
        "shard": None,
        "connections": _connections([report["connections"] for report in reports], whole["started_us"]),
        "cpu": {name: max(report["cpu"][name] for report in reports) for name in ("max", "mean")},
        "clock_offset_ms": _middle([report["clock_offset_ms"] for report in reports]),
        "faults": faults,
        "invalid": [*_invalid(reports), *missed_reasons(faults)],
        "processes": [told for report in reports for told in report.get("processes") or [_told(report)]],
    }
    return whole


_OWN = {"shard", "connections", "cpu", "clock_offset_ms", "faults", "invalid", "processes"}
"""Keys with a rule of their own."""


def _invalid(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """What makes a process invalid. A fault that missed the agents of one may have struck those of another."""
    return [
        # A report that is merged itself names the shard already.
        reason if report["shard"] is None else f"shard {report['shard']}: {reason}"
        for report in reports
        for reason in report["invalid"]
        if reason not in missed_reasons(report["faults"])
    ]


def _told(report: Mapping[str, Any]) -> dict[str, Any]:
    """What is worth knowing of one process."""
    return {
        "shard": report["shard"],
        "first_agent": report["first_agent"],
        "agents": report["agents"],
        "batches_sent": report["batches"]["sent"],
        "skipped_ticks": report["skipped_ticks"],
        "schedule_lag_p99_ms": report["schedule_lag_ms"].get("p99"),
        "cpu": report["cpu"],
    }


def _merged(key: str, values: Sequence[Any]) -> Any:
    if key in _SAME:
        return values[0]
    if isinstance(values[0], Mapping) and "hdr" in values[0]:
        return add_summaries(values)
    known = [value for value in values if value is not None]
    if key in _LEAST or key in _MOST:
        return (min if key in _LEAST else max)(known, default=None)
    return _sum(known)


def _sum(values: Sequence[Any]) -> Any:
    """Numbers added, tables key by key, lists one after the other."""
    if not values:
        return None
    if isinstance(values[0], Mapping):
        keys = sorted({key for value in values for key in value}) if _differ(values) else list(values[0])
        return {key: _sum([value[key] for value in values if key in value]) for key in keys}
    if isinstance(values[0], list):
        return [item for value in values for item in value]
    return values[0] if isinstance(values[0], str | bool) else sum(values)


def _differ(tables: Sequence[Mapping[str, Any]]) -> bool:
    return any(table.keys() != tables[0].keys() for table in tables)


def _middle(values: Sequence[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None


def _connections(parts: Sequence[Connections], started_us: int) -> list[list[int]]:
    """Points of each second in which a process had one, with what the others had last."""
    seconds: dict[int, dict[int, Sequence[int]]] = {}
    for number, points in enumerate(parts):
        for point in points:
            seconds.setdefault((point[0] - started_us) // _SECOND_US, {})[number] = point
    newest: dict[int, Sequence[int]] = {}
    merged: deque[list[int]] = deque(maxlen=CONNECTION_SECONDS)
    for second in sorted(seconds):
        newest |= seconds[second]
        at_us = max(point[0] for point in seconds[second].values())
        merged.append([at_us, *(sum(point[i] for point in newest.values()) for i in (1, 2, 3))])
    return list(merged)
