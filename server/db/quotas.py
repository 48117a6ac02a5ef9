"""The limits that single organisations have of their own. NULL: the server's default for organisations."""

import json
from collections.abc import Mapping

import asyncpg

from server.quotas import Limits

_NAMES = ("agents", "containers", "subscribers", "batches_per_second")


async def store(connection: asyncpg.Connection, org: str, given: Mapping[str, int | None]) -> None:
    """Set the limits that are given; None leaves one as it is."""
    await connection.execute(
        """
        INSERT INTO quota AS q (org, agents, containers, subscribers, batches_per_second) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (org) DO UPDATE SET
            agents = coalesce(excluded.agents, q.agents), containers = coalesce(excluded.containers, q.containers),
            subscribers = coalesce(excluded.subscribers, q.subscribers),
            batches_per_second = coalesce(excluded.batches_per_second, q.batches_per_second)
        """,
        org,
        *(given[name] for name in _NAMES),
    )


async def clear(connection: asyncpg.Connection, org: str) -> None:
    """Back to the server's limits."""
    await connection.execute("DELETE FROM quota WHERE org = $1", org)


async def show(connection: asyncpg.Connection, org: str) -> str:
    """An organisation's own limits as JSON."""
    row = await connection.fetchrow("SELECT * FROM quota WHERE org = $1", org)
    return json.dumps({"org": org} | {name: row and row[name] for name in _NAMES})


async def read(connection: asyncpg.Connection, defaults: Limits) -> dict[str, Limits]:
    """The limits of every organisation that has some of its own, the others filled in."""

    def limit(row: asyncpg.Record, name: str) -> int:
        own: int | None = row[name]
        default: int = getattr(defaults, name)
        return default if own is None else own

    rows = await connection.fetch("SELECT * FROM quota")
    return {row["org"]: Limits(**{name: limit(row, name) for name in _NAMES}) for row in rows}
