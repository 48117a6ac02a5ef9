"""COPY of packed rows in as few trips as asyncpg allows.

Each trip costs a turn of the event loop, and with ten thousand busy sockets a turn is tens of milliseconds.
"""

from collections.abc import Iterable

import asyncpg

from server.db.storage.base import CopyTarget
from server.rows import copy_data


async def copy_in(
    connection: asyncpg.Connection, target: CopyTarget, rows: Iterable[bytes], *, before: str = "", after: str = ""
) -> str:
    """Copy rows into a table in one trip, with the statements `before` and `after` it ("BEGIN", "COMMIT").

    The data follow the statement at once instead of waiting for Postgres to ask for them; if the statement fails, Postgres
    passes over them (PostgreSQL documentation, "Message Flow", "COPY Operations"). Returns the tag of the last statement.

    Raises:
        asyncpg.PostgresError: a statement failed; those after it were not carried out.
        asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError: the connection did not do it.
    """
    columns = ", ".join(target.columns)
    copy = f"COPY {target.table} ({columns}) FROM STDIN (FORMAT binary)"
    statement = "; ".join(part for part in (before, copy, after) if part)
    # `copy_to_table` knows a single statement only, reads a file by a thread and takes bytes for a path. A view of them is
    # sent as it is.
    data = memoryview(copy_data(rows))
    return await connection._copy_in(statement, data, None)  # type: ignore[attr-defined,no-any-return]  # noqa: SLF001
