"""A browser's tab: one live socket, read all the time while its user looks, thinks or loads something."""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from math import inf
from typing import Generic, TypeVar

from loadtests.api import Api, Ticket
from loadtests.measure import ClockOffset, now_us
from loadtests.received import Place, Received
from loadtests.recorded import Measurements
from loadtests.watch import Watch
from loadtests.ws_client import LiveRefusedError, LiveSocket
from server.protocol.messages import LiveHeartbeat, Pause, Position, Resume, Subscribe, Unsubscribe

HEARTBEAT_SECONDS = 5.0
SILENT_SECONDS = 10.0
"""Longest wait for the echo of a heartbeat."""
FETCH_SECONDS = 120.0
FETCH_POLL_SECONDS = 0.05
"""How often it is looked whether a page is loaded."""
SLOW_BUFFER_BYTES = 4096
"""The kernel keeps about so much for a slow browser, so that the server feels it."""
NO_HOSTS: Mapping[str, Collection[str]] = {}

T = TypeVar("T")


class Tab:
    """An open tab.

    Its methods raise LiveClosedError when the server closes the socket, and TimeoutError when it falls silent.

    Args:
        socket: the tab's own.
        watch: checks what comes.
        slow: whether an echo may take as long as it likes.
    """

    def __init__(self, socket: LiveSocket, watch: Watch, clock: ClockOffset, *, slow: bool = False) -> None:
        self._socket = socket
        self._slow = slow
        self._clock = clock
        self._beat_at = 0.0
        self._beaten_us = 0
        """When the oldest heartbeat without an echo was sent, by our clock; 0: there is none."""
        self._silent_at = 0.0
        self._sent_us = 0
        """When the newest heartbeat was sent, by our clock."""
        self.watch = watch
        self.read_bytes = 0
        """Of all messages that came."""

    def server_us(self) -> int:
        """The server's clock, as far as it is known, in Unix microseconds."""
        return now_us() + self._clock.microseconds

    # -- asking

    def subscribe(self, *topics: str, tail: int = 0, hosts: Mapping[str, Collection[str]] = NO_HOSTS) -> None:
        """Watch topics of `hosts`, which may be shown from now on with the containers known of them."""
        self._socket.send(Subscribe(topics=self.watch.ask(topics, hosts), tail=tail))

    def trespass(self, *topics: str) -> None:
        """Ask for topics that are another organisation's: each must be refused."""
        self._socket.send(Subscribe(topics=self.watch.expect_refusals(topics), tail=1))

    def unsubscribe(self, *topics: str) -> None:
        """Leave topics."""
        self._socket.send(Unsubscribe(topics=self.watch.leave(topics, now_us())))

    def pause(self, *topics: str) -> None:
        """Hold topics back."""
        self._socket.send(Pause(topics=self.watch.pause(topics, now_us())))

    def resume(self, *topics: str, since: Place | None = None) -> None:
        """Go on; a log from behind a place."""
        position = None if since is None else Position(at=since[0], line=since[1])
        self._socket.send(Resume(topics=self.watch.resume(topics, since), since=position))

    # -- reading

    def read(self, seconds: float, until: Callable[[], bool] | None = None, poll_seconds: float = inf) -> None:
        """Read for `seconds`, with a heartbeat every 5 s.

        Args:
            seconds: how long at most.
            until: ends it; looked at after each message.
            poll_seconds: looked at so often without one, too.
        """
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end and not (until and until()):
            self._beat(now)
            self._take(min(end, self._beat_at, now + poll_seconds) - now)

    def read_slowly(self, seconds: float, bytes_per_second: float) -> None:
        """Read for `seconds`, at most so many bytes in each."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            self._beat(now)
            if size := self._take(min(end, self._beat_at) - now):
                time.sleep(min(size / bytes_per_second, max(0.0, end - time.monotonic())))

    def settle(self) -> None:
        """Read until the echo of a heartbeat that is sent now: everything that the server told before has come then.

        Raises:
            TimeoutError: there was none in time.
            LiveClosedError: the socket is closed.
        """
        self._beat_at = 0.0
        self._beat(time.monotonic())
        sent_us = self._sent_us
        self.read(SILENT_SECONDS, until=lambda: self.watch.echoed_us >= sent_us)
        if self.watch.echoed_us < sent_us:
            raise TimeoutError(_silent())

    def fetch(self, load: Callable[[], T]) -> T:
        """Load a page while the socket is read: what comes meanwhile must not look late.

        Raises:
            TimeoutError: it takes too long, or the server fell silent.
            Exception: what `load` raised.
        """
        loading = _Loading(load)
        self.read(FETCH_SECONDS, loading.done, FETCH_POLL_SECONDS)
        return loading.result()

    # -- leaving

    def close(self) -> None:
        """Leave in order."""
        self._socket.close()

    def cut(self) -> None:
        """Lose the connection."""
        self._socket.cut()

    # -- parts

    def _beat(self, now: float) -> None:
        """Send a heartbeat if one is due, and notice when one was not echoed."""
        if self._beaten_us and self.watch.echoed_us >= self._beaten_us:
            self._beaten_us = 0
        if self._beaten_us and now >= self._silent_at and not self._slow:
            raise TimeoutError(_silent())
        if now < self._beat_at:
            return
        self._sent_us = now_us()
        self._socket.send(LiveHeartbeat(at=self._sent_us))
        self._beat_at = now + HEARTBEAT_SECONDS
        if not self._beaten_us:
            self._beaten_us, self._silent_at = self._sent_us, now + SILENT_SECONDS

    def _take(self, seconds: float) -> int:
        """Take in the next message; its bytes, 0: none came in time."""
        try:
            frame = self._socket.receive(max(seconds, 0.001))
        except TimeoutError:
            return 0
        self.read_bytes += len(frame)
        self.watch.receive(frame, now_us())
        return len(frame)


class _Loading(Generic[T]):
    """Something that is done beside: in a thread, which under gevent is a greenlet."""

    def __init__(self, load: Callable[[], T]) -> None:
        self._load = load
        self._found: list[T] = []
        self._error: BaseException | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._work, daemon=True).start()

    def done(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    def result(self) -> T:
        """What it found.

        Raises:
            TimeoutError: it has not ended.
            Exception: its own.
        """
        if self._error is not None:
            raise self._error
        if not self._ended.is_set():
            raise TimeoutError(f"a page was not loaded within {FETCH_SECONDS:g} s")
        return self._found[0]

    def _work(self) -> None:
        try:
            self._found.append(self._load())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._error = error
        finally:
            self._ended.set()


def open_tab(
    api: Api, host: str, measurements: Measurements, received: Received | None = None, *, slow: bool = False
) -> Tab | None:
    """Open a live socket with a new ticket; None: it did not open, which is recorded.

    Args:
        api: of the user, who asks for the ticket.
        host: the server's http(s) address.
        measurements: told of what comes.
        received: what came over connections before.
        slow: whether the server shall soon feel that it is not read.
    """
    answer = api.send("POST", "/api/live-tickets", expect=(201,))
    ticket = api.read(answer, Ticket, "/api/live-tickets")
    if ticket is None:
        return None
    try:
        socket = LiveSocket(host, ticket.ticket, receive_buffer_bytes=SLOW_BUFFER_BYTES if slow else None)
    except LiveRefusedError as refused:
        measurements.failure("refused", str(refused))
        return None
    measurements.visit()
    clock = ClockOffset()
    return Tab(socket, Watch(measurements, clock, received, slow=slow, tenant=api.identity.tenant), clock, slow=slow)


def _silent() -> str:
    return f"no echo of a heartbeat within {SILENT_SECONDS:g} s"
