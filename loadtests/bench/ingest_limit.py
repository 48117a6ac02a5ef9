"""`bench ingest --find-limit`: more and more containers, until the acks are late or something else ends the search."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf

from loadtests.bench.figures import Figure
from loadtests.bench.ingest_load import Load

ACK_LIMIT_MS = 1_000.0
"""An ack p99 beyond it is no longer a pipeline that keeps up."""
STEP = 1.25
"""Each step has so many times the containers of the one before."""
MOST_CONTAINERS = 1_000
"""Of an agent; no step has more."""


@dataclass(frozen=True, slots=True)
class Held:
    """A load that held: nothing lost, acks in time, and a generator that kept its time."""

    containers: int
    load: Load


@dataclass(frozen=True, slots=True)
class Limit:
    """How a search ended."""

    best: Held | None
    """The last load that held; None: not even the first one did."""
    beyond: Held | None
    """The first one that did not hold; None: the search ended at `MOST_CONTAINERS`."""

    @property
    def ended_by(self) -> str:
        """What ended the search, for people."""
        if self.beyond is None:
            return f"the most containers of an agent, {MOST_CONTAINERS:,}"
        at = f"at {self.beyond.containers} containers"
        if self.beyond.load.failures:
            return f"worthless {at}: {'; '.join(self.beyond.load.failures)}"
        if self.beyond.load.generator:
            return f"the generator, not the server, {at}: {'; '.join(self.beyond.load.generator)}"
        return f"the acks {at}: p99 {ack_p99_ms(self.beyond.load):,.0f} ms"

    @property
    def is_the_servers(self) -> bool:
        """Whether it was the server that did not keep up; else the last load that held is a lower bound."""
        return self.beyond is not None and not self.beyond.load.failures and not self.beyond.load.generator

    def failures(self) -> list[str]:
        """Why there is no limit to tell, or what a step lost; empty: there is one."""
        found = list(self.beyond.load.failures) if self.beyond is not None else []
        if self.best is None:
            found.append(f"--find-limit: no load held; the first one was ended by {self.ended_by}")
        return found

    def figures(self) -> list[Figure]:
        """The last load that held, beside raw COPY of its own rows, and what ended the search."""
        beyond = self.beyond
        ended = Figure(
            name="limit_is_the_servers", value=float(self.is_the_servers), unit="",
            note=f"{'' if self.is_the_servers else 'only a lower bound: '}ended by {self.ended_by}",
        )  # fmt: skip
        if self.best is None:
            none = Figure(name="limit_rows_per_second", value=None, unit="rows/s", note="the first load did not hold")
            return [none, ended]
        load, raw = self.best.load, self.best.load.raw
        ratio = load.rows_per_second / raw.rows_per_second if raw is not None and raw.rows_per_second else None
        return [
            Figure(name="limit_containers", value=self.best.containers, unit="containers/agent"),
            Figure(name="limit_rows_per_second", value=load.rows_per_second, unit="rows/s", note="ledger verified"),
            Figure(name="limit_ack_p99", value=ack_p99_ms(load), unit="ms"),
            Figure(name="limit_raw_copy", value=raw.rows_per_second if raw is not None else None, unit="rows/s",
                   note=f"of {raw.rows if raw is not None else 0:,} rows of this load"),
            Figure(name="limit_to_raw", value=ratio, unit="ratio"),
            *([Figure(name="beyond_ack_p99", value=ack_p99_ms(beyond.load), unit="ms",
                      note=f"at {beyond.containers} containers")] if beyond is not None and beyond.load.ack.count else []),
            ended,
        ]  # fmt: skip


async def search(containers: int, first: Load, load: Callable[[int], Awaitable[Load]]) -> Limit:
    """Raise the containers until a load does not hold.

    Args:
        containers: of the first load.
        first: which is over.
        load: makes one with so many containers.
    """
    best, now = None, Held(containers, first)
    while _holds(now.load):
        best = now
        if now.containers >= MOST_CONTAINERS:
            return Limit(best, None)
        more = min(MOST_CONTAINERS, max(now.containers + 1, round(now.containers * STEP)))
        now = Held(more, await load(more))
    return Limit(best, now)


def ack_p99_ms(load: Load) -> float:
    """Infinite when nothing was acked."""
    return load.ack.statistics().get("p99", inf)


def _holds(load: Load) -> bool:
    return not load.failures and not load.generator and ack_p99_ms(load) <= ACK_LIMIT_MS
