"""Every refusal has the same form, names what is wrong, and repeats no secret."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from server.http import body_limit
from server.http.body_limit import MAX_BODY_BYTES
from tests.support.server import DEADLINE_SECONDS, RunningServer

ACTIONS = "/api/containers/1/actions"


def is_problem(answer: httpx.Response, status: int, title: str) -> dict[str, Any]:
    """The body of a problem of this status and title."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["type"], body["title"], body["status"]) == ("about:blank", title, status)
    assert body["detail"]
    return body


async def test_a_wrong_query_is_named_field_by_field(server: RunningServer) -> None:
    """422 tells place, name, value and what was expected of each wrong parameter."""
    answer = await server.get("/api/actions?limit=5000&container=x", server.user_token())

    body = is_problem(answer, 422, "invalid_request")
    assert body["errors"] == [
        {"place": "query", "field": "container", "value": "x",
         "expected": "a container id: decimal digits, below 2^63"},
        {"place": "query", "field": "limit", "value": "5000", "expected": "less than or equal to 1000"},
    ]  # fmt: skip
    assert "limit = '5000': expected less than or equal to 1000" in body["detail"]


@pytest.mark.parametrize(
    ("sent", "field", "value", "expected"),
    [
        ({"kind": "stop"}, "reason", None, "a value, found none"),
        ({"kind": "explode", "reason": "r"}, "kind", "explode", "'start', 'stop' or 'restart'"),
        ({"kind": "stop", "reason": "r", "more": 1}, "more", 1, "no such field"),
        ({"kind": ["stop"], "reason": "r"}, "kind", "an array", "'start', 'stop' or 'restart'"),
        ([], "body", "an array", "a valid dictionary or object to extract fields from"),
    ],
)
async def test_a_wrong_body_is_named_field_by_field(
    server: RunningServer, sent: Any, field: str, value: Any, expected: str
) -> None:
    """What is missing, unknown or of the wrong type in a body is told as it is for a query."""
    answer = await server.call("POST", ACTIONS, server.user_token(role="operator"), json=sent)

    (error,) = is_problem(answer, 422, "invalid_request")["errors"]
    assert error == {"place": "body", "field": field, "value": value, "expected": expected}


@pytest.mark.parametrize(
    "content",
    [
        b'{"kind": "stop", "reason": "\\ud800"}',
        b'{"kind": NaN, "reason": "r"}',
        b'{"kind": "stop", "reason": "r", "expires_in_seconds": 1e400}',
        b'{"kind": "stop", "reason": "r", "expires_in_seconds": ' + b"9" * 4000 + b"}",
        b'{"kind": "' + b"x" * 5000 + b'", "reason": "r"}',
        b'{"kind": ',
        b"\xff\xfe",
        b"[" * 20_000,
    ],
)
async def test_what_cannot_be_answered_as_it_is_is_told_all_the_same(server: RunningServer, content: bytes) -> None:
    """A value that JSON cannot carry, or no page hold, is shown in another form; nothing ends as an error of the server."""
    async with httpx.AsyncClient(base_url=server.http) as client:
        answer = await client.post(
            ACTIONS, content=content,
            headers={"Authorization": f"Bearer {server.user_token()}", "Content-Type": "application/json"},
        )  # fmt: skip

    assert answer.status_code in {400, 422}
    is_problem(answer, answer.status_code, answer.json()["title"])
    assert len(answer.content) < 3000


async def test_secrets_are_not_repeated(server: RunningServer) -> None:
    """The value of a token that is refused stands nowhere in the answer."""
    answer = await server.call("POST", "/api/agents/enroll", json={"token": ["SECRET-CANARY"]})
    long = await server.call("POST", "/api/agents/enroll", json={"token": "SECRET-CANARY" * 1000})

    for refused in (answer, long):
        assert refused.status_code in {401, 403, 422}
        assert "CANARY" not in refused.text


