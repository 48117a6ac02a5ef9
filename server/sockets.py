"""What the core needs of a socket. `server.ws.guard` has the real one; the core never sees the web framework."""

from typing import Protocol

from server.protocol.close_codes import CloseCode


class Socket(Protocol):
    """An open WebSocket whose sending never waits."""

    @property
    def round_trip_seconds(self) -> float:
        """Of the last ping and its pong; 0.0 before the first."""

    def try_send(self, frame: bytes) -> bool:
        """Send one text frame now. False: the peer does not keep up, or is gone; nothing was sent."""

    def close(self, code: CloseCode, reason: str = "") -> None:
        """Begin the closing handshake; the transport is aborted if the peer does not answer."""
