"""The values of a simulated container: noise that is a function of (seed, agent, container, tick) and of nothing else.

Integers only, until the last division: no libm, no generator with a state. So every machine and every Python version
gives the same values, and the verifier can compute any tick without the ticks before it.
"""

from typing import NamedTuple

_MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
"""The step of splitmix64's counter."""

UNIT = 1 << 16
"""Noise is a fraction of this: 0 <= noise < UNIT."""

OCTAVES = ((9, 2), (6, 1), (3, 1))
"""A walk's octaves: period in ticks as a power of two, and weight in quarters. The shortest comes last."""
STEP = OCTAVES[-1][0]
"""A walk is straight over this many ticks, as a power of two."""
PAGE = 4096
"""Memory is told in bytes, and moves by as many."""
CPU_WALK, MEM_WALK = 0x43, 0x4D
"""What a container's two walks add to its key (xor)."""


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
        key = mix(key + GOLDEN + mix(part + GOLDEN))
    return key


def noise(key: int, counter: int) -> int:
    """64 bits of noise: the `counter`-th output of the splitmix64 sequence that starts at `key`."""
    value = key + counter * GOLDEN & _MASK  # `mix` written out: this is the hottest function of the simulator
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
        piece = tick >> STEP
        if piece != self._piece:
            self._piece = piece
            start = piece << STEP
            self._from = self._level(start)
            self._slope = self._level(start + (1 << STEP)) - self._from
        return self._from + (self._slope * (tick & (1 << STEP) - 1) >> STEP)

    def _level(self, tick: int) -> int:
        """The value where a straight piece begins."""
        total = 0
        for octave, weight in OCTAVES:
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


class Character(NamedTuple):
    """What a container is like, for as long as it lives. CPU in hundredths of a percent, memory in bytes."""

    key: int
    """Of all its noise."""
    cpu_base: int
    cpu_range: int
    cpu_max: int
    mem_base: int
    mem_range: int
    mem_max: int
    rx_rate: int | None
    """Bytes per tick; None: it uses the network of its host."""
    tx_rate: int | None


def character_of(seed: int, agent: int, container: int, cores: int, memory_limit_bytes: int | None) -> Character:
    """The character of one container.

    Args:
        seed: of the run.
        agent: number of the host.
        container: ref of the container.
        cores: CPU never goes past all of them.
        memory_limit_bytes: memory never goes past it; None: no limit.
    """
    key = key_of(seed, agent, container)
    bits = noise(key, -1)
    # Most containers idle, a few work: CPU between 0.2 and 20 % at rest, up to four times that and 40 % on top.
    cpu_base = 20 + (bits & 0xFF) * (bits >> 8 & 0xFF) * 2000 // 65025
    mem_base = (16 << 20) + (bits >> 28 & 0xFF) * (1 << 20)
    host_network = bits >> 60 == 0
    return Character(
        key=key,
        cpu_base=cpu_base,
        cpu_range=3 * cpu_base + (bits >> 16 & 0xFFF),
        cpu_max=cores * 10_000,
        mem_base=mem_base,
        mem_range=mem_base // 2,
        mem_max=memory_limit_bytes if memory_limit_bytes is not None else 1 << 62,
        rx_rate=None if host_network else 200 + (bits >> 37 & 0xFFFF),
        tx_rate=None if host_network else 100 + (bits >> 45 & 0x7FFF),
    )


class ContainerSignals:
    """The series of one container. What it says is the reference; `simulator.signal_blocks` says the same, faster.

    Args:
        character: of the container.
    """

    __slots__ = ("_character", "_cpu", "_mem")

    def __init__(self, character: Character) -> None:
        self._character = character
        self._cpu, self._mem = Walk(character.key ^ CPU_WALK), Walk(character.key ^ MEM_WALK)

    def at(self, tick: int, since: int) -> Values:
        """The sample of `tick` in a container that runs since the tick `since`.

        The first sample has no CPU, because CPU is a difference of two. Network counters begin at `since` and never
        fall after it; they are None in a container on the host's network.
        """
        key, cpu_base, cpu_range, cpu_max, mem_base, mem_range, mem_max, rx, tx = self._character
        jitter = noise(key, tick)
        cpu: float | None = None
        if tick > since:
            wobble = cpu_base * (jitter & 0xFFFF) >> 18
            hundredths = cpu_base + (cpu_range * self._cpu.at(tick) >> 16) + wobble
            cpu = min(hundredths, cpu_max) / 100
        mem = mem_base + (mem_range * self._mem.at(tick) >> 16) + (jitter >> 16 & 0xF) * PAGE
        age = tick - since
        return Values(
            cpu,
            min(mem // PAGE * PAGE, mem_max),
            # A tick adds rate to the first term and takes less than rate from the second: the sum never falls.
            None if rx is None else age * rx + (rx * (jitter >> 32 & 0xFFFF) >> 16),
            None if tx is None else age * tx + (tx * (jitter >> 48) >> 16),
        )
