"""Samples, and the charts that they must give: computed from the definition, without a database."""

import random
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

import asyncpg
import pytest

from server.db.storage.base import Storage, longest_gap_us
from server.db.storage.times import to_datetime
from server.protocol.canonical import float32
from server.reads import ChartBucket
from simulator.samples import Sample

T0 = 1_800_000_000_000_000
SECOND = 1_000_000


def random_samples(chance: random.Random, container: int) -> list[Sample]:
    """About a quarter of an hour of samples that rise, reset, miss values, and pause."""
    at, rx, tx, rows = T0 + chance.randrange(0, 60 * SECOND), 0, 2**40, []
    for _ in range(chance.randrange(0, 400)):
        at += chance.choice(
            [SECOND, 5 * SECOND, chance.randrange(1, 10 * SECOND), 200 * SECOND][: chance.choice([3, 4])]
        )
        rx = chance.randrange(1000) if chance.random() < 0.05 else rx + chance.randrange(10**6)
        tx = 0 if chance.random() < 0.02 else tx + chance.randrange(10**12)
        values = [chance.uniform(0, 800), chance.randrange(2**40), rx, tx]
        cpu, mem, seen_rx, seen_tx = (None if chance.random() < 0.1 else value for value in values)
        rows.append(Sample(container, at, cpu and float32(cpu), mem, seen_rx, seen_tx))  # type: ignore[arg-type]
    return rows


async def store(storage: Storage, connection: asyncpg.Connection, rows: Sequence[Sample]) -> None:
    """Write samples."""
    if rows:
        await storage.make_room(connection, min(row.at for row in rows), max(row.at for row in rows))
    await connection.copy_records_to_table(
        "container_metric", records=[(row.container_id, to_datetime(row.at), *row[2:]) for row in rows]
    )


def compute(rows: Sequence[Sample], since: int, until: int, step: int) -> list[ChartBucket]:
    """The chart by its definition, without a database."""
    earlier: dict[int, Sample] = {}
    samples: dict[int, list[Sample]] = defaultdict(list)
    rises: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
    for row in sorted(rows):
        bucket = row.at // step * step
        before = earlier.get(row.container_id)
        earlier[row.container_id] = row
        if not since <= row.at < until:
            continue
        samples[bucket].append(row)
        if before is None or row.at - before.at > longest_gap_us(step):
            continue
        for counter in ("rx", "tx"):
            old, new = getattr(before, counter), getattr(row, counter)
            if old is not None and new is not None:
                rises[bucket, counter].append((new - old if new >= old else new, row.at - before.at))

    def mean(values: list[float]) -> float | None:
        return float(sum(map(Fraction, values)) / len(values)) if values else None

    def rate(pairs: list[tuple[int, int]]) -> float | None:
        return (
            float(Fraction(sum(rise for rise, _ in pairs) * SECOND, sum(pause for _, pause in pairs)))
            if pairs
            else None
        )

    found = []
    for at, group in sorted(samples.items()):
        cpus = [row.cpu for row in group if row.cpu is not None]
        mems = [row.mem for row in group if row.mem is not None]
        found.append(
            ChartBucket(
                at, len(group), mean(cpus), max(cpus, default=None), mean([*mems]), max(mems, default=None),
                rate(rises[at, "rx"]), rate(rises[at, "tx"]),
            )
        )  # fmt: skip
    return found


def assert_same(found: Sequence[ChartBucket], expected: Sequence[ChartBucket]) -> None:
    """Both are one chart, but for the last bits of means and rates."""
    assert [bucket.at for bucket in found] == [bucket.at for bucket in expected]
    for bucket, plain in zip(found, expected, strict=True):
        assert (bucket.samples, bucket.cpu_max, bucket.mem_max) == (plain.samples, plain.cpu_max, plain.mem_max)
        for value, exact in zip(bucket, plain, strict=True):
            assert (value is None) == (exact is None), (bucket, plain)
            assert value is None or exact is None or value == pytest.approx(exact, rel=1e-12)
