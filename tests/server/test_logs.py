"""Logs: one JSON object a line, and no secret in any of them."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from server import logs
from server.auth.keys import Keys
from server.auth.tokens import Tokens
from server.logs import redact

KEYS = Keys.of_secret("a-secret-of-the-tests-that-is-long-enough")
JWT = Tokens(KEYS).mint_agent(org="o", host="h", seconds=60)
TICKET = "q3ZkCANARYx-_9"


class Written:
    """Logging as the server configures it, into memory."""

    def __init__(self) -> None:
        self._stream = io.StringIO()

    def configure(self, level: str, form: str) -> None:
        """Configure logging, and look at what it writes."""
        logs.configure(level, form)
        (handler,) = logging.getLogger().handlers
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(self._stream)

    @property
    def text(self) -> str:
        """All that was written."""
        return self._stream.getvalue()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records, one of each line."""
        return [json.loads(line) for line in self.text.split("\n")[:-1]]


@pytest.fixture
def written() -> Iterator[Written]:
    """JSON from `debug` up; logging is afterwards as it was."""
    loggers = [logging.getLogger(name) for name in (None, "uvicorn", "uvicorn.error", "uvicorn.access")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    written = Written()
    written.configure("debug", "json")
    yield written
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (
            f'127.0.0.1:1 - "WebSocket /ws/live?ticket={TICKET}&x=1" [accepted]',
            '127.0.0.1:1 - "WebSocket /ws/live?ticket=[redacted]&x=1" [accepted]',
        ),
        (f"/ws/live?token={JWT}", "/ws/live?token=[redacted]"),
        (f"/ws/live?token={TICKET}", "/ws/live?token=[redacted]"),
        (f"Authorization: Bearer {TICKET}", "Authorization: Bearer [redacted]"),
        (f"authorization: bearer {JWT}, next", "authorization: bearer [redacted], next"),
        (f"Authorization: Basic {TICKET}", "Authorization: Basic [redacted]"),
        (f"Authorization={TICKET}", "Authorization=[redacted]"),
        (f"{{'ticket': '{TICKET}', 'a': 1}}", "{'ticket': '[redacted]', 'a': 1}"),
        (f'{{"ticket": "{TICKET}"}}', '{"ticket": "[redacted]"}'),
        (f"got {JWT}.", "got [redacted]."),
        (f"(b'authorization', b'Bearer {JWT}')", "(b'authorization', b'Bearer [redacted]')"),
        ("5 tickets, no token, eyJ", "5 tickets, no token, eyJ"),
        ("", ""),
    ],
)
def test_secrets_are_taken_out(text: str, clean: str) -> None:
    """Tickets, tokens, Authorization headers and whatever looks like a JWT go; the rest of the text stays."""
    assert redact(text) == clean


def test_no_way_into_a_record_leads_a_secret_out(written: Written) -> None:
    """Message, arguments, fields, nested fields and exceptions are all redacted."""
    log = logging.getLogger("seatrial.test")
    log.info("opened /ws/live?ticket=%s", TICKET)
    log.info("field", extra={"url": f"/ws/live?ticket={TICKET}", "token": TICKET})
    log.info("nested", extra={"request": {"headers": [("Authorization", f"Bearer {JWT}")], "ticket": TICKET}})
    log.info("object", extra={"error": ValueError(f"ticket={TICKET}"), "Authorization": f"Bearer {TICKET}"})
    try:
        raise ValueError(f"bad ticket={TICKET} in {JWT}")
    except ValueError:
        log.exception("failed")
    logging.getLogger("uvicorn.error").info('"WebSocket /ws/live?ticket=%s" [accepted]', TICKET)

    records = written.records

    assert len(records) == 6
    text = json.dumps(records)
    assert TICKET not in text
    assert JWT not in text
    assert JWT.rsplit(".", 1)[1] not in text
    assert "ValueError" in records[4]["exception"]


@pytest.mark.parametrize(
    "name", ["ticket", "token", "authorization", "jwt_secret", "secret", "password", "database_url", "Password"]
)
def test_a_field_named_like_a_secret_holds_none(written: Written, name: str) -> None:
    """Its value goes whatever it looks like, at the top and within another; the field stays."""
    logging.getLogger("seatrial.test").info("field", extra={name: "plain words", "nested": [{name: {"deep": "plain"}}]})

    (record,) = written.records

    assert record[name] == "[redacted]"
    assert record["nested"] == [{name: "[redacted]"}]


def test_a_record_is_one_line_whatever_is_in_it(written: Written) -> None:
    """Line breaks and control characters in a message or a value are escaped: nobody can fake a record."""
    hostile = 'web\r\n{"level":"error","event":"fake"}\x1b[2J\u2028\x00'
    logging.getLogger("seatrial.test").warning("container %s", hostile, extra={"container": hostile})

    (record,) = written.records

    assert record["container"] == hostile
    assert record["event"] == f"container {hostile}"
    assert (record["level"], record["logger"]) == ("warning", "seatrial.test")


def test_values_keep_their_kind(written: Written) -> None:
    """Numbers stay numbers, lists lists; a time stands in each record."""
    logging.getLogger("seatrial.test").info("x", extra={"n": 5, "f": 0.5, "none": None, "list": [1, "a"], "yes": True})

    (record,) = written.records

    assert {key: record[key] for key in ("n", "f", "none", "list", "yes")} == {
        "n": 5, "f": 0.5, "none": None, "list": [1, "a"], "yes": True,
    }  # fmt: skip
    assert record["timestamp"].endswith("Z")


def test_uvicorns_lines_per_connection_are_left_out(written: Written) -> None:
    """From `info` up uvicorn only speaks when something is wrong."""
    written.configure("info", "json")
    logging.getLogger("uvicorn.error").info("connection open")
    logging.getLogger("uvicorn.error").error("something is wrong")
    logging.getLogger("seatrial.test").debug("too much")

    assert [record["event"] for record in written.records] == ["something is wrong"]


def test_the_console_form_is_redacted_too(written: Written) -> None:
    """Lines for people hold no secret either."""
    written.configure("info", "console")
    logging.getLogger("seatrial.test").info("opened ?ticket=%s", TICKET, extra={"token": TICKET})

    assert "opened ?ticket=[redacted]" in written.text
    assert TICKET not in written.text
