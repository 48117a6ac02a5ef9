"""The HTTP client of the benchmarks, against a server that does as it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from loadtests.bench import rest
from loadtests.bench.rest import Rest
from tests.support.scripted_http import Request, Script, response, scripted_http


@asynccontextmanager
async def serving(answer: Script) -> AsyncIterator[tuple[Rest, list[Request]]]:
    """A client of a server, and the requests as they come."""
    async with scripted_http(answer) as (url, requests):
        client = Rest(url)
        try:
            yield client, requests
        finally:
            client.close()


async def good(request: Request, writer: asyncio.StreamWriter) -> None:
    """Its body is the number of the connection."""
    writer.write(response("202 Accepted\r\nLocation: /x", b"%d" % request.connection))


async def test_requests_follow_each_other_on_one_connection() -> None:
    """Status, headers and body come back; what was sent is well formed."""
    async with serving(good) as (client, requests):
        first = await client.request("GET", "/a?b=c", headers={"Authorization": "Bearer t"})
        second = await client.request("GET", "/d", headers={})

    assert (first.status, first.headers["location"], first.body) == (202, "/x", b"1")
    assert second.body == b"1"
    assert requests[0].head.startswith(b"GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAuthorization: Bearer t\r\n" in requests[0].head


async def test_requests_at_once_have_a_connection_each() -> None:
    """None waits for the answer to another."""
    both = asyncio.Event()
    waiting: list[asyncio.StreamWriter] = []

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        waiting.append(writer)
        if len(waiting) == 2:
            both.set()
        await both.wait()
        await good(request, writer)

    async with serving(answer) as (client, _):
        answers = await asyncio.gather(*(client.request("GET", "/", headers={}) for _ in range(2)))

    assert {answer.body for answer in answers} == {b"1", b"2"}


async def test_a_connection_that_was_idle_for_long_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may be about to close it."""
    monkeypatch.setattr(rest, "KEPT_SECONDS", -1.0)
    async with serving(good) as (client, _):
        await client.request("GET", "/", headers={})
        assert (await client.request("GET", "/", headers={})).body == b"2"


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
async def test_a_broken_answer_is_none(response: bytes) -> None:
    """The request is not sent a second time, as it may have been carried out; the next one has a connection of its own."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response)
        writer.close()

    async with serving(answer) as (client, requests):
        assert (await client.request("POST", "/", headers={}, body=b"1")).status == 0
        assert (await client.request("POST", "/", headers={}, body=b"2")).status == 0

    assert [(request.connection, request.body) for request in requests] == [(1, b"1"), (2, b"2")]


async def test_no_answer_in_time_is_none() -> None:
    """A server that is silent costs the deadline and no more; one that is not there costs nothing."""

    async def silent(request: Request, writer: asyncio.StreamWriter) -> None:
        return

    async with serving(silent) as (client, _):
        assert (await client.request("GET", "/", headers={}, timeout_seconds=0.05)).status == 0
    assert (await client.request("GET", "/", headers={})).status == 0
