"""What kinds of containers a fleet has, how many of each, and what one container of a kind is like."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from simulator.signals import (
    GOLDEN,
    UNIT,
    Clamped,
    Counter,
    Daily,
    Jitter,
    Leak,
    SawTooth,
    Scaled,
    Signal,
    Spike,
    Step,
    Sum,
    Times,
    Walk,
    key_of,
    noise,
)

PAGE: Final = 4096
"""Memory is told in bytes, and moves by as many."""
CPU_WALK, MEM_WALK, STEPS, SPIKES = 0x43, 0x4D, 0x53, 0x50
"""What a container's walks, steps and spikes add to its key (xor)."""
_ZONES = (0, 0, 0, 0, 6, 15)
"""Hours by which a host's day is ahead: four hosts of six are where the fleet's owner is."""
_START_HOUR = 9
MAX_WEIGHT = 1_000_000
"""Of a profile in a mix."""
_MASK = (1 << 64) - 1
_MIB = 1 << 20


class Profile(StrEnum):
    """What a container does."""

    WEB = "web"
    DATABASE = "database"
    WORKER = "worker"
    CRON = "cron"
    IDLE = "idle"
    LEAKING = "leaking"
    CRASH_LOOPING = "crash-looping"


PROFILES: Final = tuple(Profile)

DEFAULT_MIX: Final[Mapping[str, int]] = {
    "web": 25, "database": 15, "worker": 20, "cron": 8, "idle": 30, "leaking": 1, "crash-looping": 1,
}  # fmt: skip
"""Of a hundred containers: most wait for something, a few work hard, and always one somewhere is broken."""

Range = tuple[int, int]


class _Shape(NamedTuple):
    """The least and the most of everything that a profile's containers have; most lie near the least."""

    cpu_base: Range
    """CPU in hundredths of a percent of a core."""
    cpu_walk: Range
    cpu_day: Range
    """At an hour as busy as can be."""
    mem_base_mib: Range
    rx_bytes_per_second: Range
    tx_bytes_per_second: Range
    cpu_spike: Range = (0, 0)
    mem_spike_mib: Range = (0, 0)
    spike_seconds: Range = (1, 1)
    spike_every_seconds: tuple[int, ...] = (300,)
    spike_mask: int = 0
    spike_keeps_time: bool = False
    saw_mib: Range = (0, 0)
    saw_seconds: Range = (30, 30)
    step_mib: Range = (0, 0)
    up_seconds: Range | None = None
    """It dies again and again after so long; by leaking, if `leaks`. None: it does not."""
    down_seconds: Range = (1, 1)
    leaks: bool = False


