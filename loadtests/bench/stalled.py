"""Neighbours of the receivers that stop reading.

One reads until it has its snapshots, fills the way to it and stops. After `STALL_SECONDS` it reads on to learn what became
of it, leaves, and comes again.
"""

import asyncio
import math
import socket
from collections import Counter
from dataclasses import dataclass, field

import picows
from picows.url import WSParsedURL

from loadtests.bench.live_listener import ASKS_AT_ONCE, LiveListener, open_live
from loadtests.bench.receivers_plan import Neighbour
from server.protocol.codec import decode_live_event
from server.protocol.messages import Error, Snapshot, Subscribe, Unsubscribe

FILL_SECONDS = 2.0
"""Over which the way to a neighbour is filled: all at once it would be a burst of its own, which nobody asked about."""
STALL_SECONDS = 14.0
"""From then on. The server gives up on a socket that takes nothing for 5 s, and then waits 2 s for its answer; what the kernel
holds fills only bit by bit. With 8 s most were not given up yet."""
FATE_SECONDS = 2.0
"""After a stall: how long a neighbour reads to see whether it was closed."""
FILL_BYTES = 320 * 1024
"""More than the kernel and the server's transport hold of a connection with the two options below."""
SEGMENT_BYTES, RECEIVE_BYTES = 1460, 4096
"""As over Ethernet, and the smallest that Linux gives. With loopback's own sizes the kernel holds 4 MB for a socket that reads
nothing, and the server would not notice it for minutes."""
_SPARE_ASKS = 20
REDIAL_SECONDS = 1.0


@dataclass(slots=True)
class Stalls:
    """How often neighbours stopped reading, and what they found when they read on."""

    count: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    """By close code; 1006: the connection had ended without one, `open`: it stood, `refused`: it could not be made."""


class Stalled(LiveListener):
    """A neighbour that stops reading once it has its snapshots."""

    def __init__(self, plan: Neighbour) -> None:
        super().__init__([*plan.topics, plan.host])
        self._host = plan.host
        self._snapshot_bytes = 1

    def take(self, data: bytes) -> None:
        """Only the first snapshots count."""
        if self.answered.done():
            return
        event = decode_live_event(data)
        if isinstance(event, Snapshot):
            if event.topic == self._host:
                self._snapshot_bytes = len(data)
            self.answer(event.topic)
        elif isinstance(event, Error):
            self.fail(f"the server answered {event.code}: {event.message}")

    async def stall(self) -> None:
        """Stop reading, and ask for so much, little by little, that nothing more fits on the way here."""
        if self._transport is None or not self.stands:
            return
        self._transport.underlying_transport.pause_reading()
        left = max(0, ASKS_AT_ONCE - len(self._topics) - _SPARE_ASKS)
        asks = min(math.ceil(FILL_BYTES / self._snapshot_bytes), left)
        for _ in range(asks):
            self.send(Subscribe(topics=(self._host,)))
            await asyncio.sleep(FILL_SECONDS / asks)
        self.send(Unsubscribe(topics=(self._host,)))

    async def fate(self) -> str:
        """Read on: the close code, or `open`."""
        if self._transport is not None and self.stands:
            self._transport.underlying_transport.resume_reading()
        try:
            async with asyncio.timeout(FATE_SECONDS):
                return str(await asyncio.shield(self.ended))
        except TimeoutError:
            return "open"


async def narrow_socket(url: WSParsedURL) -> socket.socket:
    """A connection on which little can wait."""
    narrow = socket.socket()
    try:
        narrow.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        narrow.setblocking(False)
        await asyncio.get_running_loop().sock_connect(narrow, (url.host, url.port))
    except BaseException:
        narrow.close()
        raise
    return narrow


async def stall_for_ever(neighbour: Neighbour, url: str, token: str, stalls: Stalls, after_seconds: float) -> None:
    """Come, stall, leave, and again, until cancelled.

    Args:
        neighbour: what it asks for.
        url: the server's http address.
        token: of a user.
        stalls: counts.
        after_seconds: when it comes first.
    """
    await asyncio.sleep(after_seconds)
    while True:
        live = Stalled(neighbour)
        try:
            await open_live(live, url, token, narrow_socket)
            stalls.count += 1
            await live.stall()
            await asyncio.sleep(STALL_SECONDS)
            stalls.ends[await live.fate()] += 1
        except (OSError, picows.WSError, TimeoutError):
            stalls.ends["refused"] += 1
            await asyncio.sleep(REDIAL_SECONDS)
        finally:
            live.leave()
