"""Neighbours that stop reading, against the real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from loadtests.bench import stalled
from loadtests.bench.live_listener import open_live
from loadtests.bench.receivers_plan import Neighbour
from loadtests.bench.stalled import Stalled, Stalls, stall_for_ever
from server.protocol.close_codes import CloseCode
from tests.support.server import RunningServer, container, eventually, running_server

LABELS = {"note": "x" * 8_000}
"""They make a snapshot of the host large, so that the way is full after few of them."""


@asynccontextmanager
async def neighbour(server: RunningServer) -> AsyncIterator[tuple[Neighbour, str]]:
    """What one may watch on an agent that is there, and a token."""
    async with server.agent(containers=[container(labels=LABELS)]):
        record = server.service.registry.records["org-a", "host-1"]
        await eventually(lambda: bool(record.by_id), "its container")
        topics = [f"container:{key}" for key in record.by_id]
        yield Neighbour(topics=topics, host="host:host-1"), server.user_token()


def closed_slow(server: RunningServer) -> int:
    """Live sockets that the server closed because they did not read."""
    return server.service.counters.sockets_closed["live", str(int(CloseCode.SLOW_CONSUMER))]


async def test_the_server_gives_up_on_one_that_stopped(database: str) -> None:
    """It is closed with 4008 without a byte read, and finds its connection over when it reads on."""
    async with running_server(database, outbox_seconds=0.5) as server, neighbour(server) as (plan, token):
        live = Stalled(plan)
        await open_live(live, server.http, token, stalled.narrow_socket)
        await live.stall()
        await eventually(lambda: closed_slow(server) == 1, "the close")
        assert live.stands
        assert not live.ended.done()

        assert await live.fate() in {"4008", "1006"}


async def test_one_that_reads_on_in_time_stands(database: str) -> None:
    """It stopped for less than the server bears: nothing was closed."""
    async with running_server(database, outbox_seconds=60) as server, neighbour(server) as (plan, token):
        live = Stalled(plan)
        await open_live(live, server.http, token, stalled.narrow_socket)
        await live.stall()

        assert await live.fate() == "open"
        assert closed_slow(server) == 0
        live.leave()


async def test_it_comes_again(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each stall its end is counted and another begins, until it is cancelled; refusals are counted too."""
    monkeypatch.setattr(stalled, "STALL_SECONDS", 0.1)
    monkeypatch.setattr(stalled, "FILL_SECONDS", 0.1)
    monkeypatch.setattr(stalled, "FATE_SECONDS", 0.1)
    monkeypatch.setattr(stalled, "REDIAL_SECONDS", 0.1)
    stalls = Stalls()
    async with running_server(database) as server, neighbour(server) as (plan, token):
        coming = asyncio.create_task(stall_for_ever(plan, server.http, token, stalls, 0.0))
        await eventually(lambda: stalls.count >= 3, "three stalls")
        coming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await coming
        assert stalls.ends["open"] >= 2
        await eventually(lambda: not server.service.live.subscribers, "the end of its sockets")

        refused = asyncio.create_task(stall_for_ever(plan, server.http, "no token", stalls, 0.0))
        await eventually(lambda: stalls.ends["refused"] >= 1, "a refusal")
        refused.cancel()
        with pytest.raises(asyncio.CancelledError):
            await refused
