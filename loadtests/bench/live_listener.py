"""A live socket of the receivers: it dials, asks for its topics, and hands its messages to what becomes of it."""

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import picows
from picows.url import WSParsedURL

from server.protocol.codec import encode
from server.protocol.messages import LIVE_SUBPROTOCOL, LiveRequest, Subscribe

ASKS_AT_ONCE = 500
"""Topics that the server lets a socket ask for at once."""
TOPICS_PER_FRAME = 100
OPEN_SECONDS = 60.0
"""Longest wait for a connection and the snapshots of its topics."""
LOST = 1006

SocketFactory = Callable[[WSParsedURL], Awaitable[socket.socket]]


class LiveListener(picows.WSListener, ABC):
    """A live socket that asks for its topics.

    Attributes:
        answered: done when each topic had its snapshot.
        ended: the close code, once the connection is over.
    """

    def __init__(self, topics: list[str]) -> None:
        loop = asyncio.get_running_loop()
        self._topics = topics
        self._unanswered = set(topics)
        self._code = LOST
        self._transport: picows.WSTransport | None = None
        self.answered: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Ask."""
        self._transport = transport
        for start in range(0, len(self._topics), TOPICS_PER_FRAME):
            self.send(Subscribe(topics=tuple(self._topics[start : start + TOPICS_PER_FRAME])))

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Something came."""
        if frame.msg_type == picows.WSMsgType.TEXT and frame.fin:
            self.take(frame.get_payload_as_bytes())
        elif frame.msg_type == picows.WSMsgType.CLOSE:
            # Read from the bytes: picows' own enumeration has no application codes.
            self._code = int.from_bytes(frame.get_payload_as_bytes()[:2], "big") or LOST
            transport.disconnect()

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """It is over."""
        if not self.ended.done():
            self.ended.set_result(self._code)
        self.fail(f"the connection ended with {self._code} before every topic was answered")

    def send(self, request: LiveRequest) -> None:
        """Send a request, if the connection stands."""
        if self._transport is not None:
            self._transport.send(picows.WSMsgType.TEXT, encode(request))

    @abstractmethod
    def take(self, data: bytes) -> None:
        """A message came."""

    def answer(self, topic: str) -> None:
        """The snapshot of a topic came."""
        self._unanswered.discard(topic)
        if not self._unanswered and not self.answered.done():
            self.answered.set_result(None)

    def fail(self, why: str) -> None:
        """It will not be answered."""
        if not self.answered.done():
            self.answered.set_exception(ConnectionError(why))

    def leave(self) -> None:
        """End the connection at once."""
        if self._transport is not None and self.stands:
            self._transport.disconnect(graceful=False)

    @property
    def stands(self) -> bool:
        """Whether the connection is there."""
        return self._transport is not None and not self._transport.is_disconnected


async def open_live(live: LiveListener, url: str, token: str, socket_factory: SocketFactory | None = None) -> None:
    """Dial, and wait until every topic is answered.

    Args:
        live: gets the connection.
        url: the server's http address.
        token: of a user.
        socket_factory: makes the connection; None: as usual.

    Raises:
        OSError, picows.WSError, TimeoutError: it did not come to that.
    """
    async with asyncio.timeout(OPEN_SECONDS):
        await picows.ws_connect(
            lambda: live, f"ws://{urlsplit(url).netloc}/ws/live?token={token}",
            extra_headers={"Origin": url, "Sec-WebSocket-Protocol": LIVE_SUBPROTOCOL}, socket_factory=socket_factory,
        )  # fmt: skip
        await live.answered
