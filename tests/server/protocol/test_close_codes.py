"""Close codes, error codes and reasons: each is explained, and the range says what the client does."""

import pytest

from server.protocol import close_codes, error_codes
from server.protocol.close_codes import CloseCode, may_reconnect
from server.protocol.error_codes import ErrorCode, RejectReason


def test_every_code_is_explained() -> None:
    """No code is sent that the catalogue does not explain."""
    assert set(close_codes.MEANING) == set(CloseCode)
    assert set(error_codes.MEANING) == set(ErrorCode)
    assert set(error_codes.REASONS) == set(RejectReason)
    assert all(all(text) for text in close_codes.MEANING.values())


@pytest.mark.parametrize("code", CloseCode)
def test_every_code_may_be_sent(code: CloseCode) -> None:
    """RFC 6455 forbids 1005, 1006 and 1015 in a frame, and leaves 4000 to 4999 to us."""
    assert 1000 <= code <= 1013 or 4000 <= code <= 4999
    assert code not in {1004, 1005, 1006, 1010}


@pytest.mark.parametrize("code", CloseCode)
def test_the_range_agrees_with_the_advice(code: CloseCode) -> None:
    """What the table tells a client to do is what the code's range tells an old client."""
    _, advice = close_codes.MEANING[code]
    stops = advice.startswith(("stop", "do not reconnect", "this connection is over"))

    assert may_reconnect(code) == (not stops)


@pytest.mark.parametrize(
    ("code", "again"),
    [(1000, False), (1001, True), (1006, True), (4000, True), (4499, True), (4500, False), (4999, False), (4242, True)],
)
def test_unknown_codes_follow_their_range(code: int, again: bool) -> None:
    """A client handles codes that did not exist when it was written."""
    assert may_reconnect(code) == again


def test_fatal_errors_close_with_a_code_of_the_catalogue() -> None:
    """Each error that ends a connection names the close code that follows."""
    assert {code: close for code, (_, close) in error_codes.MEANING.items() if close} == {
        ErrorCode.UNSUPPORTED_PROTOCOL: CloseCode.BAD_REQUEST,
        ErrorCode.HELLO_EXPECTED: CloseCode.BAD_REQUEST,
        ErrorCode.SEQ_GAP: CloseCode.RESYNC_REQUIRED,
        ErrorCode.WINDOW_EXCEEDED: CloseCode.RATE_LIMITED,
        ErrorCode.DUPLICATE_IDENTITY: CloseCode.DUPLICATE_IDENTITY,
    }
