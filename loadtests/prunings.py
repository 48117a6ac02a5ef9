"""When the server pruned, how much each pruning removed, and the quiet time around it, as its /metrics tell."""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import dropwhile, pairwise
from typing import NamedTuple

from loadtests.measure import Latency
from loadtests.scrape import Sample
from loadtests.timed import Timed, Window

BEGUN, ENDED = "seatrial_prune_begun_timestamp_seconds", "seatrial_prune_ended_timestamp_seconds"
ROWS_PRUNED = ("seatrial_metric_rows_pruned_total", "seatrial_log_rows_pruned_total")
MOST = 10_000
"""Prunings that are remembered, the newest ones."""


class Pruning(NamedTuple):
    """One that is over."""

    window: Window
    rows: float
    """Samples and log lines that it removed."""


class Prunings:
    """Learns from one scrape after the other; a pruning is seen if a scrape falls between its end and the next one's begin."""

    def __init__(self) -> None:
        self.done: deque[Pruning] = deque(maxlen=MOST)
        self._ended_us = 0
        self._rows = 0.0

    def update(self, counters: Sample) -> None:
        """Take what the server says now."""
        begun_us, ended_us = (round(counters.get((name, ""), 0.0) * 1e6) for name in (BEGUN, ENDED))
        if not ended_us:
            self._rows = 0.0  # a server that has just been started counts from zero
        elif begun_us <= ended_us != self._ended_us:
            rows = sum(counters.get((name, ""), 0.0) for name in ROWS_PRUNED)
            self.done.append(Pruning(Window(begun_us, ended_us), max(0.0, rows - self._rows)))
            self._ended_us, self._rows = ended_us, rows


def quiet_around(prunings: Sequence[Pruning]) -> list[tuple[Pruning, tuple[Window, Window]]]:
    """Each pruning that has one before and one after it, with the quiet time on both sides.

    Each side reaches half way to the neighbour. So no quiet moment counts for two prunings, and a machine that becomes slower
    or faster meanwhile weighs on a pruning and on the quiet around it alike.

    Args:
        prunings: in their order.
    """
    found = []
    for before, this, after in zip(prunings, prunings[1:], prunings[2:], strict=False):
        (begun_us, ended_us) = this.window
        quiet = (
            Window((before.window.until_us + begun_us) // 2, begun_us),
            Window(ended_us, (ended_us + after.window.from_us) // 2),
        )
        found.append((this, quiet))
    return found


def latencies(prunings: Sequence[Pruning], times: Timed) -> tuple[Latency, Latency]:
    """What was due while the server pruned, and between; a second that a pruning touches is the pruning's.

    From the first pruning that removed anything to the last one: before it the window was not full.

    Raises:
        ValueError: a histogram cannot be read.
    """
    steady = list(dropwhile(lambda pruning: not pruning.rows, prunings))
    return times.between([p.window for p in steady], whole=False), times.between(quiet_between(steady))


def quiet_between(prunings: Iterable[Pruning]) -> list[Window]:
    """From each pruning's end to the next one's begin."""
    return [Window(a.window.until_us, b.window.from_us) for a, b in pairwise(prunings)]
