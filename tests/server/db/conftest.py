"""A migrated database, and the pool to it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from server.db import migrate
from server.db.pool import Database
from server.db.storage.plain import PlainStorage


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with every table, of strategy `plain`."""
    opened = await asyncpg.connect(database)
    try:
        await migrate.apply(opened, PlainStorage())
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def pool(database: str, connection: asyncpg.Connection) -> AsyncIterator[Database]:
    """The server's pool to that database."""
    opened = Database(database, pool_size=4, statement_timeout_seconds=20)
    await opened.open(0)
    yield opened
    await opened.close()
