"""The values of a simulated container: noise that is a function of (seed, agent, container, tick) and of nothing else.

Integers only, until the last division: no libm, no generator with a state. So every machine and every Python version
gives the same values, and the verifier can compute any tick without the ticks before it.
"""

from typing import NamedTuple

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15

UNIT = 1 << 16
"""Noise is a fraction of this: 0 <= noise < UNIT."""

_OCTAVES = ((9, 2), (6, 1), (3, 1))
"""A walk's octaves: period in ticks as a power of two, and weight in quarters. The shortest comes last."""
_STEP = _OCTAVES[-1][0]
_PAGE = 4096


def mix(value: int) -> int:
    """The finaliser of splitmix64: 64 bits in, 64 well-spread bits out."""
    value &= _MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def key_of(*parts: int) -> int:
    """One 64-bit key of several integers; their order counts."""
    key = 0
    for part in parts:
        key = mix(key + _GOLDEN + mix(part + _GOLDEN))
    return key


def noise(key: int, counter: int) -> int:
    """64 bits of noise: the `counter`-th output of the splitmix64 sequence that starts at `key`."""
    value = key + counter * _GOLDEN & _MASK  # `mix` written out: this is the hottest function of the simulator
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


class Walk:
    """A walk-like value in [0, UNIT): octaves of noise, each straight between its lattice points.

    All octaves' periods are multiples of the shortest, so their sum is straight within it too. That piece is kept; it
    saves time and changes no value.
    """

    __slots__ = ("_from", "_key", "_piece", "_slope")

    def __init__(self, key: int) -> None:
        self._key = key
        self._piece = -1
        self._from = self._slope = 0

    def at(self, tick: int) -> int:
        """The value at `tick`, from 0 on."""
        piece = tick >> _STEP
        if piece != self._piece:
            self._piece = piece
            start = piece << _STEP
            self._from = self._level(start)
            self._slope = self._level(start + (1 << _STEP)) - self._from
        return self._from + (self._slope * (tick & (1 << _STEP) - 1) >> _STEP)

    def _level(self, tick: int) -> int:
        """The value where a straight piece begins."""
        total = 0
        for octave, weight in _OCTAVES:
            point = tick >> octave
            here = noise(self._key + octave, point) >> 48
            there = noise(self._key + octave, point + 1) >> 48
            total += weight * (here + ((there - here) * (tick - (point << octave)) >> octave))
        return total >> 2


class Values(NamedTuple):
    """One sample. CPU in percent of a core, memory in bytes, network in bytes since the container's start."""

    cpu: float | None
    mem: int
    rx: int | None
    tx: int | None


class ContainerSignals:
    """The series of one container.

    Args:
        seed: of the run.
        agent: number of the host.
        container: ref of the container.
        cores: CPU never goes past all of them.
        memory_limit_bytes: memory never goes past it; None: no limit.
    """

    __slots__ = (
        "_cpu", "_cpu_base", "_cpu_max", "_cpu_range", "_key", "_mem", "_mem_base", "_mem_max", "_mem_range",
        "_rx_rate", "_tx_rate",
    )  # fmt: skip

    def __init__(self, seed: int, agent: int, container: int, cores: int, memory_limit_bytes: int | None) -> None:
        self._key = key = key_of(seed, agent, container)
        character = noise(key, -1)
        # Most containers idle, a few work: CPU between 0.2 and 20 % at rest, up to four times that and 40 % on top.
        self._cpu_base = 20 + (character & 0xFF) * (character >> 8 & 0xFF) * 2000 // 65025
        self._cpu_range = 3 * self._cpu_base + (character >> 16 & 0xFFF)
        self._cpu_max = cores * 10_000
        self._mem_base = (16 << 20) + (character >> 28 & 0xFF) * (1 << 20)
        self._mem_range = self._mem_base // 2
        self._mem_max = memory_limit_bytes if memory_limit_bytes is not None else 1 << 62
        host_network = character >> 60 == 0
        self._rx_rate = None if host_network else 200 + (character >> 37 & 0xFFFF)
        self._tx_rate = None if host_network else 100 + (character >> 45 & 0x7FFF)
        self._cpu, self._mem = Walk(key ^ 0x43), Walk(key ^ 0x4D)

    def at(self, tick: int, since: int) -> Values:
        """The sample of `tick` in a container that runs since the tick `since`.

        The first sample has no CPU, because CPU is a difference of two. Network counters begin at `since` and never
        fall after it; they are None in a container on the host's network.
        """
        jitter = noise(self._key, tick)
        cpu: float | None = None
        if tick > since:
            wobble = self._cpu_base * (jitter & 0xFFFF) >> 18
            hundredths = self._cpu_base + (self._cpu_range * self._cpu.at(tick) >> 16) + wobble
            cpu = min(hundredths, self._cpu_max) / 100
        mem = self._mem_base + (self._mem_range * self._mem.at(tick) >> 16) + (jitter >> 16 & 0xF) * _PAGE
        age = tick - since
        rx, tx = self._rx_rate, self._tx_rate
        return Values(
            cpu,
            min(mem // _PAGE * _PAGE, self._mem_max),
            # A tick adds rate to the first term and takes less than rate from the second: the sum never falls.
            None if rx is None else age * rx + (rx * (jitter >> 32 & 0xFFFF) >> 16),
            None if tx is None else age * tx + (tx * (jitter >> 48) >> 16),
        )
