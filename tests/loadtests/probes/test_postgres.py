"""A real Postgres, as its statistics tell it."""

import asyncpg

from loadtests.database import Reconnecting
from loadtests.probes.postgres import PostgresProbe
from loadtests.probes.tables import TablesProbe
from server.db.storage.strategies import storage


async def test_what_happens_in_the_database_is_seen(database: str) -> None:
    """Two looks around some inserts: WAL, connections, locks and buffer hits have points, and rows went in."""
    looking = Reconnecting(database, statement_seconds=5)
    probe = PostgresProbe(looking)
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("CREATE TABLE t AS SELECT generate_series(1, 10) AS n")
        await connection.fetchval("SELECT pg_stat_force_next_flush()")
        await probe.look()
        await connection.execute("INSERT INTO t SELECT generate_series(1, 5000)")
        await connection.execute("SELECT pg_stat_force_next_flush()")
        await connection.fetchval("SELECT count(*) FROM t")
        await probe.look()
    finally:
        await connection.close()
        looking.close()
    last = {name: series.statistics().get("last") for name, series in probe.series.items()}

    assert (probe.looks.looks, probe.looks.failures) == (2, 0), probe.looks
    assert None not in last.values(), last
    assert (last["wal_bytes_per_second"] or 0) > 1000
    assert (last["db_rows_inserted_per_second"] or 0) > 0
    assert (last["db_connections"] or 0) >= 2


async def test_a_database_that_is_away_leaves_a_gap(database: str) -> None:
    """Nobody listens: failures with the error, and no points at all."""
    nowhere = Reconnecting("postgresql://x:y@127.0.0.1:1/none", statement_seconds=1)
    for probe in (PostgresProbe(nowhere), TablesProbe(storage("plain"), nowhere)):
        await probe.look()
        assert (probe.looks.looks, probe.looks.failures) == (1, 1)
        assert "Error" in probe.looks.last_error
        assert all(not series.points for series in probe.series.values())


async def test_the_slowest_statements_are_told_or_it_is_said_why_not(database: str) -> None:
    """With the library loaded there are statements with their times; without it there is a note."""
    looking = Reconnecting(database, statement_seconds=5)
    probe = PostgresProbe(looking)
    try:
        await probe.prepare()
        async with looking.use() as connection:
            await connection.fetchval("SELECT count(*) FROM generate_series(1, 50000)")
        await probe.find_statements()
    finally:
        looking.close()

    if probe.statements:
        assert any("generate_series" in statement.query for statement in probe.statements)
        assert [s.total_ms for s in probe.statements] == sorted((s.total_ms for s in probe.statements), reverse=True)
    else:
        assert probe.looks.note.startswith("no slowest statements: ")


async def test_tables_that_do_not_exist_are_a_look_in_vain(empty_database: str) -> None:
    """Before the server made them there is nothing to measure, and that is said."""
    looking = Reconnecting(empty_database, statement_seconds=5)
    probe = TablesProbe(storage("plain"), looking)
    try:
        await probe.look()
    finally:
        looking.close()

    assert probe.looks.failures == 1
    assert all(not series.points for series in probe.series.values())
