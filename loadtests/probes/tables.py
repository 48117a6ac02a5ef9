"""The size and age of every table of a run's database."""

from collections import defaultdict

import asyncpg

from loadtests.database import AWAY, Reconnecting
from loadtests.growth import DEAD_ROWS, INDEX_BYTES, OLDEST_ROW_AGE, ROWS, TABLE_BYTES
from loadtests.measure import Series, now_us
from loadtests.probes.looks import Looks
from server.db.storage.base import RANGE_MARK, Storage, TableSize
from server.db.storage.times import to_micros

_OTHERS = """
    SELECT relname::text AS table, pg_table_size(oid) AS table_bytes, pg_indexes_size(oid) AS index_bytes,
           pg_stat_get_live_tuples(oid) AS live_rows, pg_stat_get_dead_tuples(oid) AS dead_rows,
           pg_stat_get_tuples_inserted(oid) AS inserted_rows
    FROM pg_class c
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND NOT relispartition AND relname <> ALL($1)
          AND NOT EXISTS (SELECT FROM pg_class kept WHERE kept.relname = ANY($1) AND kept.relkind = 'p'
                          AND obj_description(c.oid, 'pg_class') = $2 || kept.relname)
"""
"""A range of ours that was detached and not dropped belongs to its table, which counts it."""
_TIMES = {"metric_minute": "minute", "dirty_minute": "minute", "log_segment": "until"}
"""Fixed tables whose rows go by their age, and an indexed time of them."""


class TablesProbe:
    """Looks at the tables of samples and lines through the strategy that keeps them, and at all others beside them.

    Args:
        storage: the strategy.
        database: the probe's own connection; its deadline must be short.
    """

    def __init__(self, storage: Storage, database: Reconnecting) -> None:
        self._storage = storage
        self._database = database
        self.looks = Looks(probe="tables")
        self.series = {name: Series() for name in (TABLE_BYTES, INDEX_BYTES, DEAD_ROWS, OLDEST_ROW_AGE)}
        self.tables: defaultdict[tuple[str, str], Series] = defaultdict(Series)
        """By table, and what is looked at of it (`loadtests.growth`)."""

    async def look(self) -> None:
        """Look once."""
        try:
            async with self._database.use() as connection:
                kept = await self._storage.sizes(connection)
                others = await other_tables(connection, [size.table for size in kept])
        except (*AWAY, LookupError) as error:
            self.looks.failed(error)
            return
        self.looks.good()
        at = now_us()
        for name in (TABLE_BYTES, INDEX_BYTES, DEAD_ROWS):
            self.series[name].add(at, sum(getattr(size, name) for size in kept))
        oldest = min((size.oldest_at for size in kept if size.oldest_at is not None), default=None)
        if oldest is not None:
            self.series[OLDEST_ROW_AGE].add(at, (at - oldest) / 1e6)
        for size in (*kept, *others):
            for what in (TABLE_BYTES, INDEX_BYTES, DEAD_ROWS):
                self.tables[size.table, what].add(at, getattr(size, what))
            self.tables[size.table, ROWS].add(at, size.live_rows)
            if size.oldest_at is not None:
                self.tables[size.table, OLDEST_ROW_AGE].add(at, (at - size.oldest_at) / 1e6)


async def other_tables(connection: asyncpg.Connection, kept: list[str]) -> list[TableSize]:
    """All tables but those, and their parts."""
    rows = await connection.fetch(_OTHERS, kept, RANGE_MARK)
    found = []
    for row in rows:
        if row["table_bytes"] is None or row["index_bytes"] is None:
            continue  # dropped while we looked
        time = _TIMES.get(row["table"])
        oldest = await connection.fetchval(f"SELECT min({time}) FROM {row['table']}") if time else None  # noqa: S608
        found.append(TableSize(oldest_at=None if oldest is None else to_micros(oldest), **row))
    return found
