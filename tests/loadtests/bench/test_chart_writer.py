"""What is stored beside charts: rows, their marks, their place, at the rate that was asked for."""

import asyncpg
import pytest
from msgspec.structs import replace

from loadtests.bench.chart_writer import write
from loadtests.bench.chart_writer_plan import WriterPlan, Written
from loadtests.bench.samples import T0, container_ids
from server.db import migrate
from server.db.storage.strategies import STRATEGIES, storage
from server.db.storage.times import to_datetime, to_micros

STORED = """
    SELECT count(*) AS rows, count(DISTINCT container_id) AS containers, min(timestamp) AS first, max(timestamp) AS last,
           (SELECT count(*) FROM (SELECT DISTINCT container_id, date_trunc('minute', timestamp) FROM container_metric
                                  EXCEPT SELECT unnest(containers), minute FROM dirty_minute) lacking) AS unmarked,
           (SELECT sum(cardinality(containers)) FROM dirty_minute) AS marks
    FROM container_metric
"""
PLAN = WriterPlan(strategy="plain", seed=3, containers=20, retention_us=3_600_000_000, seconds=0.5)


async def stored_after(dsn: str, *plans: WriterPlan) -> tuple[list[Written], asyncpg.Record]:
    """Write by one plan after the other, each from where the one before ended; what is stored then."""
    connection = await asyncpg.connect(dsn)
    try:
        await migrate.apply(connection, storage(plans[0].strategy))
        written: list[Written] = []
        for plan in plans:
            first = written[-1].next_second if written else plan.first_second
            written.append(await write(replace(plan, first_second=first), dsn))
        row = await connection.fetchrow(STORED)
        assert row is not None
        return written, row
    finally:
        await connection.close()


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_what_is_written_is_new_and_marked(empty_database: str, strategy: str) -> None:
    """Every row that is told is stored, none lies before T0, and the rollup finds a mark of each minute, one a container."""
    plan = replace(PLAN, strategy=strategy)
    [full, half], stored = await stored_after(empty_database, plan, plan)

    assert stored["rows"] == full.rows + half.rows > 0
    assert stored["containers"] == plan.containers
    assert stored["first"] == to_datetime(T0)
    assert to_micros(stored["last"]) // 1_000_000 == T0 // 1_000_000 + half.next_second - 1
    assert stored["unmarked"] == 0
    begun_minutes = -(-full.next_second // 60) + (half.next_second - 1) // 60 - full.next_second // 60 + 1
    assert stored["marks"] == plan.containers * begun_minutes
    assert stored["marks"] < stored["rows"]


async def test_a_rate_is_kept(empty_database: str) -> None:
    """At 200 rows/s no more are stored than are due in the time, and the last flush is not late."""
    [written], stored = await stored_after(empty_database, replace(PLAN, rows_per_second=200.0))

    assert stored["rows"] == written.rows <= 100 + PLAN.containers
    assert written.seconds >= PLAN.seconds
    assert written.rows_per_second <= 240.0


def test_a_longer_list_of_containers_begins_with_a_shorter_one() -> None:
    """So what is looked at is among what is written; another seed has others."""
    assert container_ids(5, 100)[:7] == container_ids(5, 7)
    assert not set(container_ids(5, 100)) & set(container_ids(6, 100))
