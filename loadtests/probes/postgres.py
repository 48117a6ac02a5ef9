"""Postgres as its own statistics tell it."""

import time

import asyncpg
from msgspec import Struct

from loadtests.database import AWAY, Reconnecting
from loadtests.measure import Series, now_us
from loadtests.probes.catalogue import POSTGRES_DERIVED, POSTGRES_LEVELS, POSTGRES_RATES
from loadtests.probes.looks import Looks, Rates

STATEMENTS = 10
"""Of the slowest statements, by their time in all."""
STATEMENT_CHARACTERS = 500
_STATISTICS = """
    SELECT d.tup_inserted AS inserted, d.tup_updated AS updated, d.tup_deleted AS deleted, d.tup_returned AS read,
           d.xact_commit AS commits, d.blks_hit AS hit, d.blks_read AS missed,
           pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8 AS wal,
           (SELECT {checkpoints}) AS checkpoints, a.connections, a.active, l.locks, l.waiting
    FROM pg_stat_database d,
         (SELECT count(*) AS connections, count(*) FILTER (WHERE state = 'active' AND pid <> pg_backend_pid()) AS active
          FROM pg_stat_activity WHERE datname = current_database()) a,
         (SELECT count(*) AS locks, count(*) FILTER (WHERE NOT granted) AS waiting FROM pg_locks
          WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database())) l
    WHERE d.datname = current_database()
"""
_CHECKPOINTS = "num_timed + num_requested FROM pg_stat_checkpointer"
_CHECKPOINTS_BEFORE_17 = "checkpoints_timed + checkpoints_req FROM pg_stat_bgwriter"


class Statement(Struct, frozen=True, kw_only=True):
    """What one kind of statement cost, of every process that used the run's database."""

    query: str
    """As Postgres keeps it, constants left out; cut after `STATEMENT_CHARACTERS`."""
    calls: int
    rows: int
    total_ms: float
    mean_ms: float
    max_ms: float


class PostgresProbe:
    """`pg_stat_*` of the run's database.

    Args:
        database: its own; the deadline must be short.
    """

    def __init__(self, database: Reconnecting) -> None:
        self._database = database
        self._rates = Rates()
        self._blocks = Rates()
        self._checkpoints_before: float | None = None
        self.looks = Looks(probe="postgres")
        self.series = {name: Series() for name in (*POSTGRES_RATES, *POSTGRES_LEVELS, *POSTGRES_DERIVED)}
        self.statements: tuple[Statement, ...] = ()

    async def look(self) -> None:
        """Look once."""
        try:
            async with self._database.use() as connection:
                checkpoints = _CHECKPOINTS if connection.get_server_version().major >= 17 else _CHECKPOINTS_BEFORE_17
                row = await connection.fetchrow(_STATISTICS.format(checkpoints=checkpoints))
        except AWAY as error:
            self._gap(error)
            return
        if row is None:
            self._gap("pg_stat_database has no row for this database")
            return
        self.looks.good()
        self._add(row)

    def _gap(self, error: object) -> None:
        self.looks.failed(error)
        self._rates.forget()
        self._blocks.forget()

    def _add(self, row: asyncpg.Record) -> None:
        at, now = now_us(), time.monotonic()
        counters = {name: float(row[column]) for name, (_, column) in POSTGRES_RATES.items()}
        for name, rate in self._rates.take(now, counters).items():
            self.series[name].add(at, rate)
        for name, (_, column) in POSTGRES_LEVELS.items():
            self.series[name].add(at, float(row[column]))
        blocks = self._blocks.take(now, {"hit": float(row["hit"]), "missed": float(row["missed"])})
        if len(blocks) == 2 and sum(blocks.values()) > 0:
            self.series["db_buffer_hit_fraction"].add(at, blocks["hit"] / sum(blocks.values()))
        # After a crash Postgres counts from zero.
        checkpoints = float(row["checkpoints"])
        if self._checkpoints_before is None or checkpoints < self._checkpoints_before:
            self._checkpoints_before = checkpoints
        self.series["db_checkpoints"].add(at, checkpoints - self._checkpoints_before)

    async def find_statements(self) -> None:
        """Read the slowest statements, once, at the end: since Postgres last began, as after a crash it starts anew."""
        try:
            async with self._database.use() as connection:
                self.statements = await _slowest(connection)
        except AWAY as error:
            self.looks.note = f"no slowest statements: {type(error).__name__}: {error}"[:500]

    async def prepare(self) -> None:
        """Let Postgres tell of statements, where its library is loaded."""
        try:
            async with self._database.use() as connection:
                await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        except AWAY as error:
            self.looks.note = f"no slowest statements: {type(error).__name__}: {error}"[:500]


async def _slowest(connection: asyncpg.Connection) -> tuple[Statement, ...]:
    rows = await connection.fetch(
        """
        SELECT left(regexp_replace(query, '\\s+', ' ', 'g'), $1) AS query, calls, rows, total_exec_time AS total_ms,
               mean_exec_time AS mean_ms, max_exec_time AS max_ms
        FROM pg_stat_statements
        WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        ORDER BY total_exec_time DESC LIMIT $2
        """,
        STATEMENT_CHARACTERS,
        STATEMENTS,
    )
    return tuple(Statement(**row) for row in rows)
