"""Structured logs: one JSON object a line, control characters escaped, without tokens or tickets.

Uvicorn logs each accepted or refused WebSocket with its query string through `uvicorn.error`, whatever `access_log` says; so
secrets are taken out of every record, at the root.
"""

import logging
import logging.config
import re
import sys
from typing import Any

import structlog

_SECRET = re.compile(
    r"((?:ticket|token|authorization)[\"']?\s*[=:]\s*[\"']?(?:(?:bearer|basic|digest)\s+)?)[^\s&\"',)]+|\beyJ[\w-]+\.[\w-]+\.[\w-]*",
    re.IGNORECASE,
)
_SECRET_FIELDS = frozenset({"ticket", "token", "authorization", "jwt_secret", "secret", "password", "database_url"})
_OWN_FIELDS = structlog.stdlib.ExtraAdder()


def redact(text: str) -> str:
    """`text` without the value of a ticket, token or Authorization header, and without anything shaped like a JWT."""
    return _SECRET.sub(lambda match: f"{match.group(1) or ''}[redacted]", text)


class RedactingFilter(logging.Filter):
    """Takes secrets out of a record before any handler sees it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true: the record is changed, not dropped."""
        message = record.getMessage()
        clean = redact(message)
        if clean != message:
            record.msg, record.args = clean, None
        return True


def configure(level: str, form: str) -> None:
    """Log to standard error: `form` is `json`, or `console` for people."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _OWN_FIELDS,
        _drop_color,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _redact_event,
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(RedactingFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        # One line per connection says nothing that our own does not say better.
        logger.setLevel(max(logging.WARNING, root.level) if root.level > logging.DEBUG else logging.DEBUG)


def _drop_color(_logger: Any, _name: str, event: Any) -> Any:
    event.pop("color_message", None)
    return event


def _redact_event(_logger: Any, _name: str, event: Any) -> Any:
    return _redacted(event)


def _redacted(value: Any) -> Any:
    """Any value of a record without secrets, however deep they lie; what JSON does not know becomes its repr."""
    if isinstance(value, dict):
        return {
            key: "[redacted]" if str(key).lower() in _SECRET_FIELDS else _redacted(item) for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact(value if isinstance(value, str) else repr(value))
