"""Servers that are out of their mind, met over both transports: backed off from, in bounded memory, never in a loop.

What they say in whole frames of the protocol is `test_agent`'s; here it is the bytes below, and endless amounts of them.
"""

import asyncio
from pathlib import Path

import pytest

from simulator.fleet import Fleet
from simulator.link import Transport
from tests.support.bad_server import bad_server, shake_hands
from tests.support.fleets import eventually, pauses_of, plan_for

GIGABYTE = 1 << 30
MUCH = 32 << 20
"""Bytes that no agent may take in of one message, buffers of the kernel included."""
DOUBLING = [1.5, 2.5, 4.5, 8.5]
"""The longest pauses of the first failures."""


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.fixture(params=list(Transport))
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Transport:
    """Each. None of the servers here answers a close, so a link does not wait long for that."""
    for module in ("simulator.link_picows", "simulator.link_websockets"):
        monkeypatch.setattr(f"{module}.CLOSE_SECONDS", 0.3)
    found: Transport = request.param
    return found


async def test_bytes_that_are_no_frames_are_backed_off_from(transport: Transport) -> None:
    """After the handshake comes noise: each connection ends, and the pauses double."""

    async def noise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        writer.write(bytes(range(255, 0, -1)) * 8)
        await writer.drain()
        await reader.read()

    async with bad_server(noise) as url:
        assert await pauses_of(url, 4, chance=1.0, transport=transport) == DOUBLING


@pytest.mark.parametrize("fragmented", [False, True], ids=["one frame", "fragments"])
async def test_a_gigabyte_is_not_taken_in(transport: Transport, fragmented: bool) -> None:
    """A message of a GiB, announced in one frame or in small pieces: closed after a few MiB, and backed off from."""
    written: list[int] = []
    piece = b"x" * 65_536

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        written.append(0)
        place = len(written) - 1
        if not fragmented:
            writer.write(b"\x81\x7f" + GIGABYTE.to_bytes(8, "big"))
        head = b"\x01\x7f" + len(piece).to_bytes(8, "big")
        while written[place] < GIGABYTE:
            writer.write(head + piece if fragmented else piece)
            head = b"\x00" + head[1:]
            written[place] += len(piece)
            await writer.drain()

    before = resident_bytes()
    async with bad_server(endless) as url:
        pauses = await pauses_of(url, 3, chance=1.0, transport=transport)

    assert pauses == DOUBLING[:3]
    assert max(written) < MUCH
    assert resident_bytes() - before < 2 * MUCH


async def test_a_handshake_without_end_is_given_up(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers that never stop coming are not kept: the dial fails, in bounded memory, and is backed off from."""
    for module in ("simulator.link_picows", "simulator.link_websockets"):
        monkeypatch.setattr(f"{module}.CONNECT_SECONDS", 1.0)
    written = 0

    async def headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n")
        while True:
            line = b"X-Endless: " + b"y" * 4000 + b"\r\n"
            writer.write(line)
            written += len(line)
            await writer.drain()

    async with bad_server(headers) as url:
        pauses = await pauses_of(url, 2, chance=1.0, transport=transport)

    assert pauses == DOUBLING[:2]
    assert written < MUCH


@pytest.mark.parametrize("handshake", [False, True], ids=["on accept", "after the handshake"])
async def test_a_server_that_hangs_up_is_backed_off_from(transport: Transport, handshake: bool) -> None:
    """Closed right after accept, or right after the handshake: the pauses double, they do not start over."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if handshake:
            await shake_hands(reader, writer)

    async with bad_server(hang_up) as url:
        assert await pauses_of(url, 4, chance=1.0, transport=transport) == DOUBLING


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "unreachable"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/html\r\n\r\nhello", "200"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://example.org/\r\nContent-Length: 0\r\n\r\n", "302"),
    ],
    ids=["ssh", "a web page", "no such page", "elsewhere"],
)
async def test_a_foreign_server_is_told_by_its_answer(transport: Transport, answer: bytes, status: str) -> None:
    """What is no server of ours, an address that redirects included, counts under its answer, and gets no second dial."""
    dials = 0

    async def foreign(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dials
        dials += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with bad_server(foreign) as url:
        fleet = Fleet(plan_for(url, transport=transport), settle_seconds=0)
        stop = asyncio.Event()
        running = asyncio.create_task(fleet.run(stop))
        await eventually(lambda: bool(fleet.counts.refused))
        stop.set()
        await running

    assert fleet.counts.refused == {status: 1}
    assert dials == 1


async def test_pings_without_end_do_not_fill_memory(transport: Transport) -> None:
    """A server that sends nothing but pings and never reads the answers: what the agent owes it stays bounded."""
    pinged = 0

    async def ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal pinged
        await shake_hands(reader, writer)
        while True:
            writer.write((b"\x89\x7d" + b"p" * 125) * 500)
            await writer.drain()
            pinged += 500

    before = resident_bytes()
    async with bad_server(ping) as url:
        fleet = Fleet(plan_for(url, transport=transport), settle_seconds=0)
        stop = asyncio.Event()
        running = asyncio.create_task(fleet.run(stop))
        await eventually(lambda: pinged > 50_000 or sum(fleet.counts.closes.values()) > 0)
        grown = resident_bytes() - before
        stop.set()
        await running

    assert grown < MUCH
