"""The server's /metrics, second by second, over its restarts."""

import asyncio
import urllib.error
from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

from loadtests.consent import opener

SCRAPE_TIMEOUT_SECONDS = 2.0

Sample = dict[tuple[str, str], float]
"""Value by (name, value of its label `le` or empty), and of closed sockets by (name, `<endpoint> <code>`) too."""
SOCKETS_CLOSED = "seatrial_sockets_closed_total"
BUILD_INFO = "seatrial_build_info"
"""Its version stands where others have the label `le`."""


def _fetch(url: str) -> bytes:
    with opener().open(url, timeout=SCRAPE_TIMEOUT_SECONDS) as response:
        return bytes(response.read())


async def get(url: str) -> bytes | None:
    """The body of a GET, None if there was no good answer in time."""
    try:
        return await asyncio.to_thread(_fetch, url)
    except (urllib.error.URLError, OSError, TimeoutError):
        return None


def _status(url: str) -> int:
    try:
        with opener().open(url, timeout=SCRAPE_TIMEOUT_SECONDS) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return int(error.code)


async def status(url: str) -> int | None:
    """The HTTP status of a GET, None if there was no answer in time."""
    try:
        return await asyncio.to_thread(_status, url)
    except (urllib.error.URLError, OSError, TimeoutError):
        return None


async def scrape(url: str) -> Sample | None:
    """The metrics now; None: the server did not answer."""
    body = await get(url)
    if body is None:
        return None
    found: Sample = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            key = (sample.name, sample.labels.get("version" if sample.name == BUILD_INFO else "le", ""))
            found[key] = found.get(key, 0.0) + sample.value
            if sample.name == SOCKETS_CLOSED:
                found[sample.name, f"{sample.labels['endpoint']} {sample.labels['code']}"] = sample.value
    return found


def version(sample: Sample) -> str | None:
    """The server's, as its metrics tell it; None: they do not."""
    return next((label for name, label in sample if name == BUILD_INFO and label), None)


class Totals:
    """Counters since `begin`, added up over the processes that served one after the other.

    Args:
        own: counters of the process itself. One that falls says that the process is another; what it reads elsewhere, as
            in Postgres, may fall without that.
    """

    def __init__(self, own: Iterable[str]) -> None:
        self._own = [(name, "") for name in own]
        self._finished: Sample = {}
        self._current: Sample = {}

    def begin(self, sample: Sample) -> None:
        """Count anew from a scrape: what the process had counted by then was for others."""
        self._finished = {key: -value for key, value in sample.items()}
        self._current = sample

    def update(self, sample: Sample) -> None:
        """Take a scrape of the process that runs; if one of its own counters fell, it is another than before."""
        if any(sample.get(key, 0.0) < self._current.get(key, 0.0) for key in self._own):
            self.restarted()
        self._current = sample

    def restarted(self) -> None:
        """The process ended: what it had counted stays, as far as it was scraped."""
        for key, value in self._current.items():
            self._finished[key] = self._finished.get(key, 0.0) + value
        self._current = {}

    def value(self, name: str, label: str = "") -> float:
        """A counter's total, over all its labels unless one of `Sample` is given."""
        return self._finished.get((name, label), 0.0) + self._current.get((name, label), 0.0)

    def buckets(self, name: str) -> list[tuple[float, int]]:
        """A histogram as (upper bound, count within the bucket), smallest first; the last bound is infinite."""
        bounds = {le for n, le in (*self._finished, *self._current) if n == f"{name}_bucket" and le}
        cumulative = sorted(
            (float(le), sum(part.get((f"{name}_bucket", le), 0.0) for part in (self._finished, self._current)))
            for le in bounds
        )
        found, before = [], 0.0
        for bound, total in cumulative:
            found.append((bound, round(total - before)))
            before = total
        return found
