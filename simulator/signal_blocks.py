"""Samples of many containers at once: numpy's way to the very values of `simulator.signals`, bit for bit.

Unsigned 64-bit arithmetic wraps as the reference's masks do, shifts of signed numbers round down as Python's do, and the
one division of floats is the same IEEE division. So a block may stand for the reference wherever that is too slow.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from server.protocol.messages import Metric
from simulator.signals import CPU_WALK, GOLDEN, MEM_WALK, OCTAVES, PAGE, STEP, Character

_Unsigned = NDArray[np.uint64]
_Signed = NDArray[np.int64]

BLOCK_SAMPLES = 2048
"""About as many samples as a block should hold: numpy's cost per call is spread thin, and the loop hardly waits for it."""
_NONE: Final = -1
"""Stands for None, and as memory for a container that does not run: no value is negative."""
_MASK: Final = (1 << 64) - 1
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class SignalBlock:
    """The series of the containers of some hosts, computed for one tick at a time, all at once.

    Args:
        hosts: the characters of each host's containers, equally many for each.
    """

    __slots__ = (
        "_bytes", "_cpu", "_cpu_base", "_cpu_max", "_cpu_range", "_keys", "_mem_base", "_mem_max", "_mem_range",
        "_networked", "_piece", "_refs", "_running", "_rx_rate", "_since", "_tick", "_true_from", "_tx_rate", "_walk_from",
        "_walk_keys", "_walk_slope", "_walk_to",
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
        self._since = np.zeros(self._keys.shape, np.int64)
        self._running = np.ones(self._keys.shape, np.bool_)
        self._true_from = [0] * len(hosts)
        self._tick, self._piece = -1, -2
        self._walk_from = self._walk_to = self._walk_slope = np.zeros(self._walk_keys.shape, np.int64)
        containers = self._keys.shape[1]
        self._refs = range(containers)
        self._cpu = np.zeros(self._keys.shape, np.float64)
        self._bytes = np.zeros((len(hosts), 3, containers), np.int64)  # memory, rx, tx

    def change(self, host: int, container: int, first_tick: int, *, running: bool) -> None:
        """From `first_tick` on a container runs anew, or not at all. What is computed already does not know of it."""
        self._since[host, container] = first_tick
        self._running[host, container] = running
        self._true_from[host] = max(first_tick, self._tick + 1)

    def metrics(self, host: int, tick: int) -> tuple[Metric, ...] | None:
        """The samples of a host's running containers; None: the block is past this tick, or past a change before it."""
        if tick > self._tick:
            self._compute(tick)
        if tick < self._tick or tick < self._true_from[host]:
            return None
        columns = self._refs, self._cpu[host].tolist(), *self._bytes[host].tolist()
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

    def _compute(self, tick: int) -> None:
        """Compute a tick for all containers: line by line what `ContainerSignals.at` says of one."""
        cpu_walk, mem_walk = self._walks(tick)
        age = tick - self._since
        jitter = _noise(self._keys, tick)
        wobble = self._cpu_base * _bits(jitter, 0, 16) >> 18
        hundredths = self._cpu_base + (self._cpu_range * cpu_walk >> 16) + wobble
        self._cpu = np.where(age > 0, np.minimum(hundredths, self._cpu_max) / 100, _NONE)
        mem = self._mem_base + (self._mem_range * mem_walk >> 16) + _bits(jitter, 16, 4) * PAGE
        self._bytes[:, 0] = np.where(self._running, np.minimum(mem // PAGE * PAGE, self._mem_max), _NONE)
        rx, tx = self._rx_rate, self._tx_rate
        self._bytes[:, 1] = np.where(self._networked, age * rx + (rx * _bits(jitter, 32, 16) >> 16), _NONE)
        self._bytes[:, 2] = np.where(self._networked, age * tx + (tx * _bits(jitter, 48, 16) >> 16), _NONE)
        self._tick = tick

    def _walks(self, tick: int) -> _Signed:
        """The walks of CPU and memory at a tick: see `Walk.at`."""
        piece = tick >> STEP
        if piece != self._piece:
            start = piece << STEP
            self._walk_from = self._walk_to if piece == self._piece + 1 else _level(self._walk_keys, start)
            self._walk_to = _level(self._walk_keys, start + (1 << STEP))
            self._walk_slope = self._walk_to - self._walk_from
            self._piece = piece
        return self._walk_from + (self._walk_slope * (tick & (1 << STEP) - 1) >> STEP)


def _noise(keys: _Unsigned, counter: int) -> _Unsigned:
    """See `signals.noise`."""
    value = keys + np.uint64(counter * GOLDEN & _MASK)
    value ^= value >> np.uint64(30)
    value *= _MIX_1
    value ^= value >> np.uint64(27)
    value *= _MIX_2
    value ^= value >> np.uint64(31)
    return value


def _level(keys: _Unsigned, tick: int) -> _Signed:
    """Where straight pieces of walks begin: see `Walk`."""
    total = np.zeros(keys.shape, np.int64)
    for octave, weight in OCTAVES:
        point = tick >> octave
        here = _bits(_noise(keys + np.uint64(octave), point), 48, 16)
        there = _bits(_noise(keys + np.uint64(octave), point + 1), 48, 16)
        total += weight * (here + ((there - here) * (tick - (point << octave)) >> octave))
    return total >> 2


def _bits(values: _Unsigned, lowest: int, count: int) -> _Signed:
    """Some bits of each value, fewer than 63."""
    return (values >> np.uint64(lowest) & np.uint64((1 << count) - 1)).view(np.int64)
