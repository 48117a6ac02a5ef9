"""Samples of many containers or many ticks at once: numpy's way to the very values of `simulator.profiles`, bit for bit.

Unsigned 64-bit arithmetic wraps as the reference's masks do, shifts and divisions of signed numbers round down as Python's
do, and the one division of floats is the same IEEE division. So this may stand for the reference wherever that is too slow.
A signal that a container does not have has the height 0: one pass over all of them is cheaper than one for each kind.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from server.protocol.messages import Metric
from simulator.lives import FOREVER, Lives
from simulator.profiles import CPU_WALK, MEM_WALK, PAGE, SPIKES, STEPS, Character
from simulator.signals import GOLDEN, HOURS, OCTAVES, PIECE, PREFIX, STEP, UNIT

_Unsigned = NDArray[np.uint64]
_Signed = NDArray[np.int64]
_Ticks = int | _Signed
"""One tick of all hosts, or a column of ticks of one host, or of some that stand abreast."""

BLOCK_SAMPLES: Final = 2048
"""About as many samples as a block should hold: numpy's cost per call is spread thin, and the loop hardly waits for it."""
_NONE: Final = -1
"""Stands for None, and as memory for a container that does not run: no value is negative."""
_OCTAVES, _WEIGHTS = (np.array(column, np.int64).reshape(-1, 1, 1, 1) for column in zip(*OCTAVES, strict=True))
_HOURS, _PREFIX = np.array((*HOURS, HOURS[0]), np.int64), np.array(PREFIX, np.int64)
_MASK: Final = (1 << 64) - 1
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_FIELDS: Final = (
    "cpu_base", "cpu_jitter", "cpu_walk", "cpu_day", "cpu_spike", "cpu_max", "mem_base", "mem_walk", "mem_saw", "mem_step",
    "mem_spike", "mem_leak", "mem_max", "saw_ticks", "spike_ticks", "spike_phase", "spike_width", "spike_slack", "spike_mask",
    "rx_rate", "rx_day", "tx_rate", "tx_day",
)  # fmt: skip


class SignalBlock:
    """The series of the containers of some hosts, computed at once for one tick of all of them, or for some of one or all.

    Args:
        hosts: the characters of each host's containers, equally many for each.
        lives: of each host: when its containers run.
    """

    __slots__ = (
        "_abreast", "_busy_before", "_bytes", "_cpu", "_lives", "_piece", "_quiet_until", "_refs", "_running", "_series",
        "_since", "_steps", "_tick", "_true_from", "_until", "_walks_from", "_walks_to",
    )  # fmt: skip

    def __init__(self, hosts: Sequence[Sequence[Character]], lives: Sequence[Lives]) -> None:
        self._series, self._lives = _Series(hosts), lives
        self._abreast: _Series | None = None
        shape = len(hosts), len(hosts[0])
        self._since, self._running = np.zeros(shape, np.int64), np.ones(shape, np.bool_)
        self._busy_before = self._series.busy_before(self._since)
        self._refs = [list(range(shape[1])) for _ in hosts]
        self._until = np.full(shape, FOREVER, np.int64)
        for place, life in enumerate(lives):
            self._until[place, list(life.changing())] = 0
        self._quiet_until = int(self._until.min())
        self._true_from = [0] * len(hosts)
        self._tick, self._piece = -1, -2
        self._walks_from = self._walks_to = np.zeros((2, *shape), np.int64)
        self._steps = self._walks_from[0]
        self._cpu = np.zeros(shape, np.float64)
        self._bytes = np.zeros((len(hosts), 3, len(hosts[0])), np.int64)

    def change(self, host: int, container: int, first_tick: int) -> None:
        """From `first_tick` on a container's life is another. What is computed already does not know of it."""
        self._until[host, container] = min(self._until[host, container], first_tick)
        self._quiet_until = min(self._quiet_until, first_tick)
        self._true_from[host] = max(self._true_from[host], first_tick, self._tick + 1)

    def metrics(self, host: int, tick: int) -> tuple[Metric, ...] | None:
        """The samples of a host's running containers; None: the block is past this tick, or past a change before it."""
        if tick > self._tick:
            self._compute(tick)
        if tick < self._tick or tick < self._true_from[host]:
            return None
        return metrics_of_values(self._refs[host], self._cpu[host], self._bytes[host])

    def stretch(self, host: int, ticks: range) -> tuple[_Signed, NDArray[np.float64], _Signed]:
        """The values of a host's containers for each of some ticks, past ones too.

        Args:
            host: its place in the block.
            ticks: by ones, at least one of them.

        Returns:
            By tick and container: ref, and CPU in percent; by tick, these three, and container: memory, rx and tx in bytes.
            Negative is None, and where memory is, the container does not run.
        """
        return self._stretch(self._series.of(host), (self._lives[host],), ticks)

    def stretch_of_all(self, ticks: range) -> tuple[_Signed, NDArray[np.float64], _Signed]:
        """The same of all hosts, whose containers stand side by side, host by host."""
        if self._abreast is None:
            self._abreast = self._series.abreast()
        return self._stretch(self._abreast, self._lives, ticks)

    def _stretch(
        self, series: "_Series", lives: Sequence[Lives], ticks: range
    ) -> tuple[_Signed, NDArray[np.float64], _Signed]:
        refs, since, running = self._spells(lives, ticks)
        column = np.arange(ticks.start, ticks.stop)[:, np.newaxis]
        first, last = ticks[0] >> PIECE, ticks[-1] >> PIECE
        starts = np.arange(first, last + 2)[:, np.newaxis] << PIECE
        levels = series.level(starts)
        piece = (column[:, 0] >> PIECE) - first
        walks = _between(levels[:, piece], levels[:, piece + 1], column)
        before, steps = series.busy_before(since), series.steps(starts)[piece]
        cpu, sizes = series.values(column, since, before, running, walks, steps)
        return refs, cpu, sizes

    def _spells(self, lives: Sequence[Lives], ticks: range) -> tuple[_Signed, _Signed, NDArray[np.bool_]]:
        """Refs, the tick since which each runs, and whether it does: per tick and container."""
        containers = self._since.shape[1]
        shape = len(ticks), len(lives) * containers
        refs, since = np.tile(np.arange(containers), (shape[0], len(lives))), np.zeros(shape, np.int64)
        running = np.ones(shape, np.bool_)
        for host, life in enumerate(lives):
            for place in life.changing():
                column, tick = host * containers + place, ticks.start
                while tick < ticks.stop:
                    spell = life.spell(place, tick)
                    rows = slice(tick - ticks.start, spell.until - ticks.start)
                    refs[rows, column], since[rows, column] = spell.ref, spell.since
                    running[rows, column] = spell.state == "running"
                    tick = spell.until
        return refs, since, running

    def _compute(self, tick: int) -> None:
        series, piece = self._series, tick >> PIECE
        if tick >= self._quiet_until:
            self._turn(tick)
        if piece != self._piece:
            start = piece << PIECE
            self._walks_from = self._walks_to if piece == self._piece + 1 else series.level(start)
            self._walks_to = series.level(start + (1 << PIECE))
            self._steps = series.steps(start)
            self._piece = piece
        walks = _between(self._walks_from, self._walks_to, tick)
        since, before = self._since, self._busy_before
        self._cpu, self._bytes = series.values(tick, since, before, self._running, walks, self._steps)
        self._tick = tick

    def _turn(self, tick: int) -> None:
        """Ask what became of the containers whose spell is over."""
        for host, place in np.argwhere(self._until <= tick).tolist():
            spell = self._lives[host].spell(place, tick)
            self._refs[host][place] = spell.ref
            self._since[host, place] = spell.since
            self._busy_before[host, place] = self._series.dailies[host].total(spell.since)
            self._running[host, place] = spell.state == "running"
            self._until[host, place] = spell.until
        self._quiet_until = int(self._until.min())


