"""Refusals of the REST API: RFC 9457 problem details, whoever refuses: a route, the framework, or an error of ours."""

import math
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from server.auth.principal import User
from server.auth.revocations import Revocations
from server.auth.tokens import TokenError, Tokens, bearer
from server.errors import DatabaseDownError, DeniedError
from server.protocol.canonical import clean_text
from server.quotas import Quotas

MAX_ERRORS = 20
"""Fields that a 422 names."""
MAX_VALUE_CHARACTERS = 200
_SECRET_WORDS = ("token", "ticket", "authorization", "secret", "password")
"""What has one in its name is never repeated, not even to who sent it: answers end up in logs."""


class Problem(BaseModel):
    """Why a request was refused: RFC 9457."""

    type: str = "about:blank"
    title: Annotated[str, Field(description="A word for programs.", examples=["not_found"])]
    status: Annotated[int, Field(examples=[404])]
    detail: Annotated[str, Field(description="A sentence for people.")]


class FieldError(BaseModel):
    """What is wrong with one field."""

    place: Annotated[str, Field(description="path, query, header or body", examples=["query"])]
    field: Annotated[str, Field(description="Its name, with dots where it is nested", examples=["limit"])]
    value: Annotated[Any, Field(description="What was sent; null where nothing was", examples=["5000"])] = None
    expected: Annotated[str, Field(examples=["less than or equal to 1000"])]


def problem_response(description: str, *, errors: bool = False) -> dict[str, Any]:
    """An entry of a route's `responses`; with `errors` the body names fields."""
    schema = Problem.model_json_schema()
    if errors:
        schema["properties"]["errors"] = {"type": "array", "items": FieldError.model_json_schema()}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    401: problem_response("No token, or one that is not good (any more)"),
    403: problem_response("The role does not allow it"),
    404: problem_response("There is no such thing in your organisation"),
    413: problem_response("The body is too large"),
    422: problem_response("A field is missing, of the wrong type or out of its range", errors=True),
    429: problem_response("Too much at once: ask again after Retry-After"),
    500: problem_response("An error of the server"),
    503: problem_response("The database does not answer: ask again"),
}
"""What every route may answer: `APIRouter(responses=PROBLEM_RESPONSES)`."""


class Refused(Exception):  # noqa: N818 - it is an answer
    """A request that is refused; answered as a problem."""

    def __init__(
        self, status: int, title: str, detail: str, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail)
        self.response = problem(status, title, detail, headers, **members)


def problem(
    status: int, title: str, detail: str, headers: Mapping[str, str] | None = None, **members: Any
) -> JSONResponse:
    """A problem details answer; `members` stand in its body beside the four of RFC 9457."""
    return JSONResponse(
        {"type": "about:blank", "title": title, "status": status, "detail": detail} | members,
        status,
        headers,
        media_type="application/problem+json",
    )


async def on_token_error(_request: Request, error: Exception) -> JSONResponse:
    """401 with its reason; the token itself is never repeated."""
    assert isinstance(error, TokenError)  # noqa: S101 - registered for this class only
    return problem(401, error.reason, str(error), {"WWW-Authenticate": "Bearer"})


async def on_refused(_request: Request, error: Exception) -> JSONResponse:
    """The answer that it carries."""
    assert isinstance(error, Refused)  # noqa: S101 - registered for this class only
    return error.response


async def on_denied(_request: Request, error: Exception) -> JSONResponse:
    """403; the attempt is in the audit log."""
    assert isinstance(error, DeniedError)  # noqa: S101 - registered for this class only
    return problem(429 if error.code.startswith("too_many") else 403, error.code, str(error))


async def on_database_down(_request: Request, _error: Exception) -> JSONResponse:
    """503: ask again."""
    return problem(503, "unavailable", "the database does not answer in time", {"Retry-After": "5"})


async def on_http_error(_request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses (404 of no route, 405, a body that cannot be parsed), in the same form."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    # Python's own phrase for it changed between versions.
    phrase = "Content Too Large" if error.status_code == 413 else HTTPStatus(error.status_code).phrase
    return problem(error.status_code, phrase.lower().replace(" ", "_"), str(error.detail), error.headers)


async def on_invalid(_request: Request, error: Exception) -> JSONResponse:
    """422 with every field that is wrong: its name, its value, and what was expected."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class only
    found = [_field_error(fault) for fault in error.errors()[:MAX_ERRORS]]
    sentences = [
        f"{fault.field} = {fault.value!r}: expected {fault.expected}"
        if fault.value is not None
        else f"{fault.field}: expected {fault.expected}"
        for fault in found
    ]
    return problem(422, "invalid_request", "; ".join(sentences), errors=[fault.model_dump() for fault in found])


async def on_error(_request: Request, _error: Exception) -> JSONResponse:
    """500. The framework raises the error again behind this answer, so that the log has it."""
    return problem(500, "internal_error", "an error of the server; its log tells more")


def _field_error(fault: Mapping[str, Any]) -> FieldError:
    place, *path = map(str, fault["loc"])
    if fault["type"] == "json_invalid":
        return FieldError(place="body", field="body", expected=f"JSON: {fault['ctx']['error']} at {path[0]}")
    name = ".".join(path) or place
    # Without a name it is the body as a whole: who knows what somebody put there.
    secret = any(word in part.lower() for part in path for word in _SECRET_WORDS)
    if not path and isinstance(fault["input"], str):
        secret = True
    nothing = fault["type"] == "missing" or secret
    return FieldError(
        place=place, field=name, value=None if nothing else _shown(fault["input"]), expected=_expected(fault)
    )


def _shown(value: Any) -> Any:
    """A value that JSON can carry and a page can hold."""
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**53):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "an array"
    return clean_text(str(value)[:MAX_VALUE_CHARACTERS])


def _expected(fault: Mapping[str, Any]) -> str:
    """The rest of `expected ...`, from pydantic's sentence or from one of our validators."""
    if fault["type"] == "missing":
        return "a value, found none"
    if fault["type"] == "extra_forbidden":
        return "no such field"
    text = str(fault["msg"])
    for opening in ("Value error, ", "Input should be ", "expected ", "String should ", "List should "):
        text = text.removeprefix(opening)
    return text


HANDLERS: dict[int | type[Exception], Any] = {
    Refused: on_refused,
    TokenError: on_token_error,
    DeniedError: on_denied,
    DatabaseDownError: on_database_down,
    HTTPException: on_http_error,
    RequestValidationError: on_invalid,
    Exception: on_error,
}
"""For `FastAPI(exception_handlers=...)`."""


class CurrentUser:
    """A dependency: the user of the bearer token.

    Raises:
        TokenError: there is none, or it is not good (any more); answered 401.
        Refused: the organisation's users change more a second than they may; 429.
    """

    def __init__(self, tokens: Tokens, revocations: Revocations, quotas: Quotas) -> None:
        self._tokens = tokens
        self._revocations = revocations
        self._quotas = quotas

    async def __call__(self, request: Request) -> User:
        """The user who asks. A coroutine: FastAPI takes a plain function to a thread, which waits long on a busy loop."""
        user = self._tokens.user(bearer(request.headers.get("authorization")))
        if self._revocations.revoked(user):
            raise TokenError("revoked", "the user or the token was revoked")
        if request.method not in {"GET", "HEAD"} and not self._quotas.may_write(user.org, time.monotonic()):
            message = "the organisation's users change too much at once"
            raise Refused(429, "too_many_requests", message, {"Retry-After": "1"})
        return user
