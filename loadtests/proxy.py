"""A TCP proxy on the loopback that counts what it carries, and can withhold what the server sends, or reset connections.

Bytes go both ways as they come, unread. Whoever is slow slows the other down: nothing is kept here beyond the transports'
own buffers, and what is withheld up to `HELD_BYTES` of a connection; past it the server is not read any more.
"""

import asyncio
import math
import random
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self, cast

HOST = "127.0.0.1"
HELD_BYTES = 64 * 1024
"""Of one connection; read in pieces, so it may be passed by the last one."""
CONNECT_SECONDS = 10.0
"""Deadline of a connection to the server."""
_LINGER_NOT = struct.pack("ii", 1, 0)
"""SO_LINGER on, for 0 s: closing sends RST."""


class Proxy:
    """Listens on a port of 127.0.0.1 and connects each client to `upstream` on 127.0.0.1. Use as `async with`.

    Args:
        upstream: port of the server.
        port: to listen on; 0 takes a free one.
        seed: of the choice of connections that are reset.

    Attributes:
        accepted: connections of clients so far.
        resets: connections that `reset` ended.
        withheld_bytes: bytes from the server that had to wait for `release`.
        bytes_up: bytes carried to the server.
        bytes_down: bytes carried to clients.
    """

    def __init__(self, upstream: int, *, port: int = 0, seed: int = 0) -> None:
        self.upstream = upstream
        self.withholding = False
        self.accepted = self.resets = self.withheld_bytes = self.bytes_up = self.bytes_down = 0
        self._port = port
        self._random = random.Random(seed)
        self._pairs: dict[_Pair, None] = {}
        """Open connections in the order in which they came."""
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(self._accept, HOST, self._port, backlog=4096)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pairs = list(self._pairs)
        for pair in pairs:
            pair.reset()
        await asyncio.gather(*(pair.dialled() for pair in pairs))
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    @property
    def port(self) -> int:
        """The port that is listened on, once started."""
        assert self._server is not None  # noqa: S101 - inside `async with`
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """Connections of clients that are open."""
        return len(self._pairs)

    def withhold(self) -> None:
        """From now on nothing that the server sends reaches a client, on new connections too. Idempotent."""
        self.withholding = True

    def release(self) -> None:
        """Let everything that was withheld go, in order. Idempotent."""
        self.withholding = False
        for pair in list(self._pairs):
            pair.release()

    def reset(self, fraction: float) -> int:
        """Reset a random share of the open connections, rounded up, towards both ends.

        Returns:
            How many that were.
        """
        count = math.ceil(fraction * len(self._pairs))
        for pair in self._random.sample(list(self._pairs), count):
            pair.reset()
        self.resets += count
        return count

    def _accept(self) -> "_Side":
        self.accepted += 1
        pair = _Pair(self)
        self._pairs[pair] = None
        return pair.client

    def ended(self, pair: "_Pair") -> None:
        """A connection is over."""
        self._pairs.pop(pair, None)


class _Pair:
    """A client's connection, and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.client, self.server = _Side(self), _Side(self)
        self._early: list[bytes] = []
        """What the client sent before the connection to the server stood: uvloop reads once though it is told not to."""
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._dial: asyncio.Task[None] | None = None
        self._dialling = True

    def opened(self, side: "_Side") -> None:
        """A connection stands; that of the client is not read before the other one does."""
        if side is self.client:
            side.pause_reading()
            self._dial = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().create_connection(lambda: self.server, HOST, self.proxy.upstream)
        except OSError:  # TimeoutError is one
            self.client.reset()
        else:
            if self.client.closed:
                self.server.reset()
            early, self._early = self._early, []
            for data in early:
                self.received(self.client, data)
            if not self.server.full:
                self.client.resume_reading()
        self._dialling = False
        self._end()

    async def dialled(self) -> None:
        """Wait until the connection to the server stands or has failed: on a loopback that is soon."""
        if self._dial is not None:
            await self._dial

    def other(self, side: "_Side") -> "_Side":
        """The side across."""
        return self.server if side is self.client else self.client

    def received(self, side: "_Side", data: bytes) -> None:
        """Pass it on, or keep it."""
        proxy = self.proxy
        if side is self.client and not self.server.opened:
            self._early.append(data)
        elif side is self.client:
            proxy.bytes_up += len(data)
            self.server.write(data)
        elif proxy.withholding:
            proxy.withheld_bytes += len(data)
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes >= HELD_BYTES:
                self.server.pause_reading()
        else:
            proxy.bytes_down += len(data)
            self.client.write(data)

    def release(self) -> None:
        """Pass on what was kept."""
        held, self._held, self._held_bytes = self._held, [], 0
        for data in held:
            self.proxy.bytes_down += len(data)
            self.client.write(data)
        if self.server.closed:
            self.client.close()
        elif not self.client.full:
            self.server.resume_reading()

    def flow(self, side: "_Side", *, full: bool) -> None:
        """A side takes no more, or takes more again."""
        source = self.other(side)
        if full:
            source.pause_reading()
        elif source is self.client or self._held_bytes < HELD_BYTES:
            source.resume_reading()

    def lost(self, side: "_Side", error: Exception | None) -> None:
        """A side is gone: the other one goes the same way, once it has got what was meant for it."""
        other = self.other(side)
        if error is not None:
            self._held.clear()
            other.reset()
        elif side is self.client or not self._held:
            other.close()
        self._end()

    def _end(self) -> None:
        if self.client.closed and not self._dialling and (self.server.closed or not self.server.opened):
            self.proxy.ended(self)

    def reset(self) -> None:
        """End both at once, with RST."""
        self._held.clear()
        self.client.reset()
        self.server.reset()


class _Side(asyncio.Protocol):
    """One of the two connections of a pair. Every call is safe before it stands and after its end."""

    def __init__(self, pair: _Pair) -> None:
        self._pair = pair
        self._transport: asyncio.Transport | None = None
        self.opened = self.closed = self.full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.opened = True
        self._pair.opened(self)

    def data_received(self, data: bytes) -> None:
        self._pair.received(self, data)

    def pause_writing(self) -> None:
        self.full = True
        self._pair.flow(self, full=True)

    def resume_writing(self) -> None:
        self.full = False
        self._pair.flow(self, full=False)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._pair.lost(self, error)

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        if self._transport is not None and not self.closed:
            connection: socket.socket = self._transport.get_extra_info("socket")
            with suppress(OSError):  # it is closed already, and only its end is not told yet
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self._transport.abort()
