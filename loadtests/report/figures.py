"""What the report draws: which metrics stand together, and their values. Pure: `plots` draws it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import nan

from loadtests.measure import Latency
from loadtests.result import Figures, Result

MOST_POINTS = 600
"""Of a line; more than the eye sees. Of those that stand together the least and the most are kept."""
_GAP = 3.5
"""Times the usual distance of two points: past it there is a gap, and the line has one, too."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel."""

    metric: str
    label: str
    points: Sequence[tuple[float, float]]
    """Seconds since the start of the load, or a percentile, and the value. A value that is not a number is a gap."""
    path: str
    """Where its values stand in `result.json`."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines in one unit."""

    unit: str
    lines: Sequence[Line]
    zero: bool = True
    """Whether the axis begins at 0; else it is logarithmic."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: panels above each other."""

    key: str
    """Of its file and its place in the page."""
    title: str
    told: str
    panels: Sequence[Panel]
    span: tuple[float, float] = (0.0, 1.0)
    """Seconds from the first to the last that is shown; the same for every figure over time."""
    percentiles: bool = False
    """Whether the horizontal axis is a percentile; else it is the time."""


@dataclass(frozen=True, slots=True)
class _Plan:
    key: str
    title: str
    told: str
    panels: Sequence[tuple[str, Mapping[str, str], float]]
    """Unit, label by metric, and what a value is divided by."""


_LATENCIES = {
    "ack_latency_ms": "ack",
    "live_latency_ms": "live sample",
    "log_latency_ms": "log line",
    "action_round_trip_ms": "action",
    "chart_query_ms": "chart",
    "log_download_ms": "log download",
}
_PLANS = (
    _Plan(
        "throughput", "Throughput", "What the fleet made, beside what was committed in the same second.",
        (("rows/s", {"offered_rows_per_second": "offered", "insert_rows_per_second": "stored"}, 1),),
    ),
    _Plan(
        "queues", "Queue depth", "What waits: at the fleet for its acks, and in the server for a COMMIT or a subscriber.",
        (
            ("batches", {"backlog_batches": "fleet, not acked", "lane_batches_pending": "server, for a flush"}, 1),
            ("MB", {"ingest_bytes": "rows not committed", "outbox_bytes": "frames for subscribers"}, 1e6),
        ),
    ),
    _Plan(
        "connections", "Connections", "Agents and browsers with an open socket, as the server counts them.",
        (("sockets", {"agents_connected": "agents", "subscribers_connected": "browsers"}, 1),),
    ),
    _Plan(
        "tables", "Table growth", "Samples and log lines on disk, what retention left to vacuum, and the oldest row.",
        (
            ("MB", {"table_bytes": "heap", "index_bytes": "indexes"}, 1e6),
            ("rows", {"dead_rows": "dead rows"}, 1),
            ("s", {"oldest_row_age_s": "oldest row"}, 1),
        ),
    ),
    _Plan(
        "cpu", "Processor", "Of each part; 1 is a whole core.",
        (("cores", {f"{who}_cpu_cores": label for who, label in (
            ("server", "server"), ("postgres", "Postgres"), ("fleet", "fleet"), ("users", "Locust"), ("proxy", "proxy"),
        )}, 1),),
    ),
    _Plan(
        "memory", "Memory", "Resident, of each part.",
        (("MB", {f"{who}_rss_mb": label for who, label in (
            ("server", "server"), ("postgres", "Postgres"), ("fleet", "fleet"), ("users", "Locust"), ("proxy", "proxy"),
        )}, 1),),
    ),
    _Plan(
        "postgres", "Postgres", "Rows in and out, write-ahead log, and blocks found in shared buffers.",
        (
            ("rows/s", {"db_rows_inserted_per_second": "inserted", "db_rows_updated_per_second": "updated",
                        "db_rows_deleted_per_second": "deleted"}, 1),
            ("MB/s", {"wal_bytes_per_second": "WAL"}, 1e6),
            ("share", {"db_buffer_hit_fraction": "buffer hits"}, 1),
        ),
    ),
)  # fmt: skip


def figures(result: Result) -> Iterator[Figure]:
    """Every figure for which the run has values."""
    for made in (_percentiles(result), _moments(result)):
        if made.panels:
            yield made
    for plan in _PLANS:
        panels = []
        for unit, labels, divisor in plan.panels:
            lines = [
                _series(result, name, label, divisor) for name, label in labels.items()
                if name in result.metrics and result.metrics[name].points
            ]  # fmt: skip
            if lines:
                panels.append(Panel(unit, lines))
        if panels:
            yield Figure(plan.key, plan.title, plan.told, panels, _span(result))


def begin_us(result: Result) -> int:
    """The time that figures call 0."""
    return result.load_started_at_us or result.started_at_us


def _span(result: Result) -> tuple[float, float]:
    return 0.0, max(1.0, result.duration_seconds)


def _percentiles(result: Result) -> Figure:
    lines = [
        Line(name, label, Latency.decode([found.hdr]).percentiles(), f".metrics.{name}.hdr")
        for name, label, found in _latencies(result)
    ]
    return Figure(
        "percentiles", "Latency percentiles", "Share of all that took no longer, from the intended time on.",
        [Panel("ms", lines, zero=False)] if lines else [], percentiles=True,
    )  # fmt: skip


def _moments(result: Result) -> Figure:
    panels = []
    for name, label, found in _latencies(result):
        if name not in ("ack_latency_ms", "live_latency_ms", "action_round_trip_ms") or len(found.moments) < 2:
            continue
        times = [(moment.at_us + moment.width_us / 2 - begin_us(result)) / 1e6 for moment in found.moments]
        panels.append(
            Panel(
                f"{label}, ms",
                [
                    Line(name, statistic, _broken(list(zip(times, values, strict=True))), f".metrics.{name}.moments")
                    for statistic, values in (
                        ("max", [moment.max for moment in found.moments]),
                        ("p99", [moment.p99 for moment in found.moments]),
                        ("p50", [moment.p50 for moment in found.moments]),
                    )
                ],
                zero=False,
            )
        )
    return Figure("latency", "Latency over time", "By the time at which something was meant to happen.", panels,
        _span(result),
    )  # fmt: skip


def _latencies(result: Result) -> Iterator[tuple[str, str, Figures]]:
    for name, label in _LATENCIES.items():
        found = result.metrics.get(name)
        if found is not None and found.hdr and found.statistics:
            yield name, label, found


def _series(result: Result, name: str, label: str, divisor: float) -> Line:
    points = [((at - begin_us(result)) / 1e6, value / divisor) for at, value in result.metrics[name].points]
    return Line(name, label, _broken(points), f".metrics.{name}.points")


def _broken(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points with a gap wherever some are missing, not more than can be seen."""
    points = _thinned(points)
    distances = sorted(later[0] - earlier[0] for earlier, later in pairwise(points))
    usual = distances[len(distances) // 2] if distances else 0.0
    found: list[tuple[float, float]] = []
    for point in points:
        if found and point[0] - found[-1][0] > _GAP * usual > 0:
            found.append(((found[-1][0] + point[0]) / 2, nan))
        found.append(point)
    return found


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    if len(points) <= MOST_POINTS:
        return points
    size = -(-len(points) // (MOST_POINTS // 2))
    found: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        found.extend(sorted(ends))
    return found
