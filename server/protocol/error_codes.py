"""The catalogue of `error` messages, and the reasons for which a single row is rejected."""

from enum import StrEnum

from server.protocol.close_codes import CloseCode


class ErrorCode(StrEnum):
    """`error.code`."""

    BAD_REQUEST = "bad_request"
    UNKNOWN_TYPE = "unknown_type"
    UNSUPPORTED_PROTOCOL = "unsupported_protocol"
    HELLO_EXPECTED = "hello_expected"
    INVALID_CONTAINER = "invalid_container"
    LIMIT_EXCEEDED = "limit_exceeded"
    SEQ_GAP = "seq_gap"
    WINDOW_EXCEEDED = "window_exceeded"
    DUPLICATE_IDENTITY = "duplicate_identity"
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    UNAVAILABLE = "unavailable"


MEANING: dict[ErrorCode, tuple[str, CloseCode | None]] = {
    ErrorCode.BAD_REQUEST: (
        "No JSON object of a known shape: dropped whole; the third in a minute closes 4501. Fatal if it contradicts itself.",
        None,
    ),
    ErrorCode.UNKNOWN_TYPE: (
        "`type` names no message of this direction. The frame was dropped; nothing is counted against the sender.",
        None,
    ),
    ErrorCode.UNSUPPORTED_PROTOCOL: ("`hello.protocol` is not one of the server's versions.", CloseCode.BAD_REQUEST),
    ErrorCode.HELLO_EXPECTED: (
        "Something came before `hello`, or a second `hello` came. An unreadable hello closes at once too.",
        CloseCode.BAD_REQUEST,
    ),
    ErrorCode.INVALID_CONTAINER: (
        "A container of hello or inventory breaks a rule; it was left out, its rows will be rejected `unknown_ref`.",
        None,
    ),
    ErrorCode.LIMIT_EXCEEDED: ("Over one of `welcome.limits`, or too many topics. What is over was left out.", None),
    ErrorCode.SEQ_GAP: (
        "`batch.seq` skips numbers that `batch.oldest` does not declare dropped.",
        CloseCode.RESYNC_REQUIRED,
    ),
    ErrorCode.WINDOW_EXCEEDED: ("A batch past the granted window.", CloseCode.RATE_LIMITED),
    ErrorCode.DUPLICATE_IDENTITY: (
        "Another machine_id is connected with this token's host.",
        CloseCode.DUPLICATE_IDENTITY,
    ),
    ErrorCode.NOT_FOUND: ("No such topic for you. The same answer for what exists elsewhere.", None),
    ErrorCode.FORBIDDEN: ("Your role does not allow it.", None),
    ErrorCode.UNAVAILABLE: ("The database did not answer in time. Ask again.", None),
}
"""What each code means, and the close code that follows where it is fatal."""


class RejectReason(StrEnum):
    """`ack.rejected[].reason`: why one row was not stored."""

    INVALID_ROW = "invalid_row"
    UNKNOWN_REF = "unknown_ref"
    TOO_OLD = "too_old"
    IN_FUTURE = "in_future"
    NOT_RISING = "not_rising"
    CONFLICTING_DUPLICATE = "conflicting_duplicate"
    UNSTORABLE = "unstorable"


REASONS: dict[RejectReason, str] = {
    RejectReason.INVALID_ROW: "A field is missing, of the wrong type or out of its range; `detail` names it.",
    RejectReason.UNKNOWN_REF: "No container with this ref was declared in this epoch.",
    RejectReason.TOO_OLD: "`at` lies before `clock.earliest`: retention would remove it at once.",
    RejectReason.IN_FUTURE: "`at` lies after `clock.latest`: more than 60 s ahead of the server's clock.",
    RejectReason.NOT_RISING: "A sample's `at` is not later than the container's sample before it.",
    RejectReason.CONFLICTING_DUPLICATE: "A row with this identity is stored with other values; the stored one stays.",
    RejectReason.UNSTORABLE: "Postgres refused this one row; `detail` holds its SQLSTATE and message.",
}
"""What each reason means."""
