"""Samples as the storage must, may or must not hold them, made for many hosts at once.

A verifier that keeps up with a fleet looks at a few ticks of each of its hosts, again and again. Host by host numpy's cost per
call is most of that, so hosts of whose course a ledger has nothing unusual to tell are made together.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.host import FakeHost
from simulator.ledger import STATUSES, Status
from simulator.samples import NO_SAMPLES, Samples, rows_of_values
from simulator.signal_blocks import SignalBlock

_ACKED, _UNKNOWN, _CONFLICTED, _UNSENT = (
    STATUSES.index(status) for status in (Status.ACKED, Status.UNKNOWN, Status.CONFLICTED, Status.UNSENT)
)
_BLOCK_CONTAINERS: Final = 2048
_BLOCK_SAMPLES: Final = 1 << 16
"""Made at once: enough to spread numpy's cost per call, little enough for the processor's cache."""


class ExpectedSamples(NamedTuple):
    """Samples as stored, in no order, and what the storage must hold of each."""

    rows: Samples
    status: NDArray[np.uint8]
    """Places in `STATUSES`."""
    required: NDArray[np.bool_]
    """Whether the row must be there: acknowledged, and known to be by the time that was asked about."""


NO_EXPECTED = ExpectedSamples(NO_SAMPLES, np.empty(0, np.uint8), np.empty(0, np.bool_))


class Told(NamedTuple):
    """What a ledger tells of a host's batches in some ticks that follow one another; nothing else happened to them."""

    ticks: range
    shift: int
    """The tick of a batch less its seq."""
    sent: int
    acked: int
    """The highest seqs sent at least once and acknowledged."""
    required: int
    """The highest seq known to be acknowledged by the time that is asked about."""


class HostBlock:
    """Hosts whose samples are made together. Their clocks are right.

    Args:
        hosts: with equally many containers, of one interval.
        ids: of each host: the key of each container by its ref; every ref has one.
    """

    def __init__(self, hosts: Sequence[FakeHost], ids: Sequence[Mapping[int, int]]) -> None:
        self._hosts, self._ids = hosts, ids
        self._containers = hosts[0].containers
        self._interval_us = hosts[0].interval_us
        self._block = SignalBlock([host.characters() for host in hosts], [host.lives for host in hosts])
        self._first_ids = np.array([keys[ref] for keys in ids for ref in range(self._containers)], np.int64)
        for place, host in enumerate(hosts):
            host.join(self._block, place)

    def samples(self, told: Sequence[Told | None]) -> Iterator[ExpectedSamples]:
        """The samples of what a ledger tells of each host; None: nothing.

        Yields:
            Stretch by stretch; by tick, then host, then place on the host.
        """
        hosts = [one or Told(range(0), 0, 0, 0, 0) for one in told]
        ticks = [one.ticks for one in hosts if one.ticks]
        if not ticks:
            return
        start, stop = min(some.start for some in ticks), max(some.stop for some in ticks)
        bounds = np.array([(one.ticks.start, one.ticks.stop, *one[1:]) for one in hosts], np.int64).T
        width = max(1, _BLOCK_SAMPLES // (len(hosts) * self._containers))
        for first in range(start, stop, width):
            yield self._stretch(range(first, min(first + width, stop)), bounds)

    def _stretch(self, ticks: range, bounds: NDArray[np.int64]) -> ExpectedSamples:
        start, stop, shift, sent, acked, known = bounds
        refs, cpu, sizes = self._block.stretch_of_all(ticks)
        tick = np.arange(ticks.start, ticks.stop)[:, np.newaxis]
        seq = tick - shift
        status = np.full(seq.shape, _ACKED, np.uint8)
        status[seq > acked] = _UNKNOWN
        status[seq > sent] = _UNSENT
        required = (status == _ACKED) & (seq <= known)
        meant = (tick >= start) & (tick < stop)
        at = np.array([host.at(ticks.start) for host in self._hosts]) + (tick - ticks.start) * self._interval_us
        # What is by tick and host becomes by tick and container.
        at, status, required, meant = (np.repeat(a, self._containers, axis=1) for a in (at, status, required, meant))
        rows, there = rows_of_values(self._keys(refs), at, cpu, sizes), meant & (sizes[:, 0] >= 0)
        return ExpectedSamples(rows[there], status[there], required[there])

    def _keys(self, refs: NDArray[np.int64]) -> NDArray[np.int64]:
        keys = np.broadcast_to(self._first_ids, refs.shape)
        again = refs >= self._containers  # containers that were re-created
        if again.any():
            keys, width = keys.copy(), refs.shape[1]
            # A number for each ref of each column, so that a key is looked for once.
            numbers = (refs * width + np.arange(width))[again]
            known, place = np.unique(numbers, return_inverse=True)
            found = [self._ids[number % width // self._containers][number // width] for number in known.tolist()]
            keys[again] = np.array(found, np.int64)[place]
        return keys


def blocks_of(agents: range, containers: int) -> Iterator[range]:
    """Agents in groups that are made together."""
    size = max(1, _BLOCK_CONTAINERS // containers)
    for first in range(agents.start, agents.stop, size):
        yield range(first, min(first + size, agents.stop))


def one_per_key(found: ExpectedSamples) -> ExpectedSamples:
    """One row of each key: a clock that is set back may give a key twice, and one row of it is stored.

    Of several the acknowledged one is stored, or the only one that may be: statuses stand in this order. Between several that
    may be nobody can tell, so any values are good.
    """
    ids, at = found.rows["container_id"], found.rows["at"]
    order = np.lexsort((found.status, at, ids))
    ids, at, status, required = ids[order], at[order], found.status[order], found.required[order]
    again = np.zeros(len(order), np.bool_)
    again[1:] = (ids[1:] == ids[:-1]) & (at[1:] == at[:-1])
    firsts = np.flatnonzero(~again)
    if len(firsts) == len(order):
        return found
    two = np.minimum(firsts + 1, len(order) - 1)
    doubtful = again[two] & (status[firsts] == _UNKNOWN) & (status[two] == _UNKNOWN)
    kept = np.where(doubtful, np.uint8(_CONFLICTED), status[firsts])
    return ExpectedSamples(found.rows[order[firsts]], kept, np.logical_or.reduceat(required, firsts))
