"""Stores samples beside the charts of `bench charts`, as a lane of the server stores them.

    python -m loadtests.bench.chart_writer PLAN OUT    (into the database SEATRIAL_DATABASE_URL)

PLAN and OUT are the JSON of `WriterPlan` and `Written`. Each flush is one trip: BEGIN, the marks of minutes that the rollup
must compute, COPY, COMMIT. Time is made up: a second of samples follows the other, however long it takes.
"""

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import asyncpg
import msgspec
import uvloop

from loadtests.bench.chart_writer_plan import WriterPlan, Written
from loadtests.bench.samples import SECOND_US, T0, Samples, container_ids
from server.db.copying import copy_in
from server.db.dirty_marks import mark_statement
from server.db.storage.base import Window
from server.db.storage.strategies import storage as strategy
from server.reads import MINUTE_US
from server.rows import row_key

STATEMENT_SECONDS = 60.0
PREPARED_SECONDS = 60
"""Of samples, from one `Storage.prepare` to the next: what a prune interval is to the server."""


class _Flush(NamedTuple):
    """What one transaction stores."""

    second: int
    rows: list[bytes]
    marking: str
    """Statement that marks their minute; "": it is marked already."""


async def write(plan: WriterPlan, dsn: str) -> Written:
    """Store samples for as long as the plan says.

    With a rate each flush has its own time and is stored then, or as soon as those before it are: late ones are made up for.

    Raises:
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError: the database did not take them.
    """
    storage = strategy(plan.strategy)
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=STATEMENT_SECONDS)
    try:
        rows, second, prepared_until = 0, plan.first_second, plan.first_second
        cpu_before, begun = time.process_time(), time.monotonic()
        for flush in _flushes(plan):
            if plan.rows_per_second is not None:
                due = min(begun + rows / plan.rows_per_second, begun + plan.seconds)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            if time.monotonic() >= begun + plan.seconds:
                break
            second = flush.second
            if second >= prepared_until:
                now, ahead_us = T0 + second * SECOND_US, 2 * PREPARED_SECONDS * SECOND_US
                await storage.prepare(connection, Window(now=now, retention_us=plan.retention_us, ahead_us=ahead_us))
                prepared_until = second + PREPARED_SECONDS
            begin = f"BEGIN; {flush.marking}" if flush.marking else "BEGIN"
            await copy_in(connection, storage.metrics, flush.rows, before=begin, after="COMMIT")
            rows += len(flush.rows)
        return Written(
            rows=rows,
            seconds=time.monotonic() - begun,
            cpu_seconds=time.process_time() - cpu_before,
            next_second=second + 1,
        )
    finally:
        connection.terminate()


def _flushes(plan: WriterPlan) -> Iterator[_Flush]:
    """Endless. The first samples of a minute mark it, those after them rely on that."""
    samples = Samples(container_ids(plan.seed, plan.containers))
    for second in itertools.count(plan.first_second):
        at = T0 + second * SECOND_US
        minute = at - at % MINUTE_US
        marks = second == plan.first_second or at == minute
        for rows in samples.second(second):
            yield _Flush(second, rows, mark_statement((row_key(row)[0], minute) for row in rows) if marks else "")


def main() -> None:
    """Do what PLAN says, and write OUT."""
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=WriterPlan)
    written = uvloop.run(write(plan, os.environ["SEATRIAL_DATABASE_URL"]))
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(written))


if __name__ == "__main__":
    main()
