"""The raw limit: the same rows by one COPY connection into empty tables of the same shape, with nothing else running."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import asyncpg

from server.db.storage.base import CopyTarget, Storage
from server.rows import STREAMS, copy_data, metric_head, pack_log, pack_metric, pack_time

ROWS_PER_COPY = 10_000
"""Rows of a COPY and its transaction: about what a lane gathers in 100 ms at 100,000 rows/s."""


@dataclass(frozen=True, slots=True)
class RawCopy:
    """What was copied, and how long it took."""

    rows: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """The raw limit."""
        return self.rows / self.seconds if self.seconds else 0.0


async def measure(
    reading: asyncpg.Connection, writing: asyncpg.Connection, storage: Storage, *, most_rows: int
) -> RawCopy:
    """COPY once more what a run stored, in the order in which it lies there, sorted by key within each COPY, one commit each.

    Rows are read over `reading` and packed beforehand; only COPY and COMMIT over `writing` are timed. Of each table at most
    `most_rows` are taken. The tables that it makes are dropped.
    """
    rows, seconds = 0, 0.0
    for target, pack in ((storage.metrics, _metric), (storage.logs, _log)):
        table = f"raw_{target.table}"
        await writing.execute(f"CREATE TABLE {table} (LIKE {target.table}, PRIMARY KEY ({', '.join(target.key)}))")
        try:
            async for block in _stored(reading, target, most_rows):
                data = BytesIO(copy_data(sorted(map(pack, block))))
                started = time.perf_counter()
                async with writing.transaction():
                    await writing.copy_to_table(table, source=data, columns=target.columns, format="binary")
                seconds += time.perf_counter() - started
                rows += len(block)
        finally:
            await writing.execute(f"DROP TABLE {table}")
    return RawCopy(rows, seconds)


async def _stored(connection: asyncpg.Connection, target: CopyTarget, most: int) -> AsyncIterator[list[asyncpg.Record]]:
    """What a table holds, in its own order, in blocks."""
    columns = ", ".join(column for column in target.columns if column != "timestamp")
    moment = "(extract(epoch FROM timestamp) * 1000000)::bigint AS at"
    async with connection.transaction(readonly=True):
        cursor = await connection.cursor(
            f"SELECT {moment}, {columns} FROM {target.table} LIMIT {most}"  # noqa: S608 - our own names
        )
        while block := await cursor.fetch(ROWS_PER_COPY):
            yield block


def _metric(row: Any) -> bytes:
    return pack_metric(
        metric_head(row["container_id"]), pack_time(row["at"]), row["cpu_percent"], row["memory_bytes"],
        row["network_rx_bytes"], row["network_tx_bytes"],
    )  # fmt: skip


def _log(row: Any) -> bytes:
    stream: Any = STREAMS[row["stream"]]
    return pack_log(
        row["container_id"], row["at"], row["line"], stream, row["text"].encode(), row["partial"], row["truncated"]
    )
