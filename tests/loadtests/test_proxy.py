"""The proxy carries bytes as they are, and breaks what it is told to break."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from loadtests import proxy as module
from loadtests.proxy import Proxy
from tests.support.server import eventually

DEADLINE_SECONDS = 10.0


class Upstream:
    """A server that sends back what it gets, and whatever a test writes to its connections."""

    def __init__(self) -> None:
        self.peers: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.echoing = True
        self.lost = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the client ends."""
        self.peers.append((reader, writer))
        try:
            while data := await reader.read(65536):
                if self.echoing:
                    writer.write(data)
                    await writer.drain()
        except OSError:
            self.lost += 1
        finally:
            writer.close()


@asynccontextmanager
async def proxied(seed: int = 0) -> AsyncIterator[tuple[Proxy, Upstream]]:
    """A proxy in front of an echo."""
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()[1], seed=seed) as proxy:
        yield proxy, upstream


async def dial(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that has got an echo."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"hello")
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await reader.readexactly(5) == b"hello"
    return reader, writer


async def test_bytes_go_both_ways_and_are_counted() -> None:
    """A megabyte comes back as it went, and a client's end becomes the server's."""
    data = bytes(range(256)) * 4096
    async with proxied() as (proxy, upstream):
        reader, writer = await dial(proxy)
        writer.write(data)
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await reader.readexactly(len(data)) == data
        writer.close()
        await eventually(lambda: not proxy.connections, "the end")
        await eventually(upstream.peers[0][1].is_closing, "the server's end")

    assert (proxy.accepted, proxy.resets, proxy.withheld_bytes) == (1, 0, 0)
    assert proxy.bytes_up == proxy.bytes_down == len(data) + 5


async def test_withheld_bytes_come_later_and_in_order() -> None:
    """What goes up arrives meanwhile, what goes down waits, and nothing of it is lost."""
    async with proxied() as (proxy, _):
        reader, writer = await dial(proxy)
        proxy.withhold()
        for word in (b"one ", b"two ", b"three"):
            writer.write(word)
        await eventually(lambda: proxy.withheld_bytes == 13, "withheld")
        assert proxy.bytes_down == 5
        proxy.release()
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await reader.readexactly(13) == b"one two three"
        writer.close()

    assert proxy.bytes_down == 18


async def test_a_server_that_ends_meanwhile_is_heard_to_its_end() -> None:
    """The close waits behind the bytes that were sent before it."""
    async with proxied() as (proxy, upstream):
        reader, writer = await dial(proxy)
        proxy.withhold()
        upstream.peers[0][1].write(b"last words")
        upstream.peers[0][1].close()
        await eventually(lambda: proxy.withheld_bytes == 10, "withheld")
        proxy.release()
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await reader.read() == b"last words"
        writer.close()


async def test_what_is_withheld_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound the server is not read, and so it cannot write: it waits, and loses nothing."""
    monkeypatch.setattr(module, "HELD_BYTES", 1024)
    data = b"x" * 50_000_000
    async with proxied() as (proxy, upstream):
        reader, writer = await dial(proxy)
        proxy.withhold()
        server = upstream.peers[0][1]
        server.write(data)
        draining = asyncio.create_task(server.drain())
        await eventually(lambda: proxy.withheld_bytes >= 1024, "withheld")
        for _ in range(100):
            await asyncio.sleep(0)
        assert proxy.withheld_bytes < 1024 + 1024 * 1024
        assert not draining.done()
        proxy.release()
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await reader.readexactly(len(data)) == data
            await draining
        writer.close()


async def test_resets_are_a_share_chosen_by_the_seed() -> None:
    """Three of ten connections end with a reset at both ends, the same three for the same seed; the others live on."""

    async def chosen(seed: int) -> list[int]:
        async with proxied(seed) as (proxy, upstream):
            clients = [await dial(proxy) for _ in range(10)]
            assert proxy.reset(0.25) == 3
            await eventually(lambda: proxy.connections == 7, "resets")
            await eventually(lambda: upstream.lost == 3, "resets at the server")
            found = []
            for number, (reader, writer) in enumerate(clients):
                async with asyncio.timeout(DEADLINE_SECONDS):
                    try:
                        writer.write(b"still?")
                        assert await reader.readexactly(6) == b"still?"
                    except ConnectionResetError:
                        found.append(number)
                writer.close()
            assert proxy.resets == 3
            return found

    first, again, other = [await chosen(seed) for seed in (1, 1, 2)]

    assert first == again
    assert len(first) == len(other) == 3
    assert first != other


async def test_a_server_that_is_down_resets_the_client() -> None:
    """Nobody is left waiting for a server that does not listen."""
    unused = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = unused.sockets[0].getsockname()[1]
    unused.close()
    await unused.wait_closed()
    async with Proxy(port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        async with asyncio.timeout(DEADLINE_SECONDS):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        writer.close()
        await eventually(lambda: not proxy.connections, "the end")


async def test_a_stop_ends_every_connection() -> None:
    """Also one that is dialled just now."""
    async with proxied() as (proxy, _):
        clients = [await dial(proxy) for _ in range(3)]
        clients.append(await asyncio.open_connection("127.0.0.1", proxy.port))
    for reader, writer in clients:
        async with asyncio.timeout(DEADLINE_SECONDS):
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        writer.close()
