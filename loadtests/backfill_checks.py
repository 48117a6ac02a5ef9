"""Whether a history can be written to a database: asked before anything is."""

import shutil
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import asyncpg

from loadtests.history_rows import Estimate
from server.db.storage.base import Storage

SAMPLE_BYTES: Final = 130
"""A sample in table and index, about; measured: docs/backfill.md."""
LINE_BYTES: Final = 130
"""A log line in table and index beside its text."""
_SPARE_WAL_BYTES: Final = 1 << 30
"""What Postgres keeps of its log, where it does not say."""
_OURS: Final = ("host", "container", "log_segment")
"""The fixed tables that a history has rows in."""


class BackfillError(Exception):
    """A history that cannot be written. The sentence says what was found and what was expected."""


async def check_database(connection: asyncpg.Connection, storage: Storage) -> None:
    """The database must be empty or a server's that has not stored anything yet, and ours to write.

    Raises:
        BackfillError: it is not.
    """
    name = await connection.fetchval("SELECT current_database()")
    tables = [
        row["relname"]
        for row in await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')"
            " ORDER BY relname"
        )
    ]
    if "storage_strategy" not in tables:
        if tables:
            found = ", ".join(tables[:3]) + (", ..." if len(tables) > 3 else "")
            raise BackfillError(
                f"database {name!r} holds {found} of somebody else: expected an empty one, or Seatrial's"
            )
        await _need(connection, "has_schema_privilege('public', 'CREATE')", f"CREATE in schema public of {name!r}")
        return
    written = [table for table in (*_OURS, storage.metrics.table, storage.logs.table) if table in tables]
    for table in written:
        may = f"has_table_privilege('{table}', 'SELECT') AND has_table_privilege('{table}', 'INSERT, UPDATE')"
        await _need(connection, may, f"SELECT, INSERT and UPDATE on {table}")
    if "rollup_progress" in tables:
        may = "has_table_privilege('rollup_progress', 'SELECT') AND has_table_privilege('rollup_progress', 'UPDATE')"
        await _need(connection, may, "SELECT and UPDATE on rollup_progress")
    kept_by = await connection.fetchval("SELECT name FROM storage_strategy")
    if kept_by not in {None, storage.name}:
        raise BackfillError(f"storage = {storage.name!r}: the rows of {name!r} are kept by strategy {kept_by!r}")
    for table in written:
        if await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table})"):  # noqa: S608 - our own names
            raise BackfillError(
                f"database {name!r} holds rows of {table} already: expected none; a history is written once, into a "
                "database that has none"
            )


async def check_no_server(connection: asyncpg.Connection) -> None:
    """A server that runs on the database would not know of the hosts.

    Raises:
        BackfillError: one does.
    """
    count = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'seatrial-%'"
    )
    if count:
        raise BackfillError(
            "a server is running on this database: stop it first; it takes up the history's hosts when it starts"
        )


async def check_disk(connection: asyncpg.Connection, estimate: Estimate) -> str:
    """Compare what a history takes with what is free.

    Args:
        connection: to the database.
        estimate: how much it is.

    Returns:
        The sum, for people.

    Raises:
        BackfillError: the disk is too small.
    """
    samples, lines = estimate.samples, estimate.lines
    line_bytes = LINE_BYTES + round(estimate.text_bytes)
    wal = await _setting_bytes(connection, "max_wal_size")
    needed = samples * SAMPLE_BYTES + lines * line_bytes + wal
    told = (
        f"{samples:,} samples x {SAMPLE_BYTES} bytes + {lines:,} lines x {line_bytes} bytes + {_size(wal)} of write-ahead"
        f" log = {_size(needed)}"
    )
    directory = await _data_directory(connection)
    if directory is None:
        return f"{told}; how much is free cannot be seen from here"
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise BackfillError(f"disk too small: {told}, but {_size(free)} are free at {directory}")
    return f"{told}; {_size(free)} are free"


async def _need(connection: asyncpg.Connection, condition: str, what: str) -> None:
    if not await connection.fetchval(f"SELECT {condition}"):
        user = await connection.fetchval("SELECT current_user")
        raise BackfillError(f"the database user {user!r} lacks a right: expected {what}")


async def _setting_bytes(connection: asyncpg.Connection, name: str) -> int:
    size = await connection.fetchval("SELECT pg_size_bytes(current_setting($1))", name)
    return int(size) if size is not None else _SPARE_WAL_BYTES


async def _data_directory(connection: asyncpg.Connection) -> Path | None:
    """Where a Postgres of this machine keeps its data; None: it is elsewhere, or does not tell us."""
    address = await connection.fetchval("SELECT host(inet_server_addr())")
    if address is not None and not ip_address(address).is_loopback:
        return None
    try:
        directory = Path(await connection.fetchval("SHOW data_directory"))
        # One that listens here may still run in a container, where the path means something else.
        return directory if (directory / "PG_VERSION").exists() else None
    except (asyncpg.InsufficientPrivilegeError, OSError):
        return None


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
