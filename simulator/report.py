"""What a fleet says at its end, and whether its figures may be trusted."""

from typing import Any

from msgspec import to_builtins

from simulator.fleet import Fleet

VERSION = 1
MAX_LAG_FRACTION = 0.1
"""Of the interval: a schedule lag above it at p99 makes the run invalid."""
MAX_CPU = 0.85
"""Of a core, over load.WINDOW_SECONDS."""


def invalid_reasons(fleet: Fleet) -> list[str]:
    """Why the figures say nothing: the fleet may have been the bottleneck, or a fault did not happen; empty: neither."""
    reasons = []
    limit_ms = fleet.plan.interval_us / 1000 * MAX_LAG_FRACTION
    lag_ms = fleet.schedule_lag.p99_ms
    if lag_ms > limit_ms:
        reasons.append(f"schedule_lag_ms.p99 = {lag_ms:.1f}: expected at most {limit_ms:g}, a tenth of the interval")
    if fleet.load.cpu_max > MAX_CPU:
        reasons.append(f"cpu.max = {fleet.load.cpu_max:.2f} of a core: expected at most {MAX_CPU}")
    return reasons + fleet.faults.missed()


def report(fleet: Fleet) -> dict[str, Any]:
    """The fleet's figures as plain data. Times in Unix microseconds, durations with their unit in the name."""
    plan, counts = fleet.plan, fleet.counts
    offsets = sorted(agent.offset.server_ahead_us for agent in fleet.agents if agent.offset.round_trip_us is not None)
    return {
        "version": VERSION,
        "url": plan.url,
        "org": plan.org,
        "shard": str(plan.shard),
        "agents": len(plan.numbers),
        "first_agent": plan.numbers.start,
        "containers": plan.containers,
        "log_lines": plan.log_lines,
        "interval_ms": plan.interval_us / 1000,
        "seed": plan.seed,
        "transport": plan.transport.value,
        "warm_up_ms": plan.warm_up_us / 1000,
        "started_us": fleet.started_us,
        "stopped_us": fleet.stopped_us,
        "connects": counts.connects,
        "welcomes": counts.welcomes,
        "takeovers": counts.takeovers,
        "connections": [list(point) for point in fleet.connections],
        "closes": {str(code): count for code, count in sorted(counts.closes.items())},
        "refused": dict(counts.refused),
        "batches": {
            "produced": counts.batches_produced,
            "sent": counts.batches_sent,
            "resent": counts.batches_resent,
            "acked": counts.batches_acked,
            "dropped": counts.batches_dropped,
        },
        "bytes_sent": counts.bytes_sent,
        "rows": {"metrics": counts.metrics_produced, "logs": counts.logs_produced},
        "rejected": dict(counts.rejected),
        "errors": dict(counts.errors),
        "unreadable_frames": counts.unreadable_frames,
        "pulses": counts.pulses,
        "containers_recreated": counts.containers_recreated,
        "actions": {
            "executed": counts.actions_executed,
            "expired": counts.actions_expired,
            "failed": counts.actions_failed,
            "refused": counts.actions_refused,
            "repeated": counts.actions_repeated,
        },
        "ticks": counts.ticks,
        "skipped_ticks": counts.skipped_ticks,
        "faults": fleet.faults.reports(),
        "ack_latency_ms": fleet.ack_latency.summary(),
        "bystander_ack_latency_ms": fleet.bystander_ack_latency.summary(),
        "schedule_lag_ms": fleet.schedule_lag.summary(),
        "intervals": {
            "ack_latency_ms": [to_builtins(interval) for interval in fleet.ack_latency.intervals()],
            "schedule_lag_ms": [to_builtins(interval) for interval in fleet.schedule_lag.intervals()],
        },
        "cpu": {"max": round(fleet.load.cpu_max, 3), "mean": round(fleet.load.cpu_mean, 3)},
        "cpu_seconds": {
            "all": round(fleet.load.cpu_seconds, 3),
            "generation": round(fleet.load.generation_seconds, 3),
            "ledger": round(fleet.load.ledger_seconds, 3),
        },
        "loop_lag_max_ms": round(fleet.load.loop_lag_max_ms, 3),
        "clock_offset_ms": offsets[len(offsets) // 2] / 1000 if offsets else None,
        "invalid": invalid_reasons(fleet),
    }
