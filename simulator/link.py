"""A WebSocket as the fleet sees it, whatever library is under it."""

import asyncio
from collections.abc import Awaitable
from enum import StrEnum
from typing import Protocol

CONNECT_SECONDS = 20.0
"""Deadline of TCP, TLS and handshake together."""
CLOSE_SECONDS = 5.0
"""How long a close waits for the other end before the connection is cut."""
MAX_FRAME_BYTES = 1 << 20
"""A message from the server over this closes the link with 1009."""
MAX_BUFFERED_BYTES = 256 * 1024
"""From here on a link is full; what the agent still wants to send waits in its spool."""


class Link(Protocol):
    """An open connection."""

    @property
    def full(self) -> bool:
        """Whether the peer reads so slowly that nothing more should be sent now; also true once it is closed."""

    def send(self, data: bytes) -> None:
        """Send a text message of these UTF-8 bytes; without effect after a close. Never waits."""

    def pause_reading(self) -> None:
        """Take nothing off the connection until `resume_reading`, not even its end; what was taken already may still come."""

    def resume_reading(self) -> None:
        """Read again."""

    def close(self, code: int, reason: str = "") -> None:
        """Say goodbye; the connection is cut if the peer does not answer in CLOSE_SECONDS. Safe to call twice."""

    def abort(self) -> None:
        """Cut the connection now."""


class Session(Protocol):
    """Who uses a link. The calls come from the event loop and must not wait."""

    def on_open(self, link: Link) -> None:
        """The handshake is done. Comes once, before anything else."""

    def on_frame(self, link: Link, data: bytes) -> None:
        """A text message, as UTF-8 bytes of at most MAX_FRAME_BYTES."""

    def on_close(self, link: Link, code: int, reason: str, *, by_peer: bool) -> None:
        """The link is gone. Comes once, after `on_open`.

        Args:
            link: the one of `on_open`.
            code: of the end that closed first; 1005: it gave none; 1006: the connection broke.
            reason: the same end's text.
            by_peer: whether the server closed first. False also when the connection broke.
        """


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """The server answered the handshake with another status than 101.

    Attributes:
        status: the HTTP status.
        retry_after_seconds: the header Retry-After, if it was a number.
    """

    def __init__(self, status: int, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class Unreachable(Exception):  # noqa: N818 - see Refused
    """No connection, no answer within CONNECT_SECONDS, or an answer that is no WebSocket handshake."""


class Connect(Protocol):
    """Opens a link and hands it to `session.on_open`."""

    def __call__(
        self, url: str, token: str, subprotocol: str, session: Session, source: str | None = None, /
    ) -> Awaitable[None]:
        """Open a link.

        Args:
            url: of the agent socket.
            token: the agent's.
            subprotocol: that the server must choose.
            session: gets the link.
            source: IP address of this machine from which it connects; None: the system's choice.

        Raises:
            Refused, Unreachable: then no call of the session came or will come.
        """


class Transport(StrEnum):
    """The library under the links."""

    PICOWS = "picows"
    WEBSOCKETS = "websockets"


def connect_by(transport: Transport) -> Connect:
    """The `Connect` of a transport; its library is loaded here."""
    if transport is Transport.PICOWS:
        from simulator.link_picows import connect as connect_picows

        return connect_picows
    from simulator.link_websockets import connect as connect_websockets

    return connect_websockets


def report_failure(error: Exception) -> None:
    """Hand an exception of a session to the event loop: the library under the link would only log it."""
    asyncio.get_running_loop().call_exception_handler({"message": "a session failed", "exception": error})


def retry_after_seconds(header: str | None) -> float | None:
    """The value of a Retry-After header in seconds; None if there is none, or it is a date."""
    return float(header) if header is not None and header.isascii() and header.isdigit() and len(header) < 10 else None
