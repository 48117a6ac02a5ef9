"""Downloads of logs: everything once, nothing else, in bounded steps, and never something that only looks complete."""

import asyncio
import json
import socket
from datetime import datetime
from typing import Any

import asyncpg
import httpx
import pytest

from server.db import history
from server.http import logs
from server.http.logs import as_text
from server.protocol.messages import LogLine
from server.reads import LogPage
from tests.support.rows import add_containers, add_lines
from tests.support.server import DEADLINE_SECONDS, RunningServer, container, eventually, line, now_us

SECOND = 1_000_000
START = 1_700_000_000_000_000


@pytest.fixture
async def number(database: str, server: RunningServer) -> str:
    """A container named so that its name is no file name."""
    (found,) = await add_containers(database, {"name": '../we"b\r\n1'})
    return found


async def download(server: RunningServer, number: str, query: str = "", org: str = "org-a") -> httpx.Response:
    """GET the log."""
    return await server.get(f"/api/containers/{number}/logs?{query}", server.user_token(org))


async def texts(server: RunningServer, number: str, query: str = "") -> list[str]:
    """The lines' texts, as NDJSON has them."""
    answer = await download(server, number, f"format=json&{query}")
    assert answer.status_code == 200, answer.text
    return [json.loads(row)["text"] for row in answer.text.splitlines()]


async def test_text_and_json(server: RunningServer, database: str, number: str) -> None:
    """Both forms are files that a browser saves and does not interpret; text has one record a line."""
    lines = [
        (START + 1, 0, "stdout", "héllo\x1b[0m"), (START + 1, 1, "stderr", "two\nlines\r"), (START + SECOND, 0, "stdout", ""),
    ]  # fmt: skip
    await add_lines(database, number, lines)

    answer = await download(server, number)
    assert answer.text.split("\n") == [
        "2023-11-14T22:13:20.000001Z stdout héllo\x1b[0m", "2023-11-14T22:13:20.000001Z stderr two\\nlines\\r",
        "2023-11-14T22:13:21.000000Z stdout ", "",
    ]  # fmt: skip
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    disposition, name = answer.headers["content-disposition"].split("; ")
    assert disposition == "attachment"
    assert name.startswith('filename="we-b-1-20')
    assert name.endswith('Z.log"')

    answer = await download(server, number, "format=json")
    assert [json.loads(row) for row in answer.text.splitlines()] == [
        {"at": START + 1, "line": 0, "stream": "stdout", "text": "héllo\x1b[0m"},
        {"at": START + 1, "line": 1, "stream": "stderr", "text": "two\nlines\r"},
        {"at": START + SECOND, "line": 0, "stream": "stdout", "text": ""},
    ]
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["content-disposition"].endswith('.ndjson"')


def test_times_are_exact() -> None:
    """Microseconds are written as they are, at the edges of a second too."""
    for at in (0, START, START + 999_999, 4_102_444_799_999_999):
        text = as_text(LogLine(at=at, line=0, stream="stdout", text="")).split()[0].decode()
        assert (
            datetime.fromisoformat(text) - datetime.fromisoformat("1970-01-01T00:00:00Z")
        ) // datetime.resolution == at