_SHAPES: Final[dict[Profile, _Shape]] = {
    Profile.WEB: _Shape(
        cpu_base=(50, 400), cpu_walk=(200, 3000), cpu_day=(500, 6000), mem_base_mib=(40, 400),
        rx_bytes_per_second=(500, 60_000), tx_bytes_per_second=(2000, 400_000),
        cpu_spike=(2000, 12_000), spike_seconds=(2, 10), spike_every_seconds=(120, 300, 600), spike_mask=3,
        saw_mib=(8, 150), saw_seconds=(20, 180),
    ),
    Profile.DATABASE: _Shape(
        cpu_base=(100, 1500), cpu_walk=(500, 6000), cpu_day=(300, 4000), mem_base_mib=(200, 1600),
        rx_bytes_per_second=(2000, 150_000), tx_bytes_per_second=(4000, 300_000),
        cpu_spike=(800, 5000), spike_seconds=(10, 40), spike_every_seconds=(300, 600), step_mib=(16, 200),
    ),
    Profile.WORKER: _Shape(
        cpu_base=(20, 300), cpu_walk=(1500, 9500), cpu_day=(300, 3000), mem_base_mib=(60, 500),
        rx_bytes_per_second=(200, 80_000), tx_bytes_per_second=(200, 60_000),
        cpu_spike=(1000, 9000), mem_spike_mib=(4, 120), spike_seconds=(5, 60), spike_every_seconds=(300, 900),
        spike_mask=1, saw_mib=(4, 100), saw_seconds=(30, 240),
    ),
    Profile.CRON: _Shape(
        cpu_base=(1, 20), cpu_walk=(0, 20), cpu_day=(0, 0), mem_base_mib=(10, 60),
        rx_bytes_per_second=(10, 100), tx_bytes_per_second=(10, 100),
        cpu_spike=(3000, 10_000), mem_spike_mib=(10, 200), spike_seconds=(4, 40),
        spike_every_seconds=(60, 300, 600, 900), spike_keeps_time=True,
    ),
    Profile.IDLE: _Shape(
        cpu_base=(0, 30), cpu_walk=(0, 60), cpu_day=(0, 10), mem_base_mib=(5, 120),
        rx_bytes_per_second=(20, 400), tx_bytes_per_second=(10, 200),
    ),
    Profile.LEAKING: _Shape(
        cpu_base=(50, 300), cpu_walk=(200, 3000), cpu_day=(200, 3000), mem_base_mib=(80, 160),
        rx_bytes_per_second=(500, 40_000), tx_bytes_per_second=(1000, 100_000),
        up_seconds=(900, 14_400), down_seconds=(1, 4), leaks=True,
    ),
    Profile.CRASH_LOOPING: _Shape(
        cpu_base=(1500, 6000), cpu_walk=(0, 4000), cpu_day=(0, 0), mem_base_mib=(30, 160),
        rx_bytes_per_second=(200, 2000), tx_bytes_per_second=(200, 2000), up_seconds=(3, 25), down_seconds=(5, 60),
    ),
}  # fmt: skip


# ---------------------------------------------------------------- the mix


class MixError(ValueError):
    """A mix of profiles that cannot be. The message says what was expected."""


def checked_mix(mix: Mapping[str, object]) -> dict[str, int]:
    """A mix in the order of the profiles.

    Raises:
        MixError: it names no profile, an unknown one, or a weight is no integer from 1 to a million.
    """
    known = ", ".join(PROFILES)
    if not mix:
        raise MixError(f"at least one profile with its weight, of {known}")
    for name, weight in mix.items():
        if name not in DEFAULT_MIX:
            raise MixError(f"one of {known}, not {name}")
        if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= MAX_WEIGHT:
            raise MixError(f"a weight from 1 to {MAX_WEIGHT} for {name}, not {weight}")
    return {str(profile): weight for profile in PROFILES if isinstance(weight := mix.get(profile), int)}


def parse_mix(text: str) -> dict[str, int]:
    """The mix of a text such as `web=4,idle=2`.

    Raises:
        MixError: it is none.
    """
    mix: dict[str, int] = {}
    for part in text.split(","):
        name, equals, weight = (piece.strip() for piece in part.partition("="))
        if not equals or not re.fullmatch("-?[0-9]{1,9}", weight):
            raise MixError(f"profile=weight, such as web=4,idle=2, not {part.strip() or 'nothing'}")
        if name in mix:
            raise MixError(f"each profile once, not {name} twice")
        mix[name] = int(weight)
    return checked_mix(mix)


def mix_text(mix: Mapping[str, int]) -> str:
    """The text that `parse_mix` reads."""
    return ",".join(f"{name}={weight}" for name, weight in mix.items())


