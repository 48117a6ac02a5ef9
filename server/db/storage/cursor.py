"""Rows by a server-side cursor, so that a day of samples does not have to fit into memory."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg

BLOCK_ROWS = 5_000


async def blocks(connection: asyncpg.Connection, query: str, *args: Any) -> AsyncIterator[list[asyncpg.Record]]:
    """The rows of a query, `BLOCK_ROWS` at a time, as one transaction sees them."""
    async with connection.transaction(readonly=True):
        cursor = await connection.cursor(query, *args)
        while block := await cursor.fetch(BLOCK_ROWS):
            yield block
