"""The guards on uvicorn's protocols, met by raw bytes. Each test fails on uvicorn as it comes."""

import asyncio
import base64
import contextlib
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from server.ws import guard
from tests.support.server import RunningServer, eventually, running_server

DEADLINE_SECONDS = 20.0


class RawSocket:
    """An upgraded connection to /ws/agent, written to byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Write raw bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def close_code(self) -> int:
        """Code of the close frame that comes; 1006 if the connection just ends. Other frames are passed over."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                while True:
                    head = await self.reader.readexactly(2)
                    size = head[1] & 0x7F
                    if size == 126:
                        size = int.from_bytes(await self.reader.readexactly(2), "big")
                    payload = await self.reader.readexactly(size)
                    if head[0] & 0x0F == 8:
                        return int.from_bytes(payload[:2], "big")
            except (asyncio.IncompleteReadError, ConnectionError):
                return 1006

    async def ended(self) -> None:
        """Wait for the end of the connection."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                pass


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, rsv1: bool = False) -> bytes:
    """A client's frame with a zero mask."""
    head = bytes([(0x80 if fin else 0) | (0x40 if rsv1 else 0) | opcode])
    mask = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes([mask | len(payload)])
    else:
        head += bytes([mask | 126]) + struct.pack("!H", len(payload))
    return head + (b"\0\0\0\0" if masked else b"") + payload


def request(server: RunningServer, *extra: str, path: str = "/ws/agent") -> bytes:
    """An upgrade request."""
    lines = [
        f"GET {path} HTTP/1.1", f"Host: {server.address}", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: seatrial.agent.v1", f"Authorization: Bearer {server.agent_token()}", *extra,
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode()


@asynccontextmanager
async def connection(server: RunningServer) -> AsyncIterator[RawSocket]:
    """A plain TCP connection to the server."""
    host, port = server.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield RawSocket(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def upgraded(server: RunningServer) -> AsyncIterator[RawSocket]:
    """A connection that has been upgraded."""
    async with connection(server) as raw:
        await raw.send(request(server))
        async with asyncio.timeout(DEADLINE_SECONDS):
            answer = await raw.reader.readuntil(b"\r\n\r\n")
        assert b" 101 " in answer
        yield raw


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(1, b"x", masked=False), 1002),
        (frame(1, b"x", rsv1=True), 1002),
        (frame(3, b"x"), 1002),
        (frame(9, b"x", fin=False), 1002),
        (frame(9, b"x" * 126), 1002),
        (frame(0, b"x"), 1002),
        (frame(8, struct.pack("!H", 1005)), 1002),
        (frame(8, b"\x03"), 1002),
        (frame(1, b"\xff\xfe"), 1007),
        (b"\x81\xff" + struct.pack("!Q", 2**40) + b"\0\0\0\0", 1009),
        (b"\x81\xff" + struct.pack("!Q", 2**63 + 5) + b"\0\0\0\0", 1009),
    ],
    ids=[
        "unmasked", "rsv1", "reserved opcode", "fragmented ping", "long ping", "lone continuation", "close 1005",
        "one-byte close", "invalid UTF-8", "length 2^40", "length 2^63+5",
    ],
)  # fmt: skip
async def test_broken_framing_is_closed_with_its_code(server: RunningServer, data: bytes, code: int) -> None:
    """A frame that breaks RFC 6455 gets the code of its fault."""
    async with upgraded(server) as raw:
        await raw.send(data)
        assert await raw.close_code() == code


async def test_endless_fragments_are_ended(server: RunningServer) -> None:
    """A message in more than 64 fragments closes 1008, though it holds next to nothing."""
    async with upgraded(server) as raw:
        await raw.send(frame(1, b"a", fin=False) + frame(0, fin=False) * 200)
        assert await raw.close_code() == 1008


async def test_an_unfinished_message_is_ended(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message begun and not finished in its time closes 4004."""
    monkeypatch.setattr(guard, "MESSAGE_TIMEOUT_SECONDS", 0.2)
    async with upgraded(server) as raw:
        await raw.send(frame(1, b"a", fin=False))
        assert await raw.close_code() == 4004


@pytest.mark.parametrize("opcode", [9, 10], ids=["pings", "pongs"])
async def test_a_flood_of_control_frames_is_ended(server: RunningServer, opcode: int) -> None:
    """Over 50 pings or pongs in a second close 4013."""
    async with upgraded(server) as raw:
        await raw.send(frame(opcode) * 300)
        assert await raw.close_code() == 4013


async def test_a_peer_without_pong_is_aborted(database: str) -> None:
    """A peer that answers no ping is gone soon, its task and buffers with it, though it never reads; it counts as 1011."""
    settings: dict[str, Any] = {"ping_interval_seconds": 0.2, "ping_timeout_seconds": 0.2}
    async with running_server(database, **settings) as server, upgraded(server) as raw:
        connections = server.server.server_state.connections
        assert len(connections) == 1
        raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await eventually(lambda: not connections, "the connection freed")
        assert not server.server.server_state.tasks
        assert server.service.counters.sockets_closed["agent", "1011"] == 1


@pytest.mark.parametrize(
    ("path", "extra"),
    [
        ("/ws/agent", ["X-Long: " + "a" * 9000]),
        ("/ws/agent", [f"X-{i}: a" for i in range(200)]),
        ("/ws/agent?" + "q" * 9000, []),
    ],
    ids=["long header", "many headers", "long path"],
)
async def test_an_oversized_handshake_is_answered_and_the_shutdown_stays_whole(
    database: str, path: str, extra: list[str]
) -> None:
    """The request gets a 4xx, and a stop afterwards still runs the lifespan to its end."""
    async with running_server(database) as server, connection(server) as raw:
        await raw.send(request(server, *extra, path=path))
        async with asyncio.timeout(DEADLINE_SECONDS):
            answer = await raw.reader.readuntil(b"\r\n")
        assert answer.split()[1] in {b"431", b"414", b"400"}
        server.stop()
        await server.done
        assert server.service.lanes == []


async def test_headers_that_trickle_in_are_cut_off(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose request is not complete in time is aborted."""
    monkeypatch.setattr(guard, "HEADER_TIMEOUT_SECONDS", 0.2)
    async with connection(server) as raw:
        await raw.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        await raw.ended()


async def test_a_keep_alive_connection_may_rest(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is for headers begun, not for the pause between two requests."""
    monkeypatch.setattr(guard, "HEADER_TIMEOUT_SECONDS", 0.2)
    async with connection(server) as raw:
        for _ in range(2):
            await raw.send(f"GET /livez HTTP/1.1\r\nHost: {server.address}\r\n\r\n".encode())
            async with asyncio.timeout(DEADLINE_SECONDS):
                head = await raw.reader.readuntil(b"\r\n\r\n")
                await raw.reader.readuntil(b"}")
            assert b" 200 " in head
            await asyncio.sleep(0.4)  # longer than the deadline, on purpose
