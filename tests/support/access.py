"""What the tests of doors share: admins' requests, the audit log, SQL beside the server."""

import base64
import hashlib
import hmac
import json
from typing import Any

import asyncpg
import httpx

from tests.support.server import RunningServer


async def admin(
    server: RunningServer, method: str, path: str, body: object = None, *, role: str = "admin", org: str = "org-a"
) -> httpx.Response:
    """A request of an Admin, or of another role."""
    return await server.call(method, path, server.user_token(org, role, subject="ada"), json=body)


async def audit(server: RunningServer, org: str = "org-a") -> list[tuple[str, str, str, str, str]]:
    """The audit log, oldest first: actor, action, target, result, and the detail's first word."""
    answer = await server.get("/api/audit", server.user_token(org, "owner"))
    assert answer.status_code == 200, answer.text
    return [
        (entry["actor"], entry["action"], entry["target"], entry["result"], entry["detail"].partition(":")[0])
        for entry in reversed(answer.json()["entries"])
    ]


async def sql(dsn: str, statement: str, *values: Any) -> list[asyncpg.Record]:
    """A statement on a connection of its own, as another process would run it."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(statement, *values)
    finally:
        await connection.close()


def forged(secret: bytes, header: dict[str, Any], claims: dict[str, Any]) -> str:
    """A token signed by HMAC with any bytes and under any header: what a library would refuse to make."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    mark = hmac.digest(secret, b".".join(parts), hashlib.sha256)
    return b".".join([*parts, base64.urlsafe_b64encode(mark).rstrip(b"=")]).decode()
