"""Logs: one JSON object a line, and no secret in any of them."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from server import logs
from server.auth.tokens import Tokens
from server.logs import redact

JWT = Tokens("a-secret-of-the-tests-that-is-long-enough").mint_agent(org="o", host="h", seconds=60)
TICKET = "q3ZkCANARYx-_9"

Written = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """The records written to standard error since logging was configured as JSON."""
    root = logging.getLogger()
    uvicorn = [logging.getLogger(name) for name in ("uvicorn", "uvicorn.error", "uvicorn.access")]
    before = root.handlers[:], root.level, [(logger.handlers[:], logger.propagate, logger.level) for logger in uvicorn]
    logs.configure("debug", "json")
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    root.handlers[:], level, loggers = before
    root.setLevel(level)
    for logger, (handlers, propagate, logger_level) in zip(uvicorn, loggers, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(logger_level)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (
            f'127.0.0.1:1 - "WebSocket /ws/live?ticket={TICKET}&x=1" [accepted]',
            '127.0.0.1:1 - "WebSocket /ws/live?ticket=[redacted]&x=1" [accepted]',
        ),
        (f"/ws/live?token={JWT}", "/ws/live?token=[redacted]"),
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

    records = written()

    assert len(records) == 6
    text = json.dumps(records)
    assert TICKET not in text
    assert JWT not in text
    assert JWT.rsplit(".", 1)[1] not in text
    assert "ValueError" in records[4]["exception"]


def test_a_record_is_one_line_whatever_is_in_it(written: Written) -> None:
    """Line breaks and control characters in a message or a value are escaped: nobody can fake a record."""
    hostile = 'web\r\n{"level":"error","event":"fake"}\x1b[2J\u2028\x00'
    logging.getLogger("seatrial.test").warning("container %s", hostile, extra={"container": hostile})

    (record,) = written()

    assert record["container"] == hostile
    assert record["event"] == f"container {hostile}"
    assert (record["level"], record["logger"]) == ("warning", "seatrial.test")


def test_values_keep_their_kind(written: Written) -> None:
    """Numbers stay numbers, lists lists; a time stands in each record."""
    logging.getLogger("seatrial.test").info("x", extra={"n": 5, "f": 0.5, "none": None, "list": [1, "a"], "yes": True})

    (record,) = written()

    assert {key: record[key] for key in ("n", "f", "none", "list", "yes")} == {
        "n": 5, "f": 0.5, "none": None, "list": [1, "a"], "yes": True,
    }  # fmt: skip
    assert record["timestamp"].endswith("Z")


def test_uvicorns_lines_per_connection_are_left_out(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    """From `info` up uvicorn only speaks when something is wrong."""
    logs.configure("info", "json")
    logging.getLogger("uvicorn.error").info("connection open")
    logging.getLogger("uvicorn.error").error("something is wrong")
    logging.getLogger("seatrial.test").debug("too much")

    assert [record["event"] for record in written()] == ["something is wrong"]
    assert capsys.readouterr().err == ""


def test_the_console_form_is_redacted_too(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines for people hold no secret either."""
    logs.configure("info", "console")
    logging.getLogger("seatrial.test").info("opened ?ticket=%s", TICKET, extra={"token": TICKET})

    text = capsys.readouterr().err

    assert "opened ?ticket=[redacted]" in text
    assert TICKET not in text
    assert callable(written)
