"""Whether simulated users may load a server that is not on this machine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loadtests import consent as module
from loadtests.consent import Consent, NoConsentError, read_consent, require_consent
from server.db.embedded import free_port


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server with one answer; its address, and the path and the token of each request."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def _far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server is of this machine."""
    monkeypatch.setattr(module, "is_loopback", lambda _: False)


@pytest.mark.parametrize("host", ["http://127.0.0.1:1", "http://localhost:1/", "https://[::1]:1"])
def test_this_machine_is_not_asked(host: str) -> None:
    """Nobody listens there, and that is no matter."""
    require_consent(host, {})


@pytest.mark.usefixtures("_far_away")
def test_who_agrees_may_be_loaded() -> None:
    """One question, without a token."""
    with answering(200, b'{"accepted": true}') as (url, asked):
        require_consent(url + "/", {})

    assert asked == [("/api/test-load", None)]


@pytest.mark.usefixtures("_far_away")
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b'{"accepted": false}'),
        (200, b"{}"),
        (200, b"yes"),
        (404, b"{}"),
        (302, b""),
        (500, b'{"accepted": true}'),
    ],
)
def test_whatever_else_it_says_it_may_not(status: int, body: bytes) -> None:
    """The error names both ways out; a redirect is not followed; who answers for it himself is not held up."""
    with answering(status, body) as (url, asked):
        with pytest.raises(
            NoConsentError, match=r"SEATRIAL_ACCEPT_TEST_LOAD=true .* SEATRIAL_I_OWN_THIS=1 .*nothing was"
        ):
            require_consent(url, {"SEATRIAL_I_OWN_THIS": "yes"})
        assert len(asked) == 1
        require_consent(url, {"SEATRIAL_I_OWN_THIS": "1"})

    assert len(asked) == 1


@pytest.mark.usefixtures("_far_away")
def test_who_does_not_answer_may_not_be_loaded() -> None:
    """It is told which host, and why."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(NoConsentError, match=rf"--host {url}: cannot be asked .*refused"):
        require_consent(url, {})


@pytest.mark.parametrize("host", ["cloud:8000", "ws://cloud", "http://"])
def test_an_address_must_be_one(host: str) -> None:
    """The error says what was expected."""
    with pytest.raises(NoConsentError, match="expected http"):
        require_consent(host, {})


def test_an_answer_tells_how_rows_are_kept() -> None:
    """The runner needs that of a target."""
    body = b'{"accepted": true, "storage": {"strategy": "plain", "retention_seconds": 60, "prune_interval_seconds": 5}}'
    found = read_consent(200, body)

    assert found.accepted
    assert found.storage is not None
    assert found.storage.strategy == "plain"
    assert read_consent(503, body) == Consent()
