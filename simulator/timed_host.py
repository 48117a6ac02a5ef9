"""A host that knows how much CPU time its rows took to make."""

import time
from typing import Any

from server.protocol.messages import Log, Metric
from simulator.host import FakeHost
from simulator.load import OwnLoad


class TimedHost(FakeHost):
    """The same rows; each call is timed by the thread's CPU clock, whose two readings cost 1 us.

    Args:
        load: where the time is added up, as `generation_seconds`.
        values: see `FakeHost`.
    """

    __slots__ = ("_load",)

    def __init__(self, load: OwnLoad, **values: Any) -> None:
        super().__init__(**values)
        self._load = load

    def metrics(self, tick: int) -> tuple[Metric, ...]:
        """See `FakeHost`."""
        begun = time.thread_time()
        made = super().metrics(tick)
        self._load.generation_seconds += time.thread_time() - begun
        return made

    def metrics_of(self, ticks: range) -> list[tuple[Metric, ...]]:
        """See `FakeHost`."""
        begun = time.thread_time()
        made = super().metrics_of(ticks)
        self._load.generation_seconds += time.thread_time() - begun
        return made

    def logs(self, tick: int) -> tuple[Log, ...]:
        """See `FakeHost`."""
        if not self._log_lines:
            return ()
        begun = time.thread_time()
        made = super().logs(tick)
        self._load.generation_seconds += time.thread_time() - begun
        return made
