"""The building blocks of a simulated series: noise that is a function of its key and a counter, and signals made of it.

Integers only: no libm, no generator with a state. So every machine and every Python version gives the same values, and
the verifier can compute any tick without the ticks before it. A signal is asked for one tick of a container that runs
since another; what it says is the reference, `simulator.signal_blocks` says the same for many containers at once.
"""

from typing import NamedTuple, Protocol

_MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
"""The step of splitmix64's counter."""

UNIT = 1 << 16
"""Noise and shapes are fractions of this: 0 <= fraction < UNIT."""

OCTAVES = ((9, 2), (6, 1), (3, 1))
"""A walk's octaves: period in ticks as a power of two, and weight in quarters. The shortest comes last."""
PIECE = OCTAVES[-1][0]
"""A walk is straight over this many ticks, as a power of two."""
STEP = 11
"""A step keeps its level for this many ticks, as a power of two."""
HOURS = (
    14_000, 10_000, 7_600, 6_400, 6_000, 7_000, 11_000, 19_000, 31_000, 45_000, 55_000, 60_000,
    58_000, 57_000, 59_000, 60_000, 57_000, 52_000, 50_000, 53_000, 54_000, 46_000, 33_000, 21_000,
)  # fmt: skip
"""How busy a day is at each full hour, in parts of UNIT: lowest at four, highest before noon. Even, so that half of a
difference is whole."""
PREFIX = tuple(sum(HOURS[h] + HOURS[(h + 1) % 24] >> 1 for h in range(hours)) for hours in range(25))
"""Sum of the hours' means up to each full hour."""


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


class Signal(Protocol):
    """A value over time."""

    def at(self, tick: int, since: int) -> int:
        """The value at `tick`, from 0 on, of a container that runs since the tick `since`."""


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

    def at(self, tick: int, since: int = 0) -> int:
        """See `Signal`; `since` changes nothing."""
        del since
        piece = tick >> PIECE
        if piece != self._piece:
            self._piece = piece
            start = piece << PIECE
            self._from = self._level(start)
            self._slope = self._level(start + (1 << PIECE)) - self._from
        return self._from + (self._slope * (tick & (1 << PIECE) - 1) >> PIECE)

    def _level(self, tick: int) -> int:
        """The value where a straight piece begins."""
        total = 0
        for octave, weight in OCTAVES:
            point = tick >> octave
            here = noise(self._key + octave, point) >> 48
            there = noise(self._key + octave, point + 1) >> 48
            total += weight * (here + ((there - here) * (tick - (point << octave)) >> octave))
        return total >> 2


class Jitter(NamedTuple):
    """Noise of each tick, in [0, UNIT): 16 of its 64 bits, from `lowest_bit` on."""

    key: int
    lowest_bit: int = 0

    def at(self, tick: int, since: int = 0) -> int:
        """See `Signal`; `since` changes nothing."""
        del since
        return noise(self.key, tick) >> self.lowest_bit & UNIT - 1


class Daily(NamedTuple):
    """How busy the time of day is, in [0, UNIT): straight from hour to hour. Tick 0 is midnight at shift 0."""

    hour_ticks: int
    shift_ticks: int

    def at(self, tick: int, since: int = 0) -> int:
        """See `Signal`; `since` changes nothing."""
        del since
        hours, past = divmod(tick + self.shift_ticks, self.hour_ticks)
        here, there = HOURS[hours % 24], HOURS[(hours + 1) % 24]
        return here + (there - here) * past // self.hour_ticks

    def total(self, tick: int) -> int:
        """The sum of the curve up to a tick. It never falls, for it is the floor of what never does."""
        hours, past = divmod(tick + self.shift_ticks, self.hour_ticks)
        days, hour = divmod(hours, 24)
        slope = HOURS[(hour + 1) % 24] - HOURS[hour]
        whole = (days * PREFIX[24] + PREFIX[hour]) * self.hour_ticks
        return whole + HOURS[hour] * past + slope * past * past // (2 * self.hour_ticks)


class Step(NamedTuple):
    """A level in [0, UNIT) that jumps now and then, and stays in between."""

    key: int

    def at(self, tick: int, since: int = 0) -> int:
        """See `Signal`; `since` changes nothing."""
        del since
        return noise(self.key, tick >> STEP) >> 48


class Spike(NamedTuple):
    """0, and for some ticks of some periods 1.

    A period has its spike where the noise of its number has none of the bits of `mask`: 0 is always, 3 one time in four.
    It begins up to `slack` ticks into the period; with 0 it keeps time, as a scheduled job does.
    """

    key: int
    period_ticks: int
    phase_ticks: int
    width_ticks: int
    slack_ticks: int
    mask: int

    def at(self, tick: int, since: int = 0) -> int:
        """See `Signal`; `since` changes nothing."""
        del since
        number, past = divmod(tick + self.phase_ticks, self.period_ticks)
        bits = noise(self.key, number)
        start = (bits >> 40) * self.slack_ticks >> 24
        return int(bits & self.mask == 0 and start <= past < start + self.width_ticks)


class SawTooth(NamedTuple):
    """A rise from 0 to UNIT, again and again, as of a heap between two garbage collections. It starts with the container."""

    period_ticks: int

    def at(self, tick: int, since: int) -> int:
        """See `Signal`."""
        return ((tick - since) % self.period_ticks << 16) // self.period_ticks


class Leak(NamedTuple):
    """What grows by as much in each tick, and goes only with the container."""

    per_tick: int

    def at(self, tick: int, since: int) -> int:
        """See `Signal`."""
        return self.per_tick * (tick - since)


class Counter(NamedTuple):
    """What a container counts since its start: as much in each tick, more at busy hours, unevenly, and never less."""

    per_tick: int
    daily_per_tick: int
    """Comes on top at an hour as busy as UNIT."""
    daily: Daily
    jitter: Jitter

    def at(self, tick: int, since: int) -> int:
        """See `Signal`."""
        busy = self.daily.total(tick) - self.daily.total(since)
        # A tick adds `per_tick` to the first term and takes less than it from the last: the sum never falls.
        return (
            self.per_tick * (tick - since)
            + self.daily_per_tick * (busy >> 16)
            + (self.daily_per_tick * (busy & UNIT - 1) >> 16)
            + (self.per_tick * self.jitter.at(tick) >> 16)
        )


class Scaled(NamedTuple):
    """A fraction of UNIT as a fraction of something else."""

    signal: Signal
    height: int

    def at(self, tick: int, since: int) -> int:
        """See `Signal`."""
        return self.height * self.signal.at(tick, since) >> 16


class Times(NamedTuple):
    """A signal so many times."""

    signal: Signal
    factor: int

    def at(self, tick: int, since: int) -> int:
        """See `Signal`."""
        return self.factor * self.signal.at(tick, since)


class Sum:
    """Something constant, and signals on top of it."""

    __slots__ = ("_base", "_signals")

    def __init__(self, base: int, *signals: Signal) -> None:
        self._base, self._signals = base, signals

    def at(self, tick: int, since: int) -> int:
        """See `Signal`."""
        return self._base + sum(signal.at(tick, since) for signal in self._signals)


class Clamped(NamedTuple):
    """A signal that never leaves [low, high]."""

    signal: Signal
    low: int
    high: int

    def at(self, tick: int, since: int) -> int:
        """See `Signal`."""
        return min(max(self.signal.at(tick, since), self.low), self.high)
