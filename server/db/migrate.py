"""The fixed tables, by pogo-migrate: SQL files in `migrations/`, applied once each, under an advisory lock."""

import logging
from pathlib import Path

import asyncpg
from pogo_core.error import BadMigrationError
from pogo_core.util import migrate

from server.db.storage import base
from server.errors import StartupError

MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x5EA7_11A1
"""Advisory lock key: one process migrates at a time, the others wait and find the work done."""

_log = logging.getLogger("seatrial.db")


async def apply(connection: asyncpg.Connection, storage: base.Storage) -> None:
    """Bring the database up to date: fixed tables, then the strategy's own.

    Raises:
        StartupError: the rows belong to another strategy, a table is not ours, the role lacks a right, or a migration failed.
    """
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        await migrate.apply(connection, MIGRATIONS, schema_name="public", logger=_log)
        async with connection.transaction():  # a claim without the tables would keep every other strategy out
            await _claim(connection, storage)
            await storage.create(connection)
    except (asyncpg.InsufficientPrivilegeError, BadMigrationError) as error:
        cause = error.__cause__ if isinstance(error, BadMigrationError) else error
        if not isinstance(cause, asyncpg.InsufficientPrivilegeError):
            raise StartupError(f"database_url: {error}: {cause}") from error
        role = await connection.fetchval("SELECT current_user")
        raise StartupError(
            f"database_url: role {role!r}: {cause}: expected the owner of our tables, with the right to create them"
        ) from None
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


async def rollback(connection: asyncpg.Connection) -> None:
    """Undo the newest migration."""
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        await migrate.rollback(connection, MIGRATIONS, schema_name="public", count=1, logger=_log)
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


async def applied(connection: asyncpg.Connection) -> list[str]:
    """Names of the migrations that were applied, oldest first; none on a database never migrated."""
    if await connection.fetchval("SELECT to_regclass('public._pogo_migration')") is None:
        return []
    rows = await connection.fetch("SELECT migration_id FROM public._pogo_migration ORDER BY applied, migration_id")
    return [row["migration_id"] for row in rows]


async def _claim(connection: asyncpg.Connection, storage: base.Storage) -> None:
    await connection.execute(
        "INSERT INTO storage_strategy (name, version) VALUES ($1, 1) ON CONFLICT DO NOTHING", storage.name
    )
    owner = await connection.fetchval("SELECT name FROM storage_strategy")
    if owner != storage.name:
        raise StartupError(
            f"storage = {storage.name!r}: this database's rows are kept by strategy {owner!r}:"
            f" expected SEATRIAL_STORAGE={owner}, or another database"
        )
