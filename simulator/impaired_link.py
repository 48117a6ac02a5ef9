"""A link that can be made to fail on purpose: it stands between an agent and the link of a transport.

As long as nothing is wrong with it, it hands everything on. What waits in it is bounded like the buffer of a socket.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from server.protocol.close_codes import CloseCode
from server.protocol.codec import decode_agent_command
from server.protocol.messages import TokenExpiring
from simulator.link import CLOSE_SECONDS, MAX_BUFFERED_BYTES, Link, Session


class Watcher(Protocol):
    """Who may make links fail."""

    def opened(self, link: "ImpairedLink") -> None:
        """A link opened; the agent has not heard of it yet."""

    def closed(self, link: "ImpairedLink", code: int, *, by_peer: bool) -> None:
        """It is gone; the agent has not heard of it yet."""


class Striker(Protocol):
    """What strikes links."""

    @property
    def refusal(self) -> CloseCode | None:
        """The close code that the server owes a link that it struck; None: none."""


class SlowWay:
    """One direction of a slow link: frames leave in order, each when it would have come through.

    Args:
        bytes_per_second: that it carries.
        latency_seconds: that each frame takes besides.

    Attributes:
        waiting_bytes: of frames that have not come through.
        frames: that were delayed.
    """

    __slots__ = ("_busy_until", "_latency", "_loop", "_rate", "_timer", "_waiting", "frames", "waiting_bytes")

    def __init__(self, bytes_per_second: int, latency_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._rate, self._latency = bytes_per_second, latency_seconds
        self._busy_until = 0.0
        self._waiting: deque[tuple[float, int, Callable[[], None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.waiting_bytes = self.frames = 0

    def put(self, size_bytes: int, deliver: Callable[[], None]) -> None:
        """Let something of this size through, later."""
        self._busy_until = max(self._loop.time(), self._busy_until) + size_bytes / self._rate
        self._waiting.append((self._busy_until + self._latency, size_bytes, deliver))
        self.waiting_bytes += size_bytes
        self.frames += 1
        if self._timer is None:
            self._wait()

    def rush(self) -> None:
        """Let all through that waits, now."""
        self._deliver(until=float("inf"))

    def clear(self) -> None:
        """Lose what waits."""
        self._waiting.clear()
        self.waiting_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._timer = self._loop.call_at(self._waiting[0][0], self._due)

    def _due(self) -> None:
        self._timer = None
        self._deliver(until=self._loop.time())
        if self._waiting and self._timer is None:
            self._wait()

    def _deliver(self, until: float) -> None:
        # What it delivers may put more behind, or clear it.
        while self._waiting and self._waiting[0][0] <= until:
            _, size_bytes, deliver = self._waiting.popleft()
            self.waiting_bytes -= size_bytes
            deliver()


class ImpairedLink:
    """A link of an agent that faults strike; `Link` to the agent, `Session` to the transport.

    Args:
        agent: number of the agent.
        session: the agent.
        watcher: hears of its beginning and its end.

    Attributes:
        lost_frames: that the agent sent and that never left.
        unread_frames: that came while the agent did not read, and wait for it.
        ignores_expiry: whether the agent is not told that its token expires.
        struck_by: what struck it, the newest last.
    """

    __slots__ = (
        "_down", "_link", "_lost_bytes", "_session", "_silent", "_unread", "_up", "_watcher", "agent", "closing",
        "ignores_expiry", "lost_frames", "struck_by",
    )  # fmt: skip

    def __init__(self, agent: int, session: Session, watcher: Watcher) -> None:
        self.agent = agent
        self._session, self._watcher = session, watcher
        self._link: Link | None = None
        self._silent = False
        self._lost_bytes = 0
        self._unread: list[bytes] | None = None
        self._up: SlowWay | None = None
        self._down: SlowWay | None = None
        self.closing = False
        self.lost_frames = 0
        self.ignores_expiry = False
        self.struck_by: list[Striker] = []

    def blamed(self, code: int) -> Striker | None:
        """What struck it that the server answers with this close code; of several the newest."""
        return next((striker for striker in reversed(self.struck_by) if striker.refusal == code), None)

    # ------------------------------------------------------------ what makes it fail, and well again

    def silence(self) -> None:
        """From now on it is half-open: nothing comes through either way, for good."""
        self._silent = True
        self._stop_reading()

    @property
    def silent(self) -> bool:
        """Whether it is half-open."""
        return self._silent

    def stop_reading(self) -> None:
        """Let what comes lie, until `read_again`."""
        self._unread = []
        self._stop_reading()

    def read_again(self) -> None:
        """Read, and first what came meanwhile."""
        unread, self._unread = self._unread, None
        for data in unread or ():
            self.on_frame(self._link, data)
        if self._link is not None and not self._silent:
            self._link.resume_reading()

    def slow_down(self, bytes_per_second: int, latency_seconds: float) -> None:
        """Carry so much from now on, so late, each way."""
        self._up = SlowWay(bytes_per_second, latency_seconds)
        self._down = SlowWay(bytes_per_second, latency_seconds)

    def speed_up(self) -> int:
        """Carry everything at once again, and first what waits; returns how many frames had been slowed down."""
        up, down, self._up, self._down = self._up, self._down, None, None
        if up is None or down is None:
            return 0
        up.rush()
        down.rush()
        if self._link is not None and not self._silent:
            self._link.resume_reading()
        return up.frames + down.frames

    # ------------------------------------------------------------ what the agent calls

    @property
    def full(self) -> bool:
        """See `Link`. A half-open one takes what a buffer would take."""
        if self._link is None or self.closing:
            return True
        if self._silent:
            return self._lost_bytes > MAX_BUFFERED_BYTES
        return self._link.full or (self._up is not None and self._up.waiting_bytes > MAX_BUFFERED_BYTES)

    def send(self, data: bytes) -> None:
        """See `Link`."""
        link = self._link
        if link is None or self.closing:
            return
        if self._silent:
            self.lost_frames += 1
            self._lost_bytes += len(data)
        elif self._up is not None:
            self._up.put(len(data), partial(link.send, data))
        else:
            link.send(data)

    def pause_reading(self) -> None:
        """See `Link`."""
        self._stop_reading()

    def resume_reading(self) -> None:
        """See `Link`."""
        if self._link is not None:
            self._link.resume_reading()

    def close(self, code: int, reason: str = "") -> None:
        """See `Link`. On a half-open one nobody would answer."""
        link = self._link
        if link is None or self.closing:
            return
        self.closing = True
        if self._silent:
            link.abort()
        elif self._up is not None and self._up.waiting_bytes:
            self._up.put(0, partial(link.close, code, reason))
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, link.abort)
        else:
            link.close(code, reason)

    def abort(self) -> None:
        """See `Link`."""
        self.closing = True
        if self._link is not None:
            self._link.abort()

    # ------------------------------------------------------------ what the transport calls

    def on_open(self, link: Link) -> None:
        """See `Session`."""
        self._link = link
        self._watcher.opened(self)
        self._session.on_open(self)

    def on_frame(self, link: Link | None, data: bytes) -> None:
        """See `Session`."""
        del link
        if self._silent:
            return
        if self._unread is not None:
            self._unread.append(data)
        elif self._down is not None:
            self._down.put(len(data), partial(self._arrived, self._down, data))
            if self._down.waiting_bytes > MAX_BUFFERED_BYTES:
                self._stop_reading()
        else:
            self._hand_on(data)

    def on_close(self, link: Link, code: int, reason: str, *, by_peer: bool) -> None:
        """See `Session`."""
        del link
        for way in (self._up, self._down):
            if way is not None:
                way.clear()
        self._link = None
        self._watcher.closed(self, code, by_peer=by_peer)
        # The agent knows that no batch of its own was too big: it need not look for one to drop.
        blamed = code == CloseCode.MESSAGE_TOO_BIG and self.blamed(code) is not None
        self._session.on_close(self, code, reason, by_peer=by_peer and not blamed)

    def _arrived(self, way: SlowWay, data: bytes) -> None:
        if way.waiting_bytes <= MAX_BUFFERED_BYTES and self._link is not None and self._unread is None:
            self._link.resume_reading()
        self._hand_on(data)

    def _hand_on(self, data: bytes) -> None:
        if (
            self.ignores_expiry
            and b'"token_expiring"' in data
            and isinstance(decode_agent_command(data), TokenExpiring)
        ):
            return
        self._session.on_frame(self, data)

    def _stop_reading(self) -> None:
        if self._link is not None:
            self._link.pause_reading()