async def test_every_line_once_over_many_pages(
    server: RunningServer, database: str, number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of few lines and few bytes, lines of one time in several of them: the file is whole and in order."""
    monkeypatch.setattr(history, "LOG_PAGE_LINES", 7)
    monkeypatch.setattr(history, "LOG_PAGE_BYTES", 1500)
    (other,) = await add_containers(database, {"docker_id": "b" * 64})
    rows = [
        (START + i // 5 * SECOND, i % 5, ("stdout", "stderr")[i % 2], f"{i} " + "x" * (i * 7 % 400)) for i in range(500)
    ]
    await add_lines(database, number, rows)
    await add_lines(database, other, rows)

    assert await texts(server, number) == [row[3] for row in rows]
    assert await texts(server, number, "stream=stderr") == [row[3] for row in rows if row[2] == "stderr"]
    assert await texts(server, number, "contains=99 x") == [row[3] for row in rows if "99 x" in row[3]]
    assert await texts(server, number, f"since={START + 10 * SECOND}&until={START + 20 * SECOND}") == [
        row[3] for row in rows[50:100]
    ]
    assert await texts(server, number, "until=2023-11-14T22:13:21Z") == [row[3] for row in rows[:5]]
    assert await texts(server, number, "contains=nothing") == []
    assert (await download(server, number, "contains=nothing")).text == ""


async def test_what_was_acknowledged_is_in_it(server: RunningServer) -> None:
    """A line with a clock a little ahead too: the default end leaves nothing out that is stored."""
    async with server.agent(containers=[container(0)]) as agent:
        await agent.batch(1, logs=[line("now", now_us()), line("ahead", now_us() + 50 * SECOND, 1)])
        await agent.acked(1)
        await server.service.directory.write()
        number = str(next(iter(server.service.registry.by_container)))

        assert await texts(server, number) == ["now", "ahead"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("contains=", "contains"), ("contains=%00", "contains"), ("stream=both", "stream"), ("format=csv", "format"),
        ("since=now", "since"), ("until=-1", "until"), ("contains=" + "x" * 1001, "contains"),
    ],
)  # fmt: skip
async def test_wrong_filters_are_named(server: RunningServer, number: str, query: str, field: str) -> None:
    """Each is refused with its name."""
    answer = await download(server, number, query)

    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_others_have_no_log(server: RunningServer, number: str) -> None:
    """A container of another organisation is as one that does not exist."""
    assert (await download(server, number, org="org-b")).status_code == 404
    assert (await server.get(f"/api/containers/{number}/logs")).status_code == 401


class TestWhenItFails:
    """Interrupted on either side."""

    async def test_a_database_that_dies_breaks_the_answer_off(
        self, server: RunningServer, database: str, number: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was sent stays; the reader is told by the transfer itself that it is not all."""
        monkeypatch.setattr(history, "LOG_PAGE_LINES", 10)
        await add_lines(database, number, [(START + i, 0, "stdout", f"line {i}") for i in range(100)])
        real, pages = server.service.storage.page_logs, 0

        async def cut(connection: asyncpg.Connection, *args: Any) -> Any:
            nonlocal pages
            pages += 1
            if pages == 4:
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            return await real(connection, *args)

        monkeypatch.setattr(server.service.storage, "page_logs", cut)
        read = bytearray()

        async def read_all() -> None:
            headers = {"Authorization": f"Bearer {server.user_token()}"}
            async with (
                httpx.AsyncClient(base_url=server.http) as client,
                client.stream("GET", f"/api/containers/{number}/logs", headers=headers) as answer,
            ):
                assert answer.status_code == 200
                async for chunk in answer.aiter_bytes():
                    read.extend(chunk)

        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            await read_all()

        assert read.count(b"\n") == 30
        assert len(await texts(server, number)) == 100

    async def test_a_database_that_is_away_is_a_problem(
        self, server: RunningServer, number: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before the first byte it can be said in words, and no place among the downloads is lost."""

        async def cut(connection: asyncpg.Connection, *_args: Any) -> Any:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        monkeypatch.setattr(server.service.storage, "page_logs", cut)
        for _ in range(server.settings.org_max_downloads + 1):
            answer = await download(server, number)
            assert (answer.status_code, answer.json()["title"]) == (503, "unavailable")


class Reader:
    """A connection that asks for a log and reads none of it."""

    def __init__(self, server: RunningServer, number: str, org: str = "org-a") -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = server.address.split(":")
        self._socket.connect((host, int(port)))
        token = server.user_token(org)
        request = f"GET /api/containers/{number}/logs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        self._socket.sendall(request.encode())

    def close(self) -> None:
        """Go away."""
        self._socket.close()


class TestSlowReaders:
    """They hold neither connections nor places for long."""

    @pytest.fixture
    async def long(self, server: RunningServer, database: str, number: str) -> str:
        """A log larger than every buffer on the way."""
        await add_lines(database, number, [(START + i, 0, "stdout", "x" * 10_000) for i in range(3000)])
        return number

    async def test_a_reader_that_stands_still_holds_no_connection(
        self, server: RunningServer, long: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As many as may be, none of which reads: other requests are answered, and no backend is at work."""
        pages: list[int] = []
        real = type(server.service.history).log_page

        async def noted(*args: Any) -> LogPage:
            pages.append(1)
            return await real(*args)

        monkeypatch.setattr(type(server.service.history), "log_page", noted)
        readers = [Reader(server, long) for _ in range(server.settings.org_max_downloads)]
        try:
            await eventually(lambda: len(pages) >= server.settings.org_max_downloads, "every download under way")
            await no_statement(server)
            assert len(pages) < 6 * server.settings.org_max_downloads  # it was not read ahead of them
            assert (await server.get("/api/containers", server.user_token())).status_code == 200
            refused = await download(server, long)
            assert (refused.status_code, refused.json()["title"]) == (429, "too_many_downloads")
            assert refused.headers["retry-after"]
        finally:
            for reader in readers:
                reader.close()
        await eventually(lambda: free(server, long), "their places free")

    async def test_one_that_stands_still_too_long_is_broken_off(
        self, server: RunningServer, long: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its place is free again though it never went away."""
        monkeypatch.setattr(logs, "STALL_SECONDS", 0.2)
        readers = [Reader(server, long) for _ in range(server.settings.org_max_downloads)]
        try:
            await eventually(lambda: free(server, long), "their places free")
        finally:
            for reader in readers:
                reader.close()

    async def test_all_organisations_together_are_bounded(
        self, server: RunningServer, long: str, database: str
    ) -> None:
        """One organisation cannot take every place, and all together take no more than there are."""
        limits = server.settings
        orgs = [f"org-{i}" for i in range(limits.max_downloads // limits.org_max_downloads + 1)]
        numbers = await add_containers(database, *({"org": org, "docker_id": "c" * 64} for org in orgs))
        lines = [(START + i, 0, "stdout", "x" * 10_000) for i in range(1000)]
        for other in numbers:
            await add_lines(database, other, lines)
        readers = [
            Reader(server, other, org)
            for other, org in zip(numbers[:-1], orgs[:-1], strict=True)
            for _ in range(limits.org_max_downloads)
        ]  # fmt: skip
        try:

            async def full() -> bool:
                return (await download(server, numbers[-1], "contains=y", orgs[-1])).status_code == 429

            await eventually(full, "no place left")
        finally:
            for reader in readers:
                reader.close()


async def free(server: RunningServer, number: str) -> bool:
    """Whether as many downloads as may be can run at once."""
    answers = await asyncio.gather(
        *(download(server, number, "contains=nothing") for _ in range(server.settings.org_max_downloads))
    )
    return {answer.status_code for answer in answers} == {200}


async def no_statement(server: RunningServer) -> None:
    """Wait until no backend of the pool is within a statement or a transaction."""
    async with asyncio.timeout(DEADLINE_SECONDS), server.service.database.acquire() as connection:
        while await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('seatrial-pool', 'seatrial-read')"
            " AND state <> 'idle' AND datname = current_database() AND pid <> pg_backend_pid()"
        ):
            await asyncio.sleep(0.05)
