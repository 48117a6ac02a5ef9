"""The REST API over asyncio: many requests at once, on connections that are kept.

Only what the server's JSON routes need: a body has a `Content-Length`, in both directions.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from loadtests.api import Answer

CONNECTIONS = 1000
"""Requests under way at once; one more waits for its turn, and its deadline runs."""
KEPT_SECONDS = 2.0
"""An idle connection is used again so long: servers close theirs after some seconds, and a request could meet that."""
MAX_BODY_BYTES = 64 << 20
NO_ANSWER = Answer(0, {}, b"")


class _Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    idle_since: float = 0.0

    def end(self) -> None:
        self.writer.transport.abort()


class Rest:
    """A client of one server.

    Args:
        url: its http address.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._places = asyncio.Semaphore(CONNECTIONS)
        self._idle: deque[_Connection] = deque()

    async def request(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", timeout_seconds: float = 30.0
    ) -> Answer:
        """Send a request and read the whole answer; status 0: there was none in time. Nothing is sent twice."""
        lines = [
            f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}", f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]  # fmt: skip
        if body:
            lines.append("Content-Type: application/json")
        data = "\r\n".join((*lines, "", "")).encode() + body
        try:
            async with asyncio.timeout(timeout_seconds), self._places:
                return await self._ask(data)
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError, ValueError):
            return NO_ANSWER

    def close(self) -> None:
        """End the connections that are kept. Idempotent."""
        while self._idle:
            self._idle.pop().end()

    async def _ask(self, data: bytes) -> Answer:
        connection = await self._connection()
        kept = False
        try:
            connection.writer.write(data)
            answer = await _read(connection.reader)
            kept = answer.headers.get("connection", "").lower() != "close"
        finally:
            if kept:
                self._idle.append(connection._replace(idle_since=asyncio.get_running_loop().time()))
            else:
                connection.end()
        return answer

    async def _connection(self) -> _Connection:
        """The one that was used last, or a new one."""
        oldest = asyncio.get_running_loop().time() - KEPT_SECONDS
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.popleft().end()
        if self._idle:
            return self._idle.pop()
        return _Connection(*await asyncio.open_connection(self._host, self._port))


async def _read(reader: asyncio.StreamReader) -> Answer:
    """One response.

    Raises:
        EOFError, OSError: the connection ended.
        ValueError, asyncio.LimitOverrunError: it is none, or has no `Content-Length` up to `MAX_BODY_BYTES`.
    """
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    size = int(headers.get("content-length", "-1"))
    if not 0 <= size <= MAX_BODY_BYTES:
        raise ValueError(f"Content-Length: {size}: expected 0 to {MAX_BODY_BYTES}")
    return Answer(int(status.split(" ", 2)[1]), headers, await reader.readexactly(size))
