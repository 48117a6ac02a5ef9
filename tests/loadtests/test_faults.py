"""Faults that had no effect did not happen."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest

from loadtests.faults import FaultError, Faults
from loadtests.network import Network
from loadtests.stage import ServerUnderTest
from server.db.embedded import EmbeddedPostgres
from simulator.scenario import Fault, load
from tests.support.scripted_http import Request, response, scripted_http

ROOT = Path(__file__).parents[2]


class Paused:
    """Postgres as far as `postgres_stop` uses it; it remembers what it was told."""

    running, pid = True, 1

    def __init__(self) -> None:
        self.told: list[str] = []

    def pause(self) -> None:
        """SIGSTOP."""
        self.told.append("pause")

    def resume(self) -> None:
        """SIGCONT."""
        self.told.append("resume")


def server_at(port: int, directory: Path) -> ServerUnderTest:
    """A server of a run, not started, with this port."""
    server = ServerUnderTest(load(ROOT / "scenarios" / "server-kill.toml"), "postgresql://nowhere", directory)
    server.port = port
    return server


@asynccontextmanager
async def proxied(directory: Path) -> AsyncIterator[tuple[Faults, Network]]:
    """Faults of a proxy in front of a server that says a word to whoever comes, and another when it hears something."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    network = Network(port, 1, directory / "network.log")
    try:
        await network.start()
        yield Faults(server_at(port, directory), None, network), network
    finally:
        await network.child.stop()
        listening.close()


async def test_resets_of_no_connection_did_not_happen(tmp_path: Path) -> None:
    """Without connections nothing is reset; with one it is, and the run is told."""
    fault = Fault(at_seconds=0, kind="resets", fraction=0.5)
    async with proxied(tmp_path) as (faults, network), asyncio.timeout(20):
        with pytest.raises(FaultError, match="of 0 connections none was reset"):
            await faults.perform(fault)
        reader, writer = await asyncio.open_connection("127.0.0.1", network.port)
        await reader.readexactly(5)
        assert (await faults.perform(fault)).detail == "1 of 1 connections reset"
        writer.close()


async def test_withholding_nothing_did_not_happen(tmp_path: Path) -> None:
    """A silent server's acks cannot be withheld; what it says can."""
    fault = Fault(at_seconds=0, kind="acks_withheld", for_seconds=0.5)
    async with proxied(tmp_path) as (faults, network), asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", network.port)
        await reader.readexactly(5)
        with pytest.raises(FaultError, match="of 1 connections there was nothing to withhold"):
            await faults.perform(fault)
        performing = asyncio.create_task(faults.perform(fault))
        while not performing.done():
            writer.write(b"x")
            await asyncio.sleep(0.01)
        assert "bytes of 1 connections withheld for 500ms" in (await performing).detail
        writer.close()


@pytest.mark.parametrize("answers", [["200 OK"], ["200 OK", "503 Service Unavailable"]])
async def test_a_stop_of_postgres_must_be_noticed(tmp_path: Path, answers: Sequence[str]) -> None:
    """A server that says all the time that it is ready met no outage. Postgres goes on in any case."""
    left = list(answers)

    async def answer(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(left.pop(0) if len(left) > 1 else left[0], b""))
        writer.close()

    postgres = Paused()
    async with scripted_http(answer) as (url, _), asyncio.timeout(20):
        server = server_at(urlsplit(url).port or 0, tmp_path)
        performing = Faults(server, cast("EmbeddedPostgres", postgres), None).perform(
            Fault(at_seconds=0, kind="postgres_stop", for_seconds=2)
        )
        if len(answers) == 1:
            with pytest.raises(FaultError, match="the server did not notice it: /readyz never answered 503"):
                await performing
        else:
            assert "2s later SIGCONT" in (await performing).detail

    assert postgres.told == ["pause", "resume"]
