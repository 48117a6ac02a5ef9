"""Holds what came to a browser against what is stored: nothing that was watched may be lost without a word."""

import time
from collections.abc import Callable
from typing import TypeVar

from loadtests.answers import Chart, json_lines
from loadtests.api import Api
from loadtests.received import HeldSamples, Place
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
    committed, and the echo comes after everything that was told before it. So when the echo is there, lines and samples must
    be, or stand in a gap; only of the newest sample it may be that no gap has told yet, as long as a newer one comes.

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
        lines_us = tab.watch.received.first_line_us(log)
        samples_us = None if closed else tab.watch.received.first_sample_us(topic, container)
        if (lines_us is None and samples_us is None) or not self._turnstile.passes():
            return

        def beside(load: Callable[[], T]) -> T:
            return load() if closed else tab.fetch(load)

        lines = None if lines_us is None else beside(lambda: self._lines(tab, container, lines_us))
        chart = None if samples_us is None else beside(lambda: self._chart(tab, container, samples_us))
        if not closed:
            tab.settle()
        if lines is not None:
            self._compare_lines(tab, log, lines, closed=closed)
        self._conclude(
            None if chart is None else self._compare_samples(tab, topic, container, chart), lines is not None
        )

    def check_samples(self, tab: Tab, topic: str, container: str) -> None:
        """Check the samples of a container in a topic that shows several.

        Raises:
            LiveClosedError, TimeoutError: the socket ended before the check did.
        """
        since_us = tab.watch.received.first_sample_us(topic, container)
        if since_us is None or not self._turnstile.passes():
            return
        chart = tab.fetch(lambda: self._chart(tab, container, since_us))
        tab.settle()
        self._conclude(None if chart is None else self._compare_samples(tab, topic, container, chart))

    def _conclude(self, samples: HeldSamples | None, lines: bool = False) -> None:
        """Record what was compared; None: no samples were."""
        if lines or samples is not None:
            found = samples or HeldSamples()
            self._measurements.checked(found.held, found.overtaken)

    def _compare_lines(self, tab: Tab, log: str, lines: list[Place], *, closed: bool) -> None:
        received = tab.watch.received
        if closed:
            last = received.last_line(log)
            lines = [place for place in lines if last is not None and place <= last]
        count, first = received.lost_lines(log, lines)
        if count:
            detail = f"{count} lines in {log}, the first of those that did not come at {first}"
            self._measurements.failure("lost_line", detail)

    def _compare_samples(self, tab: Tab, topic: str, container: str, chart: Chart) -> HeldSamples:
        step_us = round(chart.step_seconds * 1e6)

        def hold() -> HeldSamples:
            return tab.watch.received.held_samples(topic, container, chart.at, chart.samples, step_us)

        found = hold()
        if found.behind_us:
            tab.read(LATER_SECONDS, until=lambda: not hold().behind_us)
            found = hold()
        what = f"container {container} in {topic}"
        if found.behind_us and found.undeclared:
            self._measurements.failure("lost_sample", f"{what}: nothing since {found.behind_us}, where one is stored")
        elif found.undeclared:
            detail = (
                f"{what}: {found.undeclared} of {found.held} samples, the first within {step_us} us of {found.first_us}"
            )
            self._measurements.failure("undeclared_sample", detail)
        return found

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