class Shares:
    """Which profile each container of a fleet has.

    The containers of a host are spread over the weights by the golden ratio, so that each host has nearly its share of
    all profiles rather than what chance gives it; where a host begins is the seed's.

    Args:
        mix: weights by profile, checked.
    """

    __slots__ = ("_bounds",)

    def __init__(self, mix: Mapping[str, int]) -> None:
        total, so_far, bounds = sum(mix.values()), 0, []
        for number, profile in enumerate(PROFILES):
            if profile in mix:
                so_far += mix[profile]
                bounds.append(((so_far << 64) // total, number))
        self._bounds = tuple(bounds)

    def of_host(self, host_key: int, containers: int) -> bytes:
        """The number in PROFILES of each of a host's containers. More containers change nothing about the first ones."""
        return bytes(self._number(host_key + place * GOLDEN & _MASK) for place in range(containers))

    def _number(self, at: int) -> int:
        return next(number for bound, number in self._bounds if at < bound)


# ---------------------------------------------------------------- one container


class Values(NamedTuple):
    """One sample. CPU in percent of a core, memory in bytes, network in bytes since the container's start."""

    cpu: float | None
    mem: int
    rx: int | None
    tx: int | None


class Loop(NamedTuple):
    """A container that dies and is restarted, for ever: `up_ticks` of each `period_ticks` it runs."""

    period_ticks: int
    up_ticks: int
    phase_ticks: int
    """How far it was at tick 0."""


class Character(NamedTuple):
    """What a container is like, for as long as it lives. CPU in hundredths of a percent, memory in bytes, per tick."""

    key: int
    """Of all its noise."""
    daily: Daily
    """Its host's; the same for all containers of a host."""
    cpu_base: int
    cpu_jitter: int
    cpu_walk: int
    cpu_day: int
    cpu_spike: int
    cpu_max: int
    mem_base: int
    mem_walk: int
    mem_saw: int
    mem_step: int
    mem_spike: int
    mem_leak: int
    mem_max: int
    saw_ticks: int
    spike_ticks: int
    spike_phase: int
    spike_width: int
    spike_slack: int
    spike_mask: int
    rx_rate: int | None
    """None: it uses the network of its host."""
    rx_day: int
    tx_rate: int | None
    tx_day: int
    memory_limit_bytes: int | None
    loop: Loop | None


def daily_of(seed: int, agent: int, interval_us: int) -> Daily:
    """The day of one host. Tick 0 is nine o'clock where most of the fleet is."""
    hour_ticks = max(1, 3_600_000_000 // interval_us)
    return Daily(hour_ticks, (_START_HOUR + _ZONES[noise(key_of(seed, agent), 6) % len(_ZONES)]) * hour_ticks)


def character_of(profile: Profile, seed: int, agent: int, container: int, cores: int, interval_us: int) -> Character:
    """The character of one container.

    Args:
        profile: what it does.
        seed: of the run.
        agent: number of the host.
        container: its place on the host, from 0.
        cores: CPU never goes past all of them.
        interval_us: length of a tick.
    """
    key, shape = key_of(seed, agent, container), _SHAPES[profile]
    draw = _Draw(key, interval_us)
    cpu_base = draw.of(shape.cpu_base)
    mem_base = draw.of(shape.mem_base_mib, _MIB)
    limit = _memory_limit(mem_base) if draw.below(4) or shape.leaks else None
    every_seconds = shape.spike_every_seconds[draw.below(len(shape.spike_every_seconds))]
    period = draw.ticks((every_seconds, every_seconds))
    width = min(period, draw.ticks(shape.spike_seconds))
    host_network = not draw.below(16)
    loop, leak = None, 0
    if shape.up_seconds is not None:
        up = draw.ticks(shape.up_seconds)
        loop_ticks = up + draw.ticks(shape.down_seconds)
        loop = Loop(loop_ticks, up, draw.below(loop_ticks))
        if shape.leaks and limit is not None:
            leak = max(1, (limit - mem_base) // up)
    rx, tx = draw.per_tick(shape.rx_bytes_per_second), draw.per_tick(shape.tx_bytes_per_second)
    follows_day = shape.cpu_day[1] > 0
    return Character(
        key=key,
        daily=daily_of(seed, agent, interval_us),
        cpu_base=cpu_base,
        cpu_jitter=cpu_base // 4 + 10,
        cpu_walk=draw.of(shape.cpu_walk),
        cpu_day=draw.of(shape.cpu_day),
        cpu_spike=draw.of(shape.cpu_spike),
        cpu_max=cores * 10_000,
        mem_base=mem_base,
        mem_walk=mem_base // 8,
        mem_saw=draw.of(shape.saw_mib, _MIB),
        mem_step=draw.of(shape.step_mib, _MIB),
        mem_spike=draw.of(shape.mem_spike_mib, _MIB),
        mem_leak=leak,
        mem_max=limit if limit is not None else 1 << 62,
        saw_ticks=draw.ticks(shape.saw_seconds),
        spike_ticks=period,
        spike_phase=0 if shape.spike_keeps_time else draw.below(period),
        spike_width=width,
        spike_slack=0 if shape.spike_keeps_time else period - width,
        spike_mask=shape.spike_mask,
        rx_rate=None if host_network else max(1, rx // 4 if follows_day else rx),
        rx_day=rx if follows_day else 0,
        tx_rate=None if host_network else max(1, tx // 4 if follows_day else tx),
        tx_day=tx if follows_day else 0,
        memory_limit_bytes=limit,
        loop=loop,
    )


class _Draw:
    """Draws from a container's noise, one after the other: their order must not change."""

    def __init__(self, key: int, interval_us: int) -> None:
        self._key, self._interval_us = key, interval_us
        self._count = self._bits = 0

    def part(self) -> int:
        """A fraction of UNIT; four are taken of each 64 bits."""
        if self._count % 4 == 0:
            self._bits = noise(self._key, -1 - self._count // 4)  # below 0: the ticks have the counters from 0 on
        self._count += 1
        self._bits, part = divmod(self._bits, UNIT)
        return part

    def below(self, bound: int) -> int:
        """From 0 to below the bound, evenly."""
        return self.part() * bound >> 16

    def of(self, bounds: Range, unit: int = 1) -> int:
        """Between the bounds, most often near the lower one."""
        low, high = bounds
        part = self.part()
        return low * unit + ((high - low) * unit * (part * part >> 16) >> 16)

    def ticks(self, seconds: Range) -> int:
        """A time between the bounds, at least one tick."""
        return max(1, self.of(seconds, 1_000_000) // self._interval_us)

    def per_tick(self, per_second: Range) -> int:
        """A rate between the bounds."""
        return self.of(per_second) * self._interval_us // 1_000_000


def _memory_limit(mem_base: int) -> int:
    """The power of two above three times what a container begins with."""
    return 1 << (3 * mem_base).bit_length()


class ContainerSignals:
    """The series of one container. What it says is the reference; `simulator.signal_blocks` says the same, faster.

    Args:
        character: of the container.
    """

    __slots__ = ("_cpu", "_mem", "_rx", "_tx")

    def __init__(self, character: Character) -> None:
        c = character
        spike = Spike(c.key ^ SPIKES, c.spike_ticks, c.spike_phase, c.spike_width, c.spike_slack, c.spike_mask)
        cpu = Sum(
            c.cpu_base,
            Scaled(Walk(c.key ^ CPU_WALK), c.cpu_walk),
            Scaled(c.daily, c.cpu_day),
            Scaled(Jitter(c.key), c.cpu_jitter),
            Times(spike, c.cpu_spike),
        )
        mem = Sum(
            c.mem_base,
            Scaled(Walk(c.key ^ MEM_WALK), c.mem_walk),
            Scaled(SawTooth(c.saw_ticks), c.mem_saw),
            Scaled(Step(c.key ^ STEPS), c.mem_step),
            Times(spike, c.mem_spike),
            Leak(c.mem_leak),
            Jitter(c.key, 16),
        )
        self._cpu: Signal = Clamped(cpu, 0, c.cpu_max)
        self._mem: Signal = Clamped(mem, 0, c.mem_max)
        self._rx = None if c.rx_rate is None else Counter(c.rx_rate, c.rx_day, c.daily, Jitter(c.key, 32))
        self._tx = None if c.tx_rate is None else Counter(c.tx_rate, c.tx_day, c.daily, Jitter(c.key, 48))

    def at(self, tick: int, since: int) -> Values:
        """The sample of `tick` in a container that runs since the tick `since`, which may lie before 0.

        The first sample has no CPU, because CPU is a difference of two. Network counters begin at `since` and never
        fall after it; they are None in a container on the host's network.
        """
        return Values(
            self._cpu.at(tick, since) / 100 if tick > since else None,
            self._mem.at(tick, since) // PAGE * PAGE,
            None if self._rx is None else self._rx.at(tick, since),
            None if self._tx is None else self._tx.at(tick, since),
        )
