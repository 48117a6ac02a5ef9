"""Close codes of both sockets. The range tells the client what to do, so that old clients handle new codes.

4000-4499: reconnect with back-off. 4500-4999: do not reconnect before something changed. The idea is centrifuge's
(`disconnect.go`); the codes below 4000 are RFC 6455's, section 7.4.
"""

from enum import IntEnum


class CloseCode(IntEnum):
    """Why the server closed a socket."""

    NORMAL = 1000
    UNSUPPORTED_DATA = 1003
    INVALID_UTF8 = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    TOKEN_EXPIRED = 4001
    HELLO_TIMEOUT = 4002
    RESYNC_REQUIRED = 4003
    SILENT = 4004
    SLOW_CONSUMER = 4008
    RATE_LIMITED = 4013
    INVALID_CREDENTIALS = 4500
    BAD_REQUEST = 4501
    REVOKED = 4503
    CONNECTION_LIMIT = 4504
    SUBSCRIPTION_LIMIT = 4505
    PERMISSION_DENIED = 4507
    SUPERSEDED = 4509
    DUPLICATE_IDENTITY = 4510


MEANING: dict[CloseCode, tuple[str, str]] = {
    CloseCode.NORMAL: ("done", "do not reconnect"),
    CloseCode.UNSUPPORTED_DATA: ("a binary frame on a text protocol", "fix the client; back-off"),
    CloseCode.INVALID_UTF8: ("a text frame that is not UTF-8", "fix the client; back-off"),
    CloseCode.POLICY_VIOLATION: ("too many fragments in a message", "back-off"),
    CloseCode.MESSAGE_TOO_BIG: (
        "a frame over limits.frame_bytes",
        "split the batch or declare it dropped, never resend the same frame; back-off",
    ),
    CloseCode.INTERNAL_ERROR: ("a fault of the server, or a ping without its pong", "back-off"),
    CloseCode.SERVICE_RESTART: (
        "the server restarts",
        "reconnect after random(0, drain.reconnect_within_seconds)",
    ),
    CloseCode.TRY_AGAIN_LATER: ("overloaded", "reconnect after at least 30 s"),
    CloseCode.TOKEN_EXPIRED: ("token or ticket expired, used or unknown", "get a new one, reconnect at once, once"),
    CloseCode.HELLO_TIMEOUT: ("no hello within 10 s of the upgrade", "back-off"),
    CloseCode.RESYNC_REQUIRED: (
        "an undeclared gap in seq",
        "reconnect with back-off, resend from welcome.acked_seq + 1",
    ),
    CloseCode.SILENT: ("no frame for 3 heartbeat intervals, or a message begun and not finished in 10 s", "back-off"),
    CloseCode.SLOW_CONSUMER: ("the subscriber did not read", "reconnect, subscribe again"),
    CloseCode.RATE_LIMITED: ("a batch past the granted window, or a flood of control frames", "back-off"),
    CloseCode.INVALID_CREDENTIALS: ("credentials are no longer good", "stop; agents retry every 5-10 min"),
    CloseCode.BAD_REQUEST: (
        "protocol version or subprotocol not supported, an invalid hello, or 3 unreadable frames within a minute",
        "stop; agents retry every 5-10 min",
    ),
    CloseCode.REVOKED: ("revoked by an administrator", "stop; agents retry every 5-10 min"),
    CloseCode.CONNECTION_LIMIT: ("too many connections of this identity", "stop; agents retry every 5-10 min"),
    CloseCode.SUBSCRIPTION_LIMIT: ("too many subscriptions", "stop"),
    CloseCode.PERMISSION_DENIED: ("not yours", "stop"),
    CloseCode.SUPERSEDED: (
        "a newer connection of this agent took over",
        "this connection is over; alarm if it repeats within 60 s",
    ),
    CloseCode.DUPLICATE_IDENTITY: (
        "another machine is connected with this identity: one token on two hosts",
        "stop; agents retry every 5-10 min",
    ),
}
"""What each code means, and what the client does then."""


def may_reconnect(code: int) -> bool:
    """Whether a client that was closed with `code` dials again by itself (with back-off)."""
    return code != CloseCode.NORMAL and not 4500 <= code <= 4999
