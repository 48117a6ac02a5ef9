"""What can go wrong, by whose fault it is and what follows.

SeatrialError
 +-- PeerError           a peer broke the protocol: an `error` frame, a close code where it is fatal
 +-- DeniedError         a user may not do what they asked for; the attempt has its audit row
 +-- DatabaseDownError   Postgres is away: nothing is lost, try again
 +-- StartupError        the environment cannot carry the server: exit 3
"""

from server.protocol.close_codes import CloseCode
from server.protocol.error_codes import MEANING, ErrorCode
from server.protocol.messages import About, Error


class SeatrialError(Exception):
    """Base of all our errors."""


class PeerError(SeatrialError):
    """A peer did what the protocol forbids, and the connection ends."""

    def __init__(self, code: ErrorCode, message: str, about: About | None = None) -> None:
        super().__init__(message)
        self.close_code = MEANING[code][1] or CloseCode.BAD_REQUEST
        self.error = Error(code=code, message=message, fatal=True, about=about)


class DeniedError(SeatrialError):
    """The user may not do it, and the audit log says that they tried.

    Attributes:
        code: `forbidden` or `revoked`, as the problem's title says it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class DatabaseDownError(SeatrialError):
    """The database does not answer."""


class StartupError(SeatrialError):
    """The server cannot start; the sentence says what to mend."""
