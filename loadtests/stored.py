"""Holds what came to a browser against what is stored: nothing that was watched may be lost without a word."""

import time
from collections.abc import Callable
from typing import TypeVar

from loadtests.answers import Chart, json_lines
from loadtests.api import Api
from loadtests.received import Place
from loadtests.recorded import Measurements
from loadtests.tab import Tab

LATER_SECONDS = 3.0
"""A sample that a full outbox had no room for is replaced by the next one: so long a newer one is waited for."""

T = TypeVar("T")


class Turnstile:
    """Lets at most so many through in a second: to look at what is stored is load, too.

    Args:
        per_second: of them.
    """

    def __init__(self, per_second: float) -> None:
        self._period = 1 / per_second
        self._next = 0.0

    def passes(self) -> bool:
        """Whether there is room for one now."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._period
        return True


class StoredCheck:
    """The check of one browser, after a visit.

    Stored lines and samples are read first, then a heartbeat is sent: what is stored was told to subscribers before it was
    committed, and the echo comes after everything that was told before it. So when the echo is there, the lines must be, or
    stand in a gap, and the samples must be, or newer ones in their place.

    Args:
        api: of the user.
        measurements: told of what is lost.
        turnstile: of all browsers of the process.
        look_back_seconds: at most so much of the past is looked at; retention must not have taken it.
    """

    def __init__(self, api: Api, measurements: Measurements, turnstile: Turnstile, look_back_seconds: float) -> None:
        self._api = api
        self._measurements = measurements
        self._turnstile = turnstile
        self._look_back_us = round(look_back_seconds * 1e6)

    def check(self, tab: Tab, container: str, *, closed: bool = False) -> None:
        """Check the log and the samples of a container.

        Args:
            tab: that watched them.
            container: its id.
            closed: whether the server has closed the tab, and so said itself that there is more than what came.

        Raises:
            LiveClosedError, TimeoutError: the socket ended before the check did.
        """
        log, topic = f"logs:{container}", f"container:{container}"
        log_us, samples_us = tab.watch.received.begins_us(log, topic)
        if (log_us is None and samples_us is None) or not self._turnstile.passes():
            return

        def beside(load: Callable[[], T]) -> T:
            return load() if closed else tab.fetch(load)

        lines = None if log_us is None else beside(lambda: self._lines(tab, container, log_us))
        chart = None if samples_us is None or closed else beside(lambda: self._chart(tab, container, samples_us))
        if not closed:
            tab.settle()
        if lines is not None:
            self._compare_lines(tab, log, lines, closed=closed)
        overtaken = 0 if chart is None else self._compare_samples(tab, topic, chart)
        if lines is not None or chart is not None:
            self._measurements.checked(overtaken)

    def _compare_lines(self, tab: Tab, log: str, lines: list[Place], *, closed: bool) -> None:
        received = tab.watch.received
        if closed:
            last = received.last_line(log)
            lines = [place for place in lines if last is not None and place <= last]
        count, first = received.lost_lines(log, lines)
        if count:
            detail = f"{count} lines in {log}, the first of those that did not come at {first}"
            self._measurements.failure("lost_line", detail)

    def _compare_samples(self, tab: Tab, topic: str, chart: Chart) -> int:
        """How many were overtaken."""
        step_us = round(chart.step_seconds * 1e6)

        def behind() -> tuple[int, int]:
            return tab.watch.received.lost_samples(topic, chart.at, chart.samples, step_us)

        overtaken, newest_us = behind()
        if newest_us:
            tab.read(LATER_SECONDS, until=lambda: not behind()[1])
            overtaken, newest_us = behind()
        if newest_us:
            self._measurements.failure("lost_sample", f"{topic}: nothing since {newest_us}, where a sample is stored")
        return overtaken

    def _lines(self, tab: Tab, container: str, since_us: int) -> list[Place] | None:
        answer = self._api.send(
            "GET", f"/api/containers/{container}/logs", expect=(200,),
            name="/api/containers/[id]/logs (check)",
            params={"since": max(since_us, tab.server_us() - self._look_back_us), "format": "json"},
        )  # fmt: skip
        if answer.status != 200:
            return None
        try:
            return [(line.at, line.line) for line in json_lines(answer.body)]
        except ValueError as error:
            self._measurements.failure("bad_answer", f"log of container {container}: {error}", medium="API")
            return None

    def _chart(self, tab: Tab, container: str, since_us: int) -> Chart | None:
        now = tab.server_us()
        return self._api.get(
            f"/api/containers/{container}/metrics", Chart, "/api/containers/[id]/metrics (check)",
            params={"from": min(max(since_us, now - self._look_back_us), now - 1), "to": now, "merge": "container"},
        )  # fmt: skip
