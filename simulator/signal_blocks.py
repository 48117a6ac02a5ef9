"""Samples of many containers or many ticks at once: numpy's way to the very values of `simulator.signals`, bit for bit.

Unsigned 64-bit arithmetic wraps as the reference's masks do, shifts of signed numbers round down as Python's do, and the
one division of floats is the same IEEE division. So this may stand for the reference wherever that is too slow.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from server.protocol.messages import Metric
from simulator.signals import CPU_WALK, GOLDEN, MEM_WALK, OCTAVES, PAGE, STEP, Character

_Unsigned = NDArray[np.uint64]
_Signed = NDArray[np.int64]
_Ticks = int | _Signed
"""One tick of all hosts, or a column of ticks of one host."""

BLOCK_SAMPLES: Final = 2048
"""About as many samples as a block should hold: numpy's cost per call is spread thin, and the loop hardly waits for it."""
_NONE: Final = -1
"""Stands for None, and as memory for a container that does not run: no value is negative."""
_OCTAVES, _WEIGHTS = (np.array(column, np.int64).reshape(-1, 1, 1, 1) for column in zip(*OCTAVES, strict=True))
_MASK: Final = (1 << 64) - 1
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class SignalBlock:
    """The series of the containers of some hosts, computed for one tick of all of them, or for some ticks of one, at once.

    Args:
        hosts: the characters of each host's containers, equally many for each.
    """

    __slots__ = (
        "_bytes", "_cpu", "_piece", "_running", "_series", "_since", "_tick", "_true_from", "_walks_from", "_walks_to",
    )  # fmt: skip

    def __init__(self, hosts: Sequence[Sequence[Character]]) -> None:
        self._series = _Series(hosts)
        shape = len(hosts), len(hosts[0])
        self._since, self._running = np.zeros(shape, np.int64), np.ones(shape, np.bool_)
        self._true_from = [0] * len(hosts)
        self._tick, self._piece = -1, -2
        self._walks_from = self._walks_to = np.zeros((2, *shape), np.int64)
        self._cpu = np.zeros(shape, np.float64)
        self._bytes = np.zeros((len(hosts), 3, len(hosts[0])), np.int64)

    def change(self, host: int, container: int, first_tick: int, *, running: bool) -> None:
        """From `first_tick` on a container runs anew, or not at all. What is computed already does not know of it."""
        self._since[host, container] = first_tick
        self._running[host, container] = running
        self._true_from[host] = max(self._true_from[host], first_tick, self._tick + 1)

    def metrics(self, host: int, tick: int) -> tuple[Metric, ...] | None:
        """The samples of a host's running containers; None: the block is past this tick, or past a change before it."""
        if tick > self._tick:
            self._compute(tick)
        if tick < self._tick or tick < self._true_from[host]:
            return None
        return _metrics(self._cpu[host], self._bytes[host])

    def stretch(self, host: int, ticks: range, since: _Signed, running: NDArray[np.bool_]) -> list[tuple[Metric, ...]]:
        """The samples of a host's running containers for each of some ticks, past ones too.

        Args:
            host: its place in the block.
            ticks: by ones, at least one of them.
            since: the tick since which each container runs, per tick and container.
            running: whether it does.
        """
        series = self._series.of(host)
        column = np.arange(ticks.start, ticks.stop)[:, np.newaxis]
        first, last = ticks[0] >> STEP, ticks[-1] >> STEP
        levels = series.level(np.arange(first, last + 2)[:, np.newaxis] << STEP)
        piece = (column[:, 0] >> STEP) - first
        walks = _between(levels[:, piece], levels[:, piece + 1], column)
        cpu, sizes = series.values(column, since, running, walks)
        return [_metrics(*row) for row in zip(cpu, sizes, strict=True)]

    def _compute(self, tick: int) -> None:
        series, piece = self._series, tick >> STEP
        if piece != self._piece:
            start = piece << STEP
            self._walks_from = self._walks_to if piece == self._piece + 1 else series.level(start)
            self._walks_to = series.level(start + (1 << STEP))
            self._piece = piece
        walks = _between(self._walks_from, self._walks_to, tick)
        self._cpu, self._bytes = series.values(tick, self._since, self._running, walks)
        self._tick = tick


