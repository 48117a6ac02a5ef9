"""What is looked at once a second while a run goes on: the server's counters and the database's tables."""

import asyncio
import logging
import math
import time
from http import HTTPStatus

from loadtests.database import AWAY, Reconnecting
from loadtests.measure import Latency, Series, now_us
from loadtests.scrape import Sample, Totals, scrape, status
from server.db.storage.base import Storage

_log = logging.getLogger(__name__)

ROWS = ("seatrial_metric_rows_stored_total", "seatrial_log_rows_stored_total")
PRUNED = ("seatrial_metric_rows_pruned_total", "seatrial_log_rows_pruned_total")
PRUNE_SECONDS = "seatrial_prune_seconds_sum"
FLUSHES = "seatrial_flush_seconds"


class Sampler:
    """Time series of the run, by the names of the catalogue.

    A server or a database that does not answer leaves a gap in them; nothing is filled in.

    Args:
        url: of the server.
        storage: the strategy that keeps the rows.
        database: the sampler's own; its deadline must be short, for nothing else is looked at meanwhile.
    """

    def __init__(self, url: str, storage: Storage, database: Reconnecting) -> None:
        self._url = url
        self._storage = storage
        self._database = database
        self._totals = Totals()
        self._before: tuple[float, float] | None = None
        """Monotonic time and rows stored at the sample before."""
        self._pruned_before = (0.0, 0.0)
        self.series = {
            name: Series()
            for name in (
                "insert_rows_per_second", "prune_rows_per_second", "table_bytes", "index_bytes", "dead_rows",
                "oldest_row_age_s",
            )
        }  # fmt: skip
        self.agents_connected = 0
        self.unready_seconds = 0.0
        """For how long /readyz said 503."""
        self._looked_at = time.monotonic()

    async def run(self) -> None:
        """Sample each second until cancelled. A database that does not answer costs its samples, not the run."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await self.sample()
            due = max(due + 1.0, loop.time())
            await asyncio.sleep(due - loop.time())

    async def sample(self) -> None:
        """Look once."""
        counters, ready = await asyncio.gather(scrape(f"{self._url}/metrics"), status(f"{self._url}/readyz"))
        if counters is not None:
            self._count(counters)
        self._judge_readiness(ready)
        try:
            async with self._database.use() as connection:
                sizes = await self._storage.sizes(connection)
        except (*AWAY, LookupError) as error:
            _log.debug("the tables could not be looked at: %s", error)
            return
        at = now_us()
        self.series["table_bytes"].add(at, sum(size.table_bytes for size in sizes))
        self.series["index_bytes"].add(at, sum(size.index_bytes for size in sizes))
        self.series["dead_rows"].add(at, sum(size.dead_rows for size in sizes))
        oldest = min((size.oldest_at for size in sizes if size.oldest_at is not None), default=None)
        if oldest is not None:
            self.series["oldest_row_age_s"].add(at, (at - oldest) / 1e6)

    def server_ended(self) -> None:
        """The server's process is gone: the next one counts from zero."""
        self._totals.restarted()

    @property
    def rows_per_second(self) -> float:
        """Of the last second."""
        return self.series["insert_rows_per_second"].statistics().get("last", 0.0)

    def total(self, name: str) -> float:
        """One of the server's counters, over all its processes, as far as they were scraped."""
        return self._totals.value(name)

    def flushes(self) -> Latency:
        """Durations of all flushes. Read from buckets a quarter apart, each told as its upper bound."""
        latency = Latency()
        bounds = self._totals.buckets(FLUSHES)
        largest = max((bound for bound, _ in bounds if not math.isinf(bound)), default=0.0)
        for bound, count in bounds:
            for _ in range(count):
                latency.record_us(round((largest if math.isinf(bound) else bound) * 1e6))
        return latency

    def _judge_readiness(self, status_code: int | None) -> None:
        """Count the time since the look before, if the server says now that it is not ready; silence says nothing."""
        now = time.monotonic()
        if status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            self.unready_seconds += now - self._looked_at
        self._looked_at = now

    def _count(self, counters: Sample) -> None:
        self._totals.update(counters)
        self.agents_connected = int(counters.get(("seatrial_agents_connected", ""), 0))
        now, at = time.monotonic(), now_us()
        rows = sum(self._totals.value(name) for name in ROWS)
        # Begins with the first row: a ramp is part of the run, an empty server is not.
        if self._before is not None and now > self._before[0] and rows:
            rate = (rows - self._before[1]) / (now - self._before[0])
            self.series["insert_rows_per_second"].add(at, max(0.0, rate))
        self._before = (now, rows)
        pruned = sum(self._totals.value(name) for name in PRUNED)
        seconds = self._totals.value(PRUNE_SECONDS)
        if pruned > self._pruned_before[0] and seconds > self._pruned_before[1]:
            rate = (pruned - self._pruned_before[0]) / (seconds - self._pruned_before[1])
            self.series["prune_rows_per_second"].add(at, rate)
        self._pruned_before = (pruned, seconds)
