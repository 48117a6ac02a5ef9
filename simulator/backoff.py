"""How long an agent waits before it dials again, and why.

The rules are the protocol's (docs/protocol.md, close codes): the range of the close code tells whether to come back,
jitter keeps a fleet from coming back as one.
"""

from collections.abc import Callable
from dataclasses import dataclass

from server.protocol.close_codes import CloseCode, may_reconnect

STEADY_SECONDS = 60.0
"""A connection that lasted this long clears the record of failures; a shorter one does not, or a server that closes
right after accepting would be dialled in a hot loop."""
OVERLOAD_SECONDS = 30.0
DRAIN_SECONDS = 10.0
"""Spread after a 1012 without a `drain` before it."""
TAKEOVER_SECONDS = 5.0
"""Shortest time between two dials that `token_expiring` asks for."""
_MAX_RETRY_AFTER_SECONDS = 3600.0
_MAX_EXPONENT = 6
_MAX_SPREAD_SECONDS = 60.0
_OVERLOADED = (429, 503)
_REFUSED_FOR_GOOD = (401, 403)


@dataclass(slots=True)
class Backoff:
    """The record of one agent's failures.

    Args:
        random: a number in [0, 1), each call another.
        refused_seconds: shortest and longest pause after a refusal for good (45xx, 401, 403).
    """

    random: Callable[[], float]
    refused_seconds: tuple[float, float] = (300.0, 600.0)
    _failures: int = 0
    _token_renewed: bool = False

    def after_refusal(self, status: int | None, retry_after_seconds: float | None = None) -> float:
        """Seconds to wait after a handshake that failed with this HTTP status; None: there was no answer."""
        if status in _OVERLOADED:
            return self._overload(retry_after_seconds)
        if status in _REFUSED_FOR_GOOD:
            return self._long()
        return self._next()

    def after_close(
        self, code: int, *, by_peer: bool, connected_seconds: float, drain_seconds: float | None = None
    ) -> float | None:
        """Seconds to wait after a connection ended; None: do not come back.

        Args:
            code: the close code.
            by_peer: whether the server closed; a close of our own is a failure like any other.
            connected_seconds: how long the connection lasted.
            drain_seconds: of the last `drain`, if there was one.
        """
        if connected_seconds >= STEADY_SECONDS:
            self._failures = 0
            self._token_renewed = False
        if not by_peer:
            # After a `drain` a connection that merely broke is that server's end too.
            return self._next() if drain_seconds is None else self.random() * drain_seconds
        if code == CloseCode.TOKEN_EXPIRED and not self._token_renewed:
            self._token_renewed = True
            return 0.0
        if code == CloseCode.TRY_AGAIN_LATER:
            return self._overload(None)
        if code == CloseCode.NORMAL:
            return None
        if not may_reconnect(code):
            return self._long()
        if code == CloseCode.SERVICE_RESTART or drain_seconds is not None:
            return self.random() * (DRAIN_SECONDS if drain_seconds is None else drain_seconds)
        return self._next()

    def _next(self) -> float:
        spread = min(_MAX_SPREAD_SECONDS, float(2**self._failures))
        self._failures = min(self._failures + 1, _MAX_EXPONENT)
        return 0.5 + self.random() * spread

    def _overload(self, retry_after_seconds: float | None) -> float:
        self._next()  # it counts as a failure
        if retry_after_seconds is not None:  # the server spreads those whom it turns away
            return min(retry_after_seconds, _MAX_RETRY_AFTER_SECONDS) + self.random()
        return OVERLOAD_SECONDS + self.random() * OVERLOAD_SECONDS

    def _long(self) -> float:
        shortest, longest = self.refused_seconds
        return shortest + self.random() * (longest - shortest)
