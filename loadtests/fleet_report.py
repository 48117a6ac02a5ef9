"""What the fleet tells at its end, by the names of the catalogue."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from loadtests.catalogue import CUTS
from loadtests.measure import Latency, Series
from loadtests.result import FaultDone
from loadtests.timed import Timed
from server.protocol.close_codes import CloseCode
from simulator.intervals import Interval

_NEVER_US = 2**63
LATENCIES = ("ack_latency_ms", "bystander_ack_latency_ms", "schedule_lag_ms")
BACK = 0.99
"""Share of the fleet that must stream again for it to be back."""


def read_report(path: Path) -> dict[str, Any]:
    """The report of a fleet.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no report.
    """
    try:
        found: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from None
    return found


def fleet_faults(report: Mapping[str, Any]) -> list[FaultDone]:
    """The faults that the fleet brought about itself, as they happened; those that did not are among its `invalid`."""
    return [
        FaultDone(
            at_us=fault["begun_us"],
            ended_at_us=fault["ended_us"],
            kind=fault["kind"],
            detail=", ".join(
                f"{count} {what}" for what, count in ({"agents": fault["agents"]} | fault["counts"]).items()
            ),
        )
        for fault in report["faults"]
        if not fault["missed"]
    ]


def catalogue(report: Mapping[str, Any], faults: Sequence[FaultDone]) -> dict[str, Latency | Series | float]:
    """The report's figures, by the names of the catalogue.

    Raises:
        ValueError: a histogram cannot be read.
    """
    batches = report["batches"]
    closes: Mapping[str, int] = report["closes"]
    settled = batches["acked"] + batches["dropped"]
    return {
        **{name: Latency.decode([report[name]["hdr"]]) for name in LATENCIES},
        "rows_rejected": float(sum(report["rejected"].values())),
        "fleet_faults": float(sum(fault["happened"] for fault in report["faults"])),
        "impostors_welcomed": float(sum(fault["counts"].get("welcomed", 0) for fault in report["faults"])),
        "resends": float(batches["resent"]),
        "batches_dropped": float(batches["dropped"]),
        "batches_unsettled": float(batches["produced"] - settled),
        "connections_lost": float(sum(closes.values()) - closes.get(str(int(CloseCode.NORMAL)), 0)),
        "handshakes_refused": float(sum(count for why, count in report["refused"].items() if why != "unreachable")),
        "pulses": float(report["pulses"]),
        "containers_recreated": float(report["containers_recreated"]),
        "takeovers": float(report["takeovers"]),
        "actions_sent_twice": float(report["actions"]["repeated"]),
        **({"agents_clock_offset_ms": offset_ms} if (offset_ms := report["clock_offset_ms"]) is not None else {}),
        **reconnects(report["connections"], report["agents"], faults),
    }


def scheduled_rows(report: Mapping[str, Any]) -> float:
    """Rows that the fleet's schedule held: those that it made, and as many for each tick that it skipped as for the others."""
    made, ticks = sum(report["rows"].values()), report["ticks"]
    return made * (ticks + report["skipped_ticks"]) / ticks if ticks else 0.0


def timed(report: Mapping[str, Any]) -> dict[str, Timed]:
    """The report's latencies by the time at which something was meant to happen.

    Raises:
        ValueError: they have not the form of `Interval`.
    """
    found = msgspec.convert(report.get("intervals", {}), dict[str, list[Interval]])
    return {name: Timed(intervals) for name, intervals in found.items()}


def reconnects(
    connections: Sequence[tuple[int, int, int, int]], agents: int, faults: Sequence[FaultDone]
) -> dict[str, Series]:
    """How the fleet came back, a point for each fault that cut more than a hundredth of it.

    Args:
        connections: as the fleet's report has them: Unix microseconds, agents connected then, welcomes until then,
            agents then that had an ack on their connection.
        agents: of the fleet.
        faults: as they happened.

    Returns:
        Nothing if the fleet was never cut, or did not come back: that is no time at all.
    """
    found = {"reconnect_99_s": Series(), "reconnect_peak_share": Series()}
    cuts = [fault.at_us for fault in faults if fault.kind in CUTS]
    for begun, next_cut in pairwise((*cuts, _NEVER_US)):
        after = [point for point in connections if point[0] > begun]
        away = next((i for i, point in enumerate(after) if point[3] < BACK * agents), None)
        if away is None or after[away][0] > next_cut:
            continue
        # The next cut may come before it is back from this one: then both have cost the time until it is.
        back = next((i for i, point in enumerate(after) if i > away and point[3] >= BACK * agents), None)
        if back is None:
            return {}
        before = max((point[2] for point in connections if point[0] <= begun), default=0)
        found["reconnect_99_s"].add(begun, (after[back][0] - begun) / 1e6)
        found["reconnect_peak_share"].add(begun, max(_steps(before, after[: back + 1])) / agents)
    return {name: series for name, series in found.items() if series.points}


def _steps(before: int, points: Sequence[tuple[int, int, int, int]]) -> Iterator[int]:
    """Welcomes of each second; one in which nothing changed has no point."""
    for _, _, welcomes, _ in points:
        yield welcomes - before
        before = welcomes