class _Series:
    """The characters of some hosts' containers, as arrays of hosts x containers."""

    __slots__ = (
        "_cpu_base", "_cpu_max", "_cpu_range", "_keys", "_mem_base", "_mem_max", "_mem_range", "_networked", "_rx_rate",
        "_tx_rate", "_walk_keys",
    )  # fmt: skip

    def __init__(self, hosts: Sequence[Sequence[Character]]) -> None:
        def field(name: str) -> _Signed:
            return np.array([[getattr(character, name) or 0 for character in host] for host in hosts], np.int64)

        self._keys = np.array([[character.key for character in host] for host in hosts], np.uint64)
        self._walk_keys = np.stack((self._keys ^ np.uint64(CPU_WALK), self._keys ^ np.uint64(MEM_WALK)))
        self._cpu_base, self._cpu_range, self._cpu_max = field("cpu_base"), field("cpu_range"), field("cpu_max")
        self._mem_base, self._mem_range, self._mem_max = field("mem_base"), field("mem_range"), field("mem_max")
        self._rx_rate, self._tx_rate = field("rx_rate"), field("tx_rate")
        self._networked = np.array([[character.rx_rate is not None for character in host] for host in hosts])

    def of(self, host: int) -> "_Series":
        """One host of these."""
        one = object.__new__(_Series)
        for name in self.__slots__:
            setattr(one, name, getattr(self, name)[..., host : host + 1, :])
        return one

    def level(self, tick: _Ticks) -> _Signed:
        """Where straight pieces of the walks of CPU and memory begin: see `Walk`."""
        point = np.asarray(tick) >> _OCTAVES
        keys = self._walk_keys + _OCTAVES.view(np.uint64)
        here, there = _bits(_noise(keys, point), 48, 16), _bits(_noise(keys, point + 1), 48, 16)
        octaves = _WEIGHTS * (here + ((there - here) * (tick - (point << _OCTAVES)) >> _OCTAVES))
        levels: _Signed = octaves.sum(axis=0) >> 2
        return levels

    def values(
        self, tick: _Ticks, since: _Signed, running: NDArray[np.bool_], walks: _Signed
    ) -> tuple[NDArray[np.float64], _Signed]:
        """CPU per row and container; memory, rx and tx per row and container: line by line `ContainerSignals.at`."""
        age = tick - since
        jitter = _noise(self._keys, tick)
        wobble = self._cpu_base * _bits(jitter, 0, 16) >> 18
        hundredths = self._cpu_base + (self._cpu_range * walks[0] >> 16) + wobble
        cpu = np.where(age > 0, np.minimum(hundredths, self._cpu_max) / 100, _NONE)
        mem = self._mem_base + (self._mem_range * walks[1] >> 16) + _bits(jitter, 16, 4) * PAGE
        rx, tx = self._rx_rate, self._tx_rate
        sizes = np.empty((len(age), 3, age.shape[1]), np.int64)
        sizes[:, 0] = np.where(running, np.minimum(mem // PAGE * PAGE, self._mem_max), _NONE)
        sizes[:, 1] = np.where(self._networked, age * rx + (rx * _bits(jitter, 32, 16) >> 16), _NONE)
        sizes[:, 2] = np.where(self._networked, age * tx + (tx * _bits(jitter, 48, 16) >> 16), _NONE)
        return cpu, sizes


def _metrics(cpu: NDArray[np.float64], sizes: _Signed) -> tuple[Metric, ...]:
    """The samples of one host and tick."""
    columns = range(len(cpu)), cpu.tolist(), *sizes.tolist()
    return tuple(
        [
            Metric(
                ref=ref,
                cpu=cpu if cpu >= 0 else None,
                mem=mem,
                rx=rx if rx >= 0 else None,
                tx=tx if tx >= 0 else None,
            )
            for ref, cpu, mem, rx, tx in zip(*columns, strict=True)
            if mem >= 0
        ]
    )


def _between(start: _Signed, end: _Signed, tick: _Ticks) -> _Signed:
    """The walks at a tick of straight pieces: see `Walk.at`."""
    return start + ((end - start) * (tick & (1 << STEP) - 1) >> STEP)


def _noise(keys: _Unsigned, counter: _Ticks) -> _Unsigned:
    """See `signals.noise`."""
    if isinstance(counter, int):
        value = keys + np.uint64(counter * GOLDEN & _MASK)
    else:
        value = keys + counter.astype(np.uint64) * np.uint64(GOLDEN)
    value ^= value >> np.uint64(30)
    value *= _MIX_1
    value ^= value >> np.uint64(27)
    value *= _MIX_2
    value ^= value >> np.uint64(31)
    return value


def _bits(values: _Unsigned, lowest: int, count: int) -> _Signed:
    """Some bits of each value, fewer than 63."""
    return (values >> np.uint64(lowest) & np.uint64((1 << count) - 1)).view(np.int64)