class _Series:
    """The characters of some hosts' containers, as arrays of hosts x containers."""

    __slots__ = (*(f"_{name}" for name in _FIELDS), "_keys", "_networked", "_shift_ticks", "_walk_keys", "dailies")
    _cpu_base: _Signed
    _cpu_jitter: _Signed
    _cpu_walk: _Signed
    _cpu_day: _Signed
    _cpu_spike: _Signed
    _cpu_max: _Signed
    _mem_base: _Signed
    _mem_walk: _Signed
    _mem_saw: _Signed
    _mem_step: _Signed
    _mem_spike: _Signed
    _mem_leak: _Signed
    _mem_max: _Signed
    _saw_ticks: _Signed
    _spike_ticks: _Signed
    _spike_phase: _Signed
    _spike_width: _Signed
    _spike_slack: _Signed
    _spike_mask: _Signed
    _rx_rate: _Signed
    _rx_day: _Signed
    _tx_rate: _Signed
    _tx_day: _Signed

    def __init__(self, hosts: Sequence[Sequence[Character]]) -> None:
        for name in _FIELDS:
            rows = [[getattr(character, name) or 0 for character in host] for host in hosts]
            setattr(self, f"_{name}", np.array(rows, np.int64))
        self._keys = np.array([[character.key for character in host] for host in hosts], np.uint64)
        self._walk_keys = np.stack((self._keys ^ np.uint64(CPU_WALK), self._keys ^ np.uint64(MEM_WALK)))
        self._networked = np.array([[character.rx_rate is not None for character in host] for host in hosts])
        # All containers of a host share its day, and all hosts the length of an hour.
        self.dailies = [host[0].daily for host in hosts]
        self._shift_ticks = np.array([[daily.shift_ticks] for daily in self.dailies], np.int64)

    def of(self, host: int) -> "_Series":
        """One host of these."""
        one = object.__new__(_Series)
        for name in self.__slots__:
            value = getattr(self, name)
            setattr(one, name, [value[host]] if isinstance(value, list) else value[..., host : host + 1, :])
        return one

    def abreast(self) -> "_Series":
        """These hosts as one that has the containers of all, side by side."""
        one = object.__new__(_Series)
        hosts, containers = self._keys.shape
        for name in self.__slots__:
            value = getattr(self, name)
            if name == "_shift_ticks":
                value = np.repeat(value, containers, axis=1)
            if name != "dailies":
                value = value.reshape(*value.shape[:-2], 1, hosts * containers)
            setattr(one, name, value)
        return one

    def level(self, tick: _Ticks) -> _Signed:
        """Where straight pieces of the walks of CPU and memory begin: see `signals.Walk`."""
        point = np.asarray(tick) >> _OCTAVES
        keys = self._walk_keys + _OCTAVES.view(np.uint64)
        here, there = _bits(_noise(keys, point), 48, 16), _bits(_noise(keys, point + 1), 48, 16)
        octaves = _WEIGHTS * (here + ((there - here) * (tick - (point << _OCTAVES)) >> _OCTAVES))
        levels: _Signed = octaves.sum(axis=0) >> 2
        return levels

    def steps(self, tick: _Ticks) -> _Signed:
        """Memory's step at a tick: see `signals.Step`. It holds for the whole piece."""
        level = _bits(_noise(self._keys ^ np.uint64(STEPS), tick >> STEP), 48, 16)
        return self._mem_step * level >> 16

    def busy_before(self, since: _Signed) -> _Signed:
        """The sum of the day's curve up to the tick since which each container runs."""
        return self._day(since)[1]

    def values(
        self,
        tick: _Ticks,
        since: _Signed,
        busy_before: _Signed,
        running: NDArray[np.bool_],
        walks: _Signed,
        steps: _Signed,
    ) -> tuple[NDArray[np.float64], _Signed]:
        """CPU per row and container; memory, rx and tx per row and container: what `ContainerSignals` says."""
        age = tick - since
        jitter, spike = _noise(self._keys, tick), self._spike(tick)
        day, busy = self._day(tick)
        hundredths = self._cpu_base + (self._cpu_walk * walks[0] >> 16) + (self._cpu_day * day >> 16)
        hundredths += (self._cpu_jitter * _bits(jitter, 0, 16) >> 16) + self._cpu_spike * spike
        cpu = np.where(age > 0, np.minimum(hundredths, self._cpu_max) / 100, _NONE)
        saw = (age % self._saw_ticks << 16) // self._saw_ticks
        mem = self._mem_base + (self._mem_walk * walks[1] >> 16) + (self._mem_saw * saw >> 16) + steps
        mem += self._mem_spike * spike + self._mem_leak * age + _bits(jitter, 16, 16)
        mem = np.minimum(mem, self._mem_max) // PAGE * PAGE
        busy = busy - busy_before
        sizes = np.empty((len(age), 3, age.shape[1]), np.int64)
        sizes[:, 0] = np.where(running, mem, _NONE)
        sizes[:, 1] = self._counter(self._rx_rate, self._rx_day, age, busy, _bits(jitter, 32, 16))
        sizes[:, 2] = self._counter(self._tx_rate, self._tx_day, age, busy, _bits(jitter, 48, 16))
        return cpu, sizes

    def _counter(self, rate: _Signed, daily: _Signed, age: _Signed, busy: _Signed, jitter: _Signed) -> _Signed:
        """See `signals.Counter`."""
        total = rate * age + daily * (busy >> 16) + (daily * (busy & UNIT - 1) >> 16) + (rate * jitter >> 16)
        return np.where(self._networked, total, _NONE)

    def _spike(self, tick: _Ticks) -> NDArray[np.bool_]:
        """See `signals.Spike`."""
        shifted = tick + self._spike_phase
        number = shifted // self._spike_ticks
        past = shifted - number * self._spike_ticks
        bits = _noise(self._keys ^ np.uint64(SPIKES), number)
        past -= _bits(bits, 40, 24) * self._spike_slack >> 24
        fires: NDArray[np.bool_] = bits.view(np.int64) & self._spike_mask == 0
        return fires & (past >= 0) & (past < self._spike_width)

    def _day(self, tick: _Ticks) -> tuple[_Signed, _Signed]:
        """How busy a tick is, and the sum up to it: see `signals.Daily`."""
        length = self.dailies[0].hour_ticks
        hours, past = np.divmod(tick + self._shift_ticks, length)
        days, hour = np.divmod(hours, 24)
        here = _HOURS[hour]
        slope = _HOURS[hour + 1] - here
        whole = (days * PREFIX[24] + _PREFIX[hour]) * length
        return here + slope * past // length, whole + here * past + slope * past * past // (2 * length)


def metrics_of_values(refs: Sequence[int], cpu: NDArray[np.float64], sizes: _Signed) -> tuple[Metric, ...]:
    """The samples of one host and tick, of its values as `SignalBlock.stretch` gives them."""
    columns = refs, cpu.tolist(), *sizes.tolist()
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
    """The walks at a tick of straight pieces: see `signals.Walk`."""
    return start + ((end - start) * (tick & (1 << PIECE) - 1) >> PIECE)


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
