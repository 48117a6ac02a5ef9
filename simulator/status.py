"""How a running fleet stands: taken once a second, added up over processes, told by the names of the report."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psutil
from msgspec import Struct

from simulator.latency import Buckets, add_buckets, percentile_ms

if TYPE_CHECKING:
    from simulator.fleet import Fleet


class Status(Struct, frozen=True, kw_only=True):
    """A fleet, or a part of it, at one moment. Counts are since its start."""

    at_us: int
    """Unix microseconds."""
    agents: int
    connected: int
    batches_produced: int
    batches_sent: int
    """Those sent again included."""
    batches_acked: int
    batches_resent: int
    batches_dropped: int
    rows: int
    skipped_ticks: int
    faults: dict[str, int]
    """How often each kind happened."""
    cpu: float
    """Of a core, over the last second, of all processes together."""
    cpu_seconds: float
    generation_cpu_seconds: float
    """Of that, making rows; 0 unless it is measured."""
    ledger_cpu_seconds: float
    """Of that, writing the ledger."""
    rss_bytes: int
    ack: Buckets
    """From due to acknowledged, since the status before."""
    lag: Buckets
    """From due to produced, since the status before."""


_SINCE_BEFORE = {"ack", "lag"}
_OF_A_MOMENT = {"at_us"}


def status(fleet: "Fleet") -> Status:
    """How a fleet stands; its latencies are those since the last call."""
    counts = fleet.counts
    return Status(
        at_us=fleet.now_us(),
        agents=len(fleet.agents),
        connected=sum(agent.connected for agent in fleet.agents),
        batches_produced=counts.batches_produced,
        batches_sent=counts.batches_sent,
        batches_acked=counts.batches_acked,
        batches_resent=counts.batches_resent,
        batches_dropped=counts.batches_dropped,
        rows=counts.metrics_produced + counts.logs_produced,
        skipped_ticks=counts.skipped_ticks,
        faults=fleet.faults.by_kind(),
        cpu=round(fleet.load.cpu_last, 3),
        cpu_seconds=round(time.process_time(), 3),
        generation_cpu_seconds=round(fleet.load.generation_seconds, 3),
        ledger_cpu_seconds=round(fleet.load.ledger_seconds, 3),
        rss_bytes=psutil.Process().memory_info().rss,
        ack=fleet.ack_latency.take_recent(),
        lag=fleet.schedule_lag.take_recent(),
    )


def add(parts: Sequence[Sequence[Status]]) -> Status:
    """The status of a fleet of several processes.

    Args:
        parts: of each process every status since the last call, at least one.
    """
    newest = [statuses[-1] for statuses in parts]
    total: dict[str, Any] = {
        name: sum(getattr(one, name) for one in newest)
        for name in Status.__struct_fields__
        if name not in {*_SINCE_BEFORE, *_OF_A_MOMENT, "faults"}
    }
    faults: dict[str, int] = {}
    for one in newest:
        for kind, count in one.faults.items():
            faults[kind] = faults.get(kind, 0) + count
    for name in _SINCE_BEFORE:
        total[name] = add_buckets([getattr(one, name) for statuses in parts for one in statuses])
    return Status(at_us=max(one.at_us for one in newest), faults=faults, **total)


def told(now: Status, before: Status | None) -> dict[str, Any]:
    """A status as one flat object, with rates since the one before."""
    seconds = (now.at_us - before.at_us) / 1e6 if before is not None else 0.0
    sent = now.batches_sent - before.batches_sent if before is not None else 0
    return {
        "at_us": now.at_us,
        "agents": now.agents,
        "connected": now.connected,
        "messages_per_second": round(sent / seconds, 1) if seconds > 0 else None,
        "batches_produced": now.batches_produced,
        "batches_sent": now.batches_sent,
        "batches_acked": now.batches_acked,
        "batches_resent": now.batches_resent,
        "batches_dropped": now.batches_dropped,
        "backlog": now.batches_produced - now.batches_acked - now.batches_dropped,
        "rows": now.rows,
        "skipped_ticks": now.skipped_ticks,
        "faults": now.faults,
        "ack_p50_ms": percentile_ms(now.ack, 50),
        "ack_p99_ms": percentile_ms(now.ack, 99),
        "schedule_lag_p99_ms": percentile_ms(now.lag, 99),
        "cpu": round(now.cpu, 3),
        "cpu_seconds": round(now.cpu_seconds, 3),
        "generation_cpu_seconds": round(now.generation_cpu_seconds, 3),
        "ledger_cpu_seconds": round(now.ledger_cpu_seconds, 3),
        "rss_bytes": now.rss_bytes,
    }
