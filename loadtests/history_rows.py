"""The rows of a history, slice by slice, as COPY streams: in the order in which a fleet's rows would have come."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from loadtests.copy_rows import packed
from server.db.storage.base import CopyTarget, Storage
from server.protocol.canonical import clean_log_text
from server.rows import LINE_OVERHEAD_BYTES, copy_data, pack_log
from simulator.expected import agents_of, hosts_of
from simulator.ledger import Header

ROWS_PER_COPY: Final = 10_000
"""Rows of a COPY and its transaction: about what a lane gathers in 100 ms at 100,000 rows/s."""
FLUSH_US: Final = 100_000
"""A lane sorts what came in so long a time by key, and what comes later lies behind it. So does a history."""
_SLICE_SAMPLES: Final = 1_000_000
"""About as many samples are made at once: they take 150 bytes each until they are written."""
_FEWEST_TICKS, _MOST_TICKS = 32, 512
"""Ticks of a slice: numpy's cost per call is spread over so many, however large the fleet is."""
_LOG_SEGMENTS: Final = 12
"""Counts of log bytes per container, over the whole history; a server keeps up to 16."""
_LOOKED_AT_HOSTS, _LOOKED_AT_TICKS = 32, 48
"""So many are looked at for an estimate, or up to twice as many."""


class Piece(NamedTuple):
    """One COPY."""

    target: CopyTarget
    rows: int
    data: bytes


class Estimate(NamedTuple):
    """How much a history is, about."""

    samples: int
    lines: int
    text_bytes: float
    """Of a line, on average."""


class LogBytes(NamedTuple):
    """Bytes of a container's lines up to a time (Unix microseconds), after those of the record before."""

    container_id: int
    until: int
    bytes: int


class HistoryRows:
    """Makes the rows of a fleet. Pure: no clock, no I/O.

    Args:
        header: of the history's ledger.
        span_us: how long the history is to be, about.
        storage: whose tables the rows are for.

    Attributes:
        hosts: by rising number.
    """

    def __init__(self, header: Header, span_us: int, storage: Storage) -> None:
        make = hosts_of(header)
        self.hosts = [make(agent) for agent in agents_of(header)]
        self._header = header
        self._segment_us = max(1, span_us // _LOG_SEGMENTS)
        self._storage = storage
        self._texts: dict[str, tuple[bytes, bool]] = {}
        self._log_bytes: dict[tuple[int, int], tuple[int, int]] = {}

    def estimate(self, span_us: int) -> Estimate:
        """How much so long a history is, by some ticks all over it of some of its hosts."""
        ticks = span_us // self._header.interval_us
        looked_at = range(0, ticks, max(1, ticks // _LOOKED_AT_TICKS))
        hosts = self.hosts[:: max(1, len(self.hosts) // _LOOKED_AT_HOSTS)]
        texts = [
            len(self._stored(line.text)[0]) for host in hosts for tick in looked_at for line in host.fake.logs(tick)
        ]
        samples = sum(len(host.fake.metrics(tick)) for host in hosts for tick in looked_at)
        share = ticks * len(self.hosts) / (len(looked_at) * len(hosts))
        return Estimate(round(samples * share), round(len(texts) * share), sum(texts) / max(1, len(texts)))

    def slices(self, since_us: int, until_us: int) -> Iterator[tuple[int, int]]:
        """[since_us, until_us) in pieces that fit into memory."""
        header = self._header
        ticks = min(max(_SLICE_SAMPLES // (header.agents * header.containers), _FEWEST_TICKS), _MOST_TICKS)
        width_us = ticks * header.interval_us
        while since_us < until_us:
            yield since_us, min(since_us + width_us, until_us)
            since_us += width_us

    def make(self, since_us: int, until_us: int) -> list[Piece]:
        """The rows of the ticks with since_us <= due < until_us, packed. Slices must be made in their order."""
        ticks = [range(host.fake.first_tick_at(since_us), host.fake.first_tick_at(until_us)) for host in self.hosts]
        return [*self._metrics(ticks), *self._logs(ticks)]

    def log_bytes(self) -> list[LogBytes]:
        """How many bytes of log each container has, in a few steps of time, of all slices made so far."""
        return [LogBytes(key, until, size) for (key, _), (until, size) in sorted(self._log_bytes.items())]

    def _metrics(self, ticks: Sequence[range]) -> Iterator[Piece]:
        parts = [host.samples(span)[0] for host, span in zip(self.hosts, ticks, strict=True)]
        rows = np.concatenate(parts)
        order = np.lexsort((rows["container_id"], rows["at"] // FLUSH_US))
        for start in range(0, len(rows), ROWS_PER_COPY):
            some = rows[order[start : start + ROWS_PER_COPY]]
            yield Piece(self._storage.metrics, len(some), packed(some))

    def _logs(self, ticks: Sequence[range]) -> Iterator[Piece]:
        made: list[tuple[int, bytes]] = []
        for (fake, ids), span in zip(self.hosts, ticks, strict=True):
            for tick in span:
                for line in fake.logs(tick):
                    text, cut = self._stored(line.text)
                    key, at = ids[line.ref], line.at
                    row = pack_log(key, at, line.line, line.stream, text, line.partial, line.truncated or cut)
                    made.append((at // FLUSH_US, row))
                    self._count(key, at, len(text) + LINE_OVERHEAD_BYTES)
        made.sort()
        for start in range(0, len(made), ROWS_PER_COPY):
            some = made[start : start + ROWS_PER_COPY]
            yield Piece(self._storage.logs, len(some), copy_data(row for _, row in some))

    def _stored(self, text: str) -> tuple[bytes, bool]:
        stored = self._texts.get(text)
        if stored is None:
            stored = self._texts[text] = clean_log_text(text)
        return stored

    def _count(self, container_id: int, at: int, size: int) -> None:
        # What is written after the planned end goes with the last part.
        part = min((at - self._header.t0_us) // self._segment_us, _LOG_SEGMENTS - 1)
        until, counted = self._log_bytes.get((container_id, part), (0, 0))
        self._log_bytes[container_id, part] = max(until, at), counted + size
