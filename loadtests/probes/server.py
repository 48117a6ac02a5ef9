"""The server's /metrics and its readiness, as time series."""

import asyncio
import math
import time
from http import HTTPStatus

from loadtests.measure import Latency, Series, now_us
from loadtests.probes.catalogue import SERVER_COUNTERS, SERVER_GAUGES
from loadtests.probes.looks import Looks, Rates
from loadtests.prunings import ROWS_PRUNED, Prunings
from loadtests.scrape import SOCKETS_CLOSED, Sample, Totals, scrape, status

ROWS = ("seatrial_metric_rows_stored_total", "seatrial_log_rows_stored_total")
PRUNE_SECONDS = "seatrial_prune_seconds_sum"
FLUSHES = "seatrial_flush_seconds"
_STORED = "insert_rows_per_second"


class ServerProbe:
    """Reads `/metrics` and `/readyz`; a server that does not answer leaves a gap.

    Not so in rates: once it answers again, what its counters rose by belongs to the whole hole, so the hole gets a point
    for each second, all with the same rate. A mean of the points is then one over time.

    Totals count from `prepare`, or from the first answer after it: a server may have served others before.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._totals = Totals((*ROWS, *(family for _, family in SERVER_COUNTERS.values()), f"{FLUSHES}_count"))
        self._begun = False
        """Whether the totals have their beginning."""
        self._rates = Rates()
        self._counted_at = 0.0
        """Monotonic time of the last look that saw the counters."""
        self._pruned_before = (0.0, 0.0)
        self._looked_at = time.monotonic()
        self._flushed_before: dict[float, int] = {}
        """Flushes of the warm-up, by the upper bound of their bucket."""
        self.looks = Looks(probe="server")
        self.prunings = Prunings()
        self.series = {
            name: Series() for name in (
                _STORED, "prune_rows_per_second", "prune_duration_s", *SERVER_GAUGES, *SERVER_COUNTERS,
            )
        }  # fmt: skip
        self.unready_seconds = 0.0
        """For how long /readyz said 503."""

    async def prepare(self) -> None:
        """Read what the server counted before the load. One that does not answer is read at the first look that it answers."""
        counters = await scrape(f"{self._url}/metrics")
        if counters is not None:
            self._begin(counters)

    async def look(self) -> None:
        """Look once."""
        counters, ready = await asyncio.gather(scrape(f"{self._url}/metrics"), status(f"{self._url}/readyz"))
        if counters is None:
            self.looks.failed("/metrics did not answer in time")
        else:
            self.looks.good()
            self._count(counters)
        self._judge_readiness(ready)

    def ended(self) -> None:
        """The server's process is gone: the next one counts from zero."""
        self._totals.restarted()

    def total(self, name: str) -> float:
        """One of the server's counters since `prepare`, over all its processes, as far as they were scraped."""
        return self._totals.value(name)

    def live_closed(self, code: int) -> float:
        """Live sockets that ended with a code since `prepare`, by the server's own count."""
        return self._totals.value(SOCKETS_CLOSED, f"live {code}")

    def warmed_up(self) -> None:
        """Flushes so far belong to the warm-up."""
        self._flushed_before = dict(self._totals.buckets(FLUSHES))

    def flushes(self) -> Latency:
        """Durations of all flushes after the warm-up. Read from buckets a quarter apart, each told as its upper bound."""
        latency = Latency()
        bounds = self._totals.buckets(FLUSHES)
        largest = max((bound for bound, _ in bounds if not math.isinf(bound)), default=0.0)
        for bound, count in bounds:
            after = count - self._flushed_before.get(bound, 0)
            latency.record_us(round((largest if math.isinf(bound) else bound) * 1e6), max(0, after))
        return latency

    def _judge_readiness(self, status_code: int | None) -> None:
        """Count the time since the look before, if the server says now that it is not ready; silence says nothing."""
        now = time.monotonic()
        if status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            self.unready_seconds += now - self._looked_at
        self._looked_at = now

    def _see_pruning(self, counters: Sample) -> None:
        known = self.prunings.done[-1] if self.prunings.done else None
        self.prunings.update(counters)
        newest = self.prunings.done[-1] if self.prunings.done else None
        if newest is not None and newest is not known:
            begun_us, ended_us = newest.window
            self.series["prune_duration_s"].add(ended_us, (ended_us - begun_us) / 1e6)

    def _begin(self, counters: Sample) -> None:
        self._totals.begin(counters)
        self._begun = True

    def _count(self, counters: Sample) -> None:
        if self._begun:
            self._totals.update(counters)
        else:
            self._begin(counters)
        self._see_pruning(counters)
        now, at = time.monotonic(), now_us()
        for name, (_, family, factor) in SERVER_GAUGES.items():
            if (family, "") in counters:
                self.series[name].add(at, counters[family, ""] * factor)
        rows = sum(self._totals.value(name) for name in ROWS)
        totals = {name: self._totals.value(family) for name, (_, family) in SERVER_COUNTERS.items()}
        for name, rate in self._rates.take(now, totals | {_STORED: rows}).items():
            # Begins with the first row: a ramp is part of the run, an empty server is not.
            if name != _STORED or rows:
                self._add_rate(name, rate, at, now - self._counted_at)
        self._counted_at = now
        pruned = sum(self._totals.value(name) for name in ROWS_PRUNED)
        seconds = self._totals.value(PRUNE_SECONDS)
        if pruned > self._pruned_before[0] and seconds > self._pruned_before[1]:
            rate = (pruned - self._pruned_before[0]) / (seconds - self._pruned_before[1])
            self.series["prune_rows_per_second"].add(at, rate)
        self._pruned_before = (pruned, seconds)

    def _add_rate(self, name: str, rate: float, at: int, seconds: float) -> None:
        """A rate over the seconds until a time in Unix microseconds, as a point for each of them."""
        points = max(1, round(seconds))
        for left in reversed(range(points)):
            self.series[name].add(at - round(left * seconds / points * 1e6), rate)
