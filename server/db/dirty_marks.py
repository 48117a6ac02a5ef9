"""Marks of minutes that the rollup must compute: written with the rows, read and taken away by the rollup.

Table `dirty_minute`; a mark names a minute and some containers. `server.dirty_minutes` says when one may be taken away.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import asyncpg

from server.db.storage.times import to_datetime, to_micros

_CONTAINERS = 1_000
"""Of a mark: bounds a row's size."""

_CHUNKS = """
    SELECT array_agg(container_id ORDER BY container_id) FROM (
        SELECT container_id, (row_number() OVER (ORDER BY container_id) - 1) / $3 AS chunk FROM (
            SELECT DISTINCT unnest(containers) AS container_id FROM dirty_minute WHERE minute = $1 AND mark_id = ANY($2)
        ) wanted
    ) numbered GROUP BY chunk ORDER BY chunk
"""


class Waiting(NamedTuple):
    """What is marked."""

    minutes: int
    """Minutes of containers, each as often as it was marked."""
    oldest: int | None
    """Unix microseconds; None: there is none."""


def mark_statement(marks: Iterable[tuple[int, int]]) -> str:
    """What stores these marks, as text: it travels with the BEGIN of a flush and needs no trip of its own. "": nothing.

    A mark is a container's id, and the beginning of a minute in Unix microseconds.
    """
    minutes: dict[int, set[int]] = defaultdict(set)
    for container_id, minute in marks:
        minutes[minute].add(container_id)
    values = []
    for minute, found in minutes.items():
        moment, containers = to_datetime(minute).isoformat(), sorted(found)
        parts = (containers[start : start + _CONTAINERS] for start in range(0, len(containers), _CONTAINERS))
        values += [f"('{moment}', '{{{','.join(map(str, part))}}}')" for part in parts]
    return f"INSERT INTO dirty_minute (minute, containers) VALUES {', '.join(values)}" if values else ""  # noqa: S608


async def newest_mark(connection: asyncpg.Connection) -> int:
    """The highest id of a mark."""
    return int(await connection.fetchval("SELECT coalesce(max(mark_id), 0) FROM dirty_minute"))


async def oldest_minute(connection: asyncpg.Connection, before: int, newest: int) -> int | None:
    """The oldest minute before a time (Unix microseconds) with a mark up to the id `newest`."""
    found = await connection.fetchval(
        "SELECT min(minute) FROM dirty_minute WHERE minute < $1 AND mark_id <= $2", to_datetime(before), newest
    )
    return None if found is None else to_micros(found)


async def marks_of(connection: asyncpg.Connection, minute: int, newest: int) -> Sequence[int]:
    """Ids of a minute's marks, up to `newest`."""
    rows = await connection.fetch(
        "SELECT mark_id FROM dirty_minute WHERE minute = $1 AND mark_id <= $2", to_datetime(minute), newest
    )
    return [row["mark_id"] for row in rows]


async def marked_containers(
    connection: asyncpg.Connection, minute: int, marks: Sequence[int], most: int
) -> Sequence[Sequence[int]]:
    """The containers that some marks of a minute name, each once and in order, at most so many together."""
    return [row[0] for row in await connection.fetch(_CHUNKS, to_datetime(minute), marks, most)]


async def take_away(connection: asyncpg.Connection, minute: int, marks: Sequence[int]) -> None:
    """Delete marks of a minute."""
    await connection.execute(
        "DELETE FROM dirty_minute WHERE minute = $1 AND mark_id = ANY($2)", to_datetime(minute), marks
    )


async def waiting(connection: asyncpg.Connection) -> Waiting:
    """What is marked now, minutes included that are not over yet."""
    row = await connection.fetchrow(
        "SELECT coalesce(sum(cardinality(containers)), 0)::bigint AS minutes, min(minute) AS oldest FROM dirty_minute"
    )
    assert row is not None  # noqa: S101 - an aggregate has one row
    return Waiting(row["minutes"], None if row["oldest"] is None else to_micros(row["oldest"]))
