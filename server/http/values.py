"""Values that several routes take: container ids, moments, the place of the next page."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from server.protocol.messages import MAX_INT64

MAX_MOMENT_US = 253_402_300_799_999_999
"""The last microsecond of the year 9999: what Python's and Postgres' calendars both hold."""


def _container_id(value: Any) -> int:
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) <= 19) or int(text) > MAX_INT64:
        raise ValueError("expected a container id: decimal digits, below 2^63")
    return int(text)


def _moment(value: Any) -> int:
    text = str(value)
    if text.isascii() and text.isdecimal() and len(text) <= 18:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("expected Unix microseconds, or RFC 3339 as in 2026-11-23T12:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("expected an offset from UTC, as in 2026-11-23T12:00:00Z")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND


def _on_the_calendar(value: int) -> int:
    if not 0 <= value <= MAX_MOMENT_US:
        raise ValueError("expected a time between 1970 and 9999")
    return value


_MICROSECOND = datetime.resolution

ContainerId = Annotated[
    int,
    BeforeValidator(_container_id),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,19}$", "examples": ["4611686018427387904"]}),
]
"""A container's 63-bit id as decimal text."""

Moment = Annotated[
    int,
    BeforeValidator(_moment),
    AfterValidator(_on_the_calendar),
    WithJsonSchema({"type": "string", "examples": ["1763899200000000", "2026-11-23T12:00:00Z"]}),
]
"""Unix microseconds; Unix microseconds or RFC 3339 in a query."""

NextPage = Annotated[
    str | None, Field(description="Pass it as `after` for the next page; null: this is the last", examples=[None])
]
