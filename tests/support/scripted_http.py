"""An HTTP server that answers as it is told, byte by byte."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple


class Request(NamedTuple):
    """What came."""

    connection: int
    """Number of the connection, from 1."""
    head: bytes
    body: bytes


Script = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def scripted_http(answer: Script) -> AsyncIterator[tuple[str, list[Request]]]:
    """The server's URL, and the requests as they come. Its clients must have left before it ends."""
    requests: list[Request] = []
    ends: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(ended := asyncio.Event())
        number = len(ends)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"Content-Length: (\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                requests.append(Request(number, head, body))
                await answer(requests[-1], writer)
        except (asyncio.IncompleteReadError, OSError):
            writer.close()
        finally:
            ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests
    finally:
        server.close()
        async with asyncio.timeout(5):
            for ended in ends:
                await ended.wait()


def response(status: str, body: bytes) -> bytes:
    """A whole response."""
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)