@pytest.mark.parametrize("name", ["access_token", "LiveTicket", "Authorization", "client-secret", "password"])
async def test_what_a_field_is_called_hides_its_value(server: RunningServer, name: str) -> None:
    """A field that no route knows, named like a secret, is named in the refusal; its value is not."""
    body = {"host": "h", name: "CANARY", "plain": "shown"}
    answer = await server.call("POST", "/api/hosts", server.user_token(role="admin"), json=body)

    assert answer.status_code == 422
    assert name in answer.text
    assert "shown" in answer.text
    assert "CANARY" not in answer.text


async def test_no_such_route_and_no_such_method(server: RunningServer) -> None:
    """404 and 405 of the framework are problems too; 405 keeps its Allow."""
    is_problem(await server.get("/api/nothing"), 404, "not_found")
    answer = await server.call("DELETE", "/api/audit")
    is_problem(answer, 405, "method_not_allowed")
    assert "GET" in answer.headers["allow"]


async def test_an_error_of_the_server_is_a_problem_and_is_logged(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """500 says nothing of what happened; the log says it all."""

    async def break_down(*_args: Any, **_named: Any) -> Any:
        raise LookupError("CANARY of the inside")

    monkeypatch.setattr(type(server.service.action_table), "page", break_down)
    answer = await server.get("/api/actions", server.user_token())

    is_problem(answer, 500, "internal_error")
    assert "CANARY" not in answer.text
    assert any(record.exc_info and "CANARY" in str(record.exc_info[1]) for record in caplog.records)


class TestBodyLimit:
    """Request bodies are bounded."""

    async def test_a_declared_length_is_refused_unread(self, server: RunningServer) -> None:
        """One byte past the bound is 413, before the token is looked at; at the bound it is not."""
        at_bound = json.dumps({"kind": "stop", "reason": "r" * 10}).encode().ljust(MAX_BODY_BYTES)
        async with httpx.AsyncClient(base_url=server.http) as client:
            is_problem(await client.post(ACTIONS, content=at_bound + b" "), 413, "content_too_large")
            is_problem(await client.post(ACTIONS, content=at_bound), 401, "missing_token")

    async def test_a_stream_is_refused_at_the_bound(self, server: RunningServer) -> None:
        """A body without a declared length is counted as it comes."""

        async def stream() -> AsyncIterator[bytes]:
            for _ in range(3 * MAX_BODY_BYTES // 4096):
                yield b" " * 4096

        async with httpx.AsyncClient(base_url=server.http) as client:
            answer = await client.post(
                ACTIONS, content=stream(), headers={"Authorization": f"Bearer {server.user_token(role='admin')}"}
            )

        is_problem(answer, 413, "content_too_large")

    async def test_a_stream_without_end_is_closed_on(
        self, server: RunningServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A peer that never stops writing is read for a moment, then its connection ends."""
        monkeypatch.setattr(body_limit, "MAX_DISCARDED_BYTES", 4 * MAX_BODY_BYTES)
        _, writer = await asyncio.open_connection(*server.address.split(":"))
        writer.write(f"POST {ACTIONS} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())

        async def write_on() -> None:
            while True:
                writer.write(b"1000\r\n" + b" " * 4096 + b"\r\n")
                await writer.drain()

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(write_on(), DEADLINE_SECONDS)
        writer.transport.abort()


async def test_every_route_declares_its_errors(server: RunningServer) -> None:
    """The OpenAPI document has the problem form for what each route of the API may answer."""
    document = (await server.get("/openapi.json")).json()

    for path, operations in document["paths"].items():
        # One route takes no token, no parameter and no connection to the database: it cannot fail.
        if path.startswith("/api") and path != "/api/test-load":
            for method, operation in operations.items():
                for status in ("401", "422", "503"):
                    content = operation["responses"].get(status, {}).get("content", {})
                    assert "application/problem+json" in content, (method, path, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]
