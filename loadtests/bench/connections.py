"""Plain agent connections that say hello and then rest: what one costs the server."""

import asyncio
import json
import uuid
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection

from server.protocol.messages import AGENT_SUBPROTOCOL

DIALS_AT_ONCE = 50


async def connect(url: str, token: str, containers: int) -> ClientConnection:
    """An agent that has got its welcome.

    Raises:
        OSError, websockets.WebSocketException, TimeoutError: it was not let in.
    """
    socket = await websockets.connect(
        f"{url}/ws/agent", additional_headers={"Authorization": f"Bearer {token}"},
        subprotocols=[websockets.Subprotocol(AGENT_SUBPROTOCOL)], compression=None, ping_interval=None, max_queue=1,
    )  # fmt: skip
    await socket.send(json.dumps(_hello(containers)))
    async with asyncio.timeout(30):
        while json.loads(await socket.recv())["type"] != "welcome":
            continue
    return socket


async def connect_many(url: str, tokens: list[str], containers: int) -> list[ClientConnection]:
    """As many agents as there are tokens, a few at a time."""
    gate = asyncio.Semaphore(DIALS_AT_ONCE)

    async def one(token: str) -> ClientConnection:
        async with gate:
            return await connect(url, token, containers)

    return list(await asyncio.gather(*map(one, tokens)))


async def close_all(sockets: list[ClientConnection]) -> None:
    """End them together."""
    await asyncio.gather(*(socket.close() for socket in sockets))


def _hello(containers: int) -> dict[str, Any]:
    listed = [
        {
            "ref": ref, "id": f"{ref:064x}", "name": f"service-{ref}", "image": "registry.example/team/service:1.2.3",
            "state": "running", "memory_limit_bytes": 512 * 1024 * 1024,
            "labels": {
                "com.docker.compose.project": "shop", "com.docker.compose.service": f"service-{ref}",
                "com.docker.compose.container-number": "1", "team": "payments", "version": "2026.11.3",
            },
        }
        for ref in range(containers)
    ]  # fmt: skip
    return {
        "type": "hello", "protocol": 1, "epoch": str(uuid.uuid4()), "connection": 1, "machine_id": uuid.uuid4().hex,
        "oldest": 1, "next_seq": 1, "agent_version": "bench", "hostname": "bench", "cores": 4, "containers": listed,
    }  # fmt: skip
