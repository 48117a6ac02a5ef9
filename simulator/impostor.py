"""Somebody who dials as an agent that is connected already: another machine with its token, or a copy of the agent itself.

It says hello, and goes as soon as it is welcomed: it sends no row, so whatever the server thinks of it, no row is another's.
"""

from collections import Counter

from server.protocol.close_codes import CloseCode
from server.protocol.codec import FrameError, decode_agent_command, encode
from server.protocol.messages import Hello, Welcome
from simulator.link import Link
from simulator.services import Services, Timer

ANSWER_SECONDS = 10.0
"""Deadline of the server's answer to its hello."""


class Impostor:
    """The session of one such dial.

    Args:
        hello: what it says.
        refusal: the close code that the server owes it.
        counts: gets `dialled`, `refused`, `welcomed`, and `otherwise` for any other end.
        services: the fleet.
    """

    def __init__(self, hello: Hello, refusal: CloseCode, counts: Counter[str], services: Services) -> None:
        self._hello, self._refusal, self._counts, self._services = hello, refusal, counts, services
        self._link: Link | None = None
        self._deadline: Timer | None = None
        self._welcomed = False

    def abort(self) -> None:
        """Cut its connection, if it has one."""
        if self._link is not None:
            self._link.abort()

    def failed(self, status: int | None, retry_after_seconds: float | None) -> None:
        """The handshake was refused."""
        del status, retry_after_seconds
        self._counts["otherwise"] += 1

    def on_open(self, link: Link) -> None:
        """See `Session`."""
        self._link = link
        self._counts["dialled"] += 1
        self._deadline = self._services.call_later(ANSWER_SECONDS, link.abort)
        link.send(encode(self._hello))

    def on_frame(self, link: Link, data: bytes) -> None:
        """See `Session`."""
        try:
            message = decode_agent_command(data)
        except FrameError:
            return
        if isinstance(message, Welcome):
            self._welcomed = True
            self._counts["welcomed"] += 1
            link.close(CloseCode.NORMAL, "an impostor")

    def on_close(self, link: Link, code: int, reason: str, *, by_peer: bool) -> None:
        """See `Session`."""
        del link, reason
        self._link = None
        if self._deadline is not None:
            self._deadline.cancel()
        if by_peer and code == self._refusal:
            self._counts["refused"] += 1
        elif not self._welcomed:
            self._counts["otherwise"] += 1
