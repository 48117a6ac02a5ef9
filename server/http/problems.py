"""Refusals of the REST API: RFC 9457 problem details."""

from typing import Any

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse

from server.auth.principal import User
from server.auth.tokens import TokenError, Tokens, bearer
from server.errors import DatabaseDownError


def problem(status: int, title: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A problem details body."""
    return JSONResponse(
        {"type": "about:blank", "title": title, "status": status, "detail": detail},
        status,
        headers,
        media_type="application/problem+json",
    )


async def on_token_error(_request: Request, error: Exception) -> JSONResponse:
    """401 with its reason; the token itself is never repeated."""
    assert isinstance(error, TokenError)  # noqa: S101 - registered for this class only
    return problem(401, error.reason, str(error), {"WWW-Authenticate": "Bearer"})


async def on_database_down(_request: Request, _error: Exception) -> JSONResponse:
    """503: ask again."""
    return problem(503, "unavailable", "the database is away", {"Retry-After": "5"})


async def on_http_error(_request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses, in the same form."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    return problem(error.status_code, str(error.detail).lower().replace(" ", "_"), str(error.detail))


HANDLERS: dict[int | type[Exception], Any] = {
    TokenError: on_token_error,
    DatabaseDownError: on_database_down,
    HTTPException: on_http_error,
}


class CurrentUser:
    """A dependency: the user of the bearer token.

    Raises:
        TokenError: there is none, or it is not good; answered 401.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def __call__(self, request: Request) -> User:
        """The user who asks."""
        return self._tokens.user(bearer(request.headers.get("authorization")))
