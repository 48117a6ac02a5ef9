"""`/api/containers/{id}/logs`: a time range of a container's log as a file.

The log is read a page at a time, each with a statement and a pool connection of its own, so neither a long log nor a slow
reader holds one. It is no snapshot: each page shows what is stored when it is read. A line that is stored meanwhile is in the
file if it belongs behind what was read already, and no line is in it twice; one that retention removes before its page is read
is not. The end is fixed when the download begins, so a log that grows faster than it is read does not make it endless.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Annotated, Literal, Protocol

import msgspec
from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from starlette.types import Message, Send

from server.agents import now_us
from server.auth.principal import User
from server.http.containers import Text, no_container
from server.http.problems import PROBLEM_RESPONSES, CurrentUser, Refused, problem_response
from server.http.values import ContainerId, Moment
from server.protocol.messages import LogLine, LogStream
from server.reads import LogFilter, LogPage, LogPlace, StoredContainer

CHUNK_BYTES = 64 * 1024
STALL_SECONDS = 60.0
"""Time for a reader to take a chunk; after it the download is broken off."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LINE_ENDS = {"\n": "\\n", "\r": "\\r"}


class LogReads(Protocol):
    """Where lines are read."""

    async def container(self, org: str, container_id: int) -> StoredContainer | None:
        """A container, even if it is gone."""

    async def log_page(self, org: str, container_id: int, after: LogPlace, until: int, wanted: LogFilter) -> LogPage:
        """The next lines that match, after a place and before a time, bounded in rows and bytes.

        Raises:
            DatabaseDownError: they cannot be read now.
        """


def router(
    reads: LogReads,
    current_user: CurrentUser,
    *,
    future_seconds: float,
    max_downloads: int,
    org_max_downloads: int,
) -> APIRouter:
    """The one route. `future_seconds`: how far ahead of the clock a stored line may lie."""
    routes = APIRouter(prefix="/api/containers", tags=["containers"])
    running: Counter[str] = Counter()

    async def slot(user: Annotated[User, Depends(current_user)]) -> AsyncIterator[None]:
        """A place among the downloads, until the answer is sent or its reader is gone."""
        for count, most, whose in (
            (running[user.org], org_max_downloads, "your organisation"), (running.total(), max_downloads, "all"),
        ):  # fmt: skip
            if count >= most:
                sentence = f"{count} downloads of {whose} run: expected at most {most} at once"
                raise Refused(429, "too_many_downloads", sentence, {"Retry-After": "5"})
        running[user.org] += 1
        try:
            yield
        finally:
            running[user.org] -= 1
            if not running[user.org]:
                del running[user.org]

    @routes.get(
        "/{container_id}/logs",
        summary="Download a container's log",
        description=(
            "text: `time stream text` a line, the time as RFC 3339 with microseconds, line ends within a line as \\n and"
            " \\r. json: an object a line (NDJSON) with at, line, stream, text, and partial or truncated where they hold."
            " An answer that is not complete breaks off without its last chunk."
        ),
        response_class=StreamingResponse,
        responses=PROBLEM_RESPONSES | {
            200: {"content": {"text/plain": {}, "application/x-ndjson": {}}, "description": "The lines, oldest first"},
            429: problem_response("Too many downloads run"),
        },
        dependencies=[Depends(slot)],
    )  # fmt: skip
    async def download(
        container_id: ContainerId,
        user: Annotated[User, Depends(current_user)],
        since: Annotated[Moment | None, Query(description="From this time on; if not given, all there is.")] = None,
        until: Annotated[Moment | None, Query(description="Before this time; if not given, up to now.")] = None,
        contains: Annotated[
            Text | None, Query(min_length=1, max_length=1000, description="Only lines with this in them, literally.")
        ] = None,
        stream: Annotated[LogStream | None, Query(description="Only of this stream.")] = None,
        form: Annotated[Literal["text", "json"], Query(alias="format")] = "text",
    ) -> StreamingResponse:
        container = await reads.container(user.org, container_id)
        if container is None:
            raise no_container(container_id)
        # Agents' clocks run ahead of ours by up to `future_seconds`: what is stored now is not later than that.
        end = now_us() + int(future_seconds * 1e6) if until is None else until
        wanted = LogFilter(stream=stream, contains=contains)
        # Read before the answer begins: a database that is away is still told as a problem.
        first = await reads.log_page(user.org, container_id, (since or 0, -1), end, wanted)
        text = form == "text"
        ending, media_type = ("log", "text/plain; charset=utf-8") if text else ("ndjson", "application/x-ndjson")
        name = f"{_UNSAFE.sub('-', container.name).strip('-.')[:64] or 'container'}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        return Download(
            _chunks(reads, user.org, container_id, end, wanted, first, as_text if text else as_json),
            media_type=media_type,
            headers={
                "Content-Disposition": f'attachment; filename="{name}.{ending}"',
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "no-store",
            },
        )

    return routes


class Download(StreamingResponse):
    """A stream whose reader must keep up."""

    async def stream_response(self, send: Send) -> None:
        """Send it. A reader that stands still, or a source that fails, ends it without the last chunk.

        Raises:
            TimeoutError: the reader did not take a chunk in time.
        """

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(STALL_SECONDS):
                await send(message)

        await super().stream_response(send_in_time)


async def _chunks(
    reads: LogReads,
    org: str,
    container_id: int,
    until: int,
    wanted: LogFilter,
    page: LogPage,
    encode: Callable[[LogLine], bytes],
) -> AsyncIterator[bytes]:
    """The lines from `page` on, one page in memory at a time, in chunks of about `CHUNK_BYTES`."""
    while True:
        chunk = bytearray()
        for line in page.lines:
            chunk += encode(line)
            if len(chunk) >= CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
        if chunk:
            yield bytes(chunk)
        if page.end is None:
            return
        page = await reads.log_page(org, container_id, page.end, until, wanted)


def as_text(line: LogLine) -> bytes:
    """`time stream text`; a line end within the text is escaped, or one record could pass for two."""
    text = line.text
    for end, shown in _LINE_ENDS.items():
        text = text.replace(end, shown)
    seconds, micros = divmod(line.at, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{micros:06d}Z {line.stream} {text}\n".encode()


def as_json(line: LogLine) -> bytes:
    """An object of NDJSON."""
    return msgspec.json.encode(line) + b"\n"
