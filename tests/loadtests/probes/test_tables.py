"""Every table of a real database, looked at."""

import asyncpg
import pytest

from loadtests.database import Reconnecting
from loadtests.growth import Steady, growths
from loadtests.probes.tables import TablesProbe, other_tables
from server.db import migrate
from server.db.storage.strategies import STRATEGIES, storage
from simulator.samples import Sample
from tests.support.charts import SECOND, store
from tests.support.server import now_us

MINUTE = (
    "INSERT INTO metric_minute (container_id, minute, first_at, last_at, cpu_count, memory_count, samples)"
    " VALUES (1, now() - interval '5 min', now(), now(), 0, 0, 1)"
)


@pytest.mark.parametrize("name", STRATEGIES)
async def test_every_table_is_seen_with_its_age(empty_database: str, name: str) -> None:
    """Samples under their table, whatever it consists of; fixed tables beside them; a table that grows is found."""
    kept, looking = storage(name), Reconnecting(empty_database, statement_seconds=5)
    probe = TablesProbe(kept, looking)
    connection = await asyncpg.connect(empty_database)
    try:
        await migrate.apply(connection, kept)
        await connection.execute(MINUTE)
        await connection.execute("CREATE TABLE leak AS SELECT 1 AS n")
        begun = now_us()
        for step in range(4):
            rows = [Sample(step, begun - (200 + i) * SECOND, 1.0, 1, 1, 1) for i in range(100)]
            await store(kept, connection, rows)
            await connection.execute("INSERT INTO leak SELECT generate_series(1, 120000)")
            await connection.fetchval("SELECT pg_stat_force_next_flush()")
            await probe.look()
    finally:
        await connection.close()
        looking.close()
    last = {key: series.statistics()["last"] for key, series in probe.tables.items()}

    assert (probe.looks.looks, probe.looks.failures) == (4, 0), probe.looks
    assert not [table for table, _ in last if table.startswith("container_metric_")]
    assert 299 <= last["container_metric", "oldest_row_age_s"] < 400
    assert 300 <= last["metric_minute", "oldest_row_age_s"] < 400
    assert last["container_metric", "table_bytes"] > 0
    assert {"host", "container", "dirty_minute", "audit"} <= {table for table, _ in last}
    first, *_, newest = [at for at, _ in probe.tables["leak", "table_bytes"].points]
    found = {
        (one.table, one.what): one.growth
        for one in growths(probe.tables, Steady(first, newest + 1, 4), 300)
        if one.what == "table_bytes"
    }
    assert max(found, key=lambda key: found[key]) == ("leak", "table_bytes")
    assert found["leak", "table_bytes"] > 0.1  # what the scenarios bear; looks are not evenly spaced on a busy machine


async def test_a_range_that_is_detached_and_not_dropped_belongs_to_its_table(empty_database: str) -> None:
    """If it is ours; another table of such a name is one of its own, and may grow."""
    kept = storage("partitioned")
    connection = await asyncpg.connect(empty_database)
    try:
        await migrate.apply(connection, kept)
        for name in ("container_metric_20260101_000000", "container_metric_20260101_000100"):
            await connection.execute(f"CREATE TABLE {name} AS SELECT generate_series(1, 10000)")
        before, _ = await kept.sizes(connection)
        await connection.execute(
            "COMMENT ON TABLE container_metric_20260101_000000 IS 'seatrial range of container_metric'"
        )
        after, _ = await kept.sizes(connection)
        others = await other_tables(connection, ["container_metric", "container_log"])
    finally:
        await connection.close()

    assert after.table_bytes > before.table_bytes + 100_000
    assert "container_metric_20260101_000100" in {table.table for table in others}
    assert "container_metric_20260101_000000" not in {table.table for table in others}


async def test_a_table_dropped_while_we_look_is_left_out(empty_database: str) -> None:
    """The catalogue still has it, and its sizes are gone: nothing of it is written down, the others are."""
    looking, other = await asyncpg.connect(empty_database), await asyncpg.connect(empty_database)
    try:
        await other.execute("CREATE TABLE stays AS SELECT 1 AS n")
        await other.execute("CREATE TABLE goes AS SELECT 1 AS n")
        async with looking.transaction(isolation="repeatable_read"):
            await looking.fetchval("SELECT 1")
            await other.execute("DROP TABLE goes")
            seen = [
                row["relname"] for row in await looking.fetch("SELECT relname FROM pg_class WHERE relname = 'goes'")
            ]
            found = await other_tables(looking, [])
    finally:
        await looking.close()
        await other.close()

    assert seen == ["goes"]
    assert [size.table for size in found] == ["stays"]
