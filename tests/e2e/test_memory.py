"""The memory bound is a setting: a server that may store nothing is filled to it, and its process is looked at."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import psutil
import websockets

from loadtests.bench.plan import plan
from loadtests.scrape import scrape
from loadtests.stage import ServerUnderTest
from server.protocol.messages import AGENT_SUBPROTOCOL
from simulator.tokens import agent_token
from tests.support.server import AgentClient, eventually, line, now_us

AGENTS, LINES = 60, 40
BUDGET_BYTES = 32 * 2**20
BESIDE_BYTES = 40 * 2**20
"""What a flush takes while it is on its way, and what the allocator keeps of what came and went."""


async def gauge(server: ServerUnderTest, name: str) -> float:
    """A number of /metrics."""
    found = await scrape(f"{server.http}/metrics")
    assert found is not None
    return found[name, ""]


async def send_all(agent: AgentClient) -> int:
    """Send batches of long lines until the agent's window, which is told as it changes, has no room; how many went."""
    window, seq, on_their_way = agent.welcome["window"], 0, 0
    while seq < 200:
        at = now_us()
        logs = [line("x" * 1000, at, number) for number in range(LINES)]
        frame = json.dumps({"type": "batch", "seq": seq + 1, "oldest": 1, "at": at, "metrics": [], "logs": logs})
        if on_their_way and (seq >= window["batches"] or on_their_way + len(frame) > window["bytes"]):
            return seq
        await agent.send(frame)
        seq += 1
        on_their_way += len(frame)
    return seq


async def test_a_server_that_may_store_nothing_stays_within_its_bound(database: str, tmp_path: Path) -> None:
    """Rows, text and half frames of all agents count: the process grows by the budget and little more, and closes nobody."""
    env = {
        "SEATRIAL_INGEST_BUDGET_BYTES": str(BUDGET_BYTES), "SEATRIAL_ORG_BUDGET_SHARE": "1.0",
        "SEATRIAL_RECONNECTS_PER_SECOND": "1000", "SEATRIAL_PING_INTERVAL_SECONDS": "60",
    }  # fmt: skip
    server = ServerUnderTest(plan("memory", env=env), database, tmp_path)
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.child.stop)
        process = psutil.Process(server.child.pid)
        agents = []
        for number in range(AGENTS):
            token = agent_token(server.secret, "demo", f"host-{number}")
            socket = await stack.enter_async_context(
                websockets.connect(
                    f"{server.ws}/ws/agent", additional_headers={"Authorization": f"Bearer {token}"},
                    subprotocols=[websockets.Subprotocol(AGENT_SUBPROTOCOL)], compression=None, max_size=None,
                )
            )  # fmt: skip
            agents.append(await AgentClient(socket).hello())
        blocker = await asyncpg.connect(database)
        stack.callback(blocker.terminate)
        await blocker.execute("BEGIN")
        await blocker.execute("LOCK TABLE container_log IN ACCESS EXCLUSIVE MODE")
        before = process.memory_info().rss

        sent = [await send_all(agent) for agent in agents]
        halves = [agent.socket.transport for agent in agents]
        for transport in halves:  # and half a frame of each
            transport.write(b"\x81\xff" + (400_000).to_bytes(8, "big") + b"\0\0\0\0" + b" " * 200_000)

        async def counted() -> bool:
            return await gauge(server, "seatrial_ingest_bytes") > sum(sent) * LINES * 1000 + AGENTS * 190_000

        await eventually(counted, "everything counted")
        used = await gauge(server, "seatrial_ingest_bytes")
        grown = process.memory_info().rss - before
        assert BUDGET_BYTES / 3 < used <= BUDGET_BYTES
        assert grown < BUDGET_BYTES + BESIDE_BYTES
        assert await gauge(server, "seatrial_agents_connected") == AGENTS

        for transport in halves:
            transport.write(b" " * 200_000)  # no message of the protocol, but whole
        await blocker.execute("ROLLBACK")
        await asyncio.gather(*(agent.acked(count) for agent, count in zip(agents, sent, strict=True)))

        async def empty() -> bool:
            return await gauge(server, "seatrial_ingest_bytes") == 0

        await eventually(empty, "everything given back")
