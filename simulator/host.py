"""A simulated Docker host: its containers, and every row of every tick, as a function of the seed and its inputs."""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.protocol.messages import Container, Log, Metric
from simulator.host_clock import HostClock
from simulator.lives import Input, InputKind, Lives
from simulator.loglines import LogLines
from simulator.names import Names
from simulator.profiles import DEFAULT_MIX, PROFILES, Character, ContainerSignals, Profile, Shares, character_of
from simulator.signal_blocks import BLOCK_SAMPLES, SignalBlock, metrics_of_values
from simulator.signals import key_of, noise

__all__ = ["FakeHost", "Input", "InputKind", "command_seconds", "host_id", "share_blocks"]

_SHARED_AT_US = 1000
"""Lines of a tick lie at most this far apart, two by two at the same microsecond."""


_BURST_PERIOD, _BURST_ONE_IN = 6, 32
"""In one of so many periods, of ticks as a power of two, one container of the host prints a burst."""
_BURST_TICKS, _BURST_FACTOR, _BURST_LINES = 8, 7, 200
"""It lasts so many ticks, and brings so many times the usual lines on top, within a bound that frames can hold."""
_REFUSALS = (
    "driver failed programming external connectivity: Bind for 0.0.0.0:8080 failed: port is already allocated",
    "OCI runtime create failed: unable to start container process: no such file or directory",
    "cannot stop container: tried to kill container, but did not receive an exit event",
    "removal of container is already in progress",
)
"""What Docker says."""
_LONGEST_STOP_MS = 10_000
"""What ignores SIGTERM is killed after that."""
_LOOPING = frozenset({PROFILES.index(Profile.LEAKING), PROFILES.index(Profile.CRASH_LOOPING)})


class Handling(NamedTuple):
    """How a host handles a command."""

    seconds: float
    """How long it takes."""
    refusal: str
    """Why Docker refuses it in the end; empty: it does not."""


class FakeHost:
    """One host. It reads no clock and does no I/O; any tick can be asked for, in any order.

    Args:
        seed: of the run.
        agent: number of the host, from 1.
        containers: how many at any time, at least 1.
        log_lines: lines per tick over the whole host.
        t0_us: Unix microseconds of tick 0, before the host's phase.
        interval_us: microseconds between two ticks.
        lines: the pool of log lines of the same seed.
        names: the names of the same seed.
        profiles: weights of what its containers do, checked.
        churn_ticks: each container is re-created once in so many ticks, at least `lives.MIN_CHURN_TICKS`; 0: never.
        troubled_commands: share of the commands, 0 to 1, that it carries out late or refuses; decided by seed and action id.

    Attributes:
        agent: number of the host.
        clock: its own.
        host_id: `host-00001`.
        machine_id: 32 hexadecimal digits, stable for (seed, agent).
        lives: when its containers run.
        t0_us: as given; a fleet sets it when all its hosts are built.
        phase_us: how long after t0 its first tick lies, in [0, interval_us).
    """

    __slots__ = (
        "_block", "_burst_first", "_burst_key", "_burst_period", "_key", "_line_key", "_lines", "_log_lines", "_names",
        "_place", "_profiles", "_seed", "_troubled", "agent", "clock", "containers", "cores", "host_id", "hostname",
        "interval_us", "lives", "machine_id", "phase_us", "t0_us",
    )  # fmt: skip

    def __init__(
        self,
        *,
        seed: int,
        agent: int,
        containers: int,
        log_lines: int,
        t0_us: int,
        interval_us: int,
        lines: LogLines,
        names: Names,
        profiles: Mapping[str, int] = DEFAULT_MIX,
        churn_ticks: int = 0,
        troubled_commands: float = 0.0,
    ) -> None:
        self._seed = seed
        self._key = key = key_of(seed, agent)
        self._line_key, self._burst_key = key_of(key, 1), key_of(key, 2)
        self._burst_period, self._burst_first = -1, 0
        self._lines, self._names = lines, names
        self._log_lines = log_lines
        self.t0_us, self.interval_us = t0_us, interval_us
        self.agent = agent
        self.host_id = host_id(agent)
        self.machine_id = sha256(f"machine/{seed}/{agent}".encode()).hexdigest()[:32]
        self.hostname = names.hostname(key, agent)
        self.cores = 2 << noise(key, 4) % 5
        self.containers = containers
        self.phase_us = noise(key, 5) % interval_us
        self._profiles = Shares(profiles).of_host(key, containers)
        self._troubled = round(troubled_commands * (1 << 20))
        self._block: SignalBlock | None = None
        self._place = 0
        loops = {
            place: loop
            for place, number in enumerate(self._profiles)
            if number in _LOOPING and (loop := self._character(place).loop) is not None
        }
        self.lives = Lives(key, containers, churn_ticks, loops)
        self.clock = HostClock()

    def due(self, tick: int) -> int:
        """When a tick is due, in Unix microseconds."""
        return self.t0_us + self.phase_us + tick * self.interval_us

    def at(self, tick: int) -> int:
        """What the host says of its time: when it was due, by its own clock."""
        return self.due(tick) + self.clock.ahead_us(tick)

    def first_tick_at(self, at_us: int) -> int:
        """The first tick due at or after `at_us`, at least 0."""
        return max(0, -((self.t0_us + self.phase_us - at_us) // self.interval_us))

    def docker_id(self, ref: int) -> str:
        """The container's Docker id, 64 hexadecimal digits; another one for each host, seed and re-creation."""
        return sha256(f"container/{self.machine_id}/{ref}".encode()).hexdigest()

    def profile(self, place: int) -> Profile:
        """What the containers at a place of the host do; see `Lives` for places."""
        return PROFILES[self._profiles[place]]

    def container(self, ref: int, tick: int) -> Container:
        """A container as the host reports it after `tick`."""
        return self.inventory((ref,), tick)[0]

    def inventory(self, refs: Iterable[int], tick: int) -> list[Container]:
        """Containers as the host reports them after `tick`. Many cost little more than one."""
        ranks = list[int]()
        seen = [0] * len(PROFILES)
        for number in self._profiles:
            ranks.append(seen[number])
            seen[number] += 1
        return [self._container(ref, ranks[ref % self.containers], tick) for ref in refs]

    def _container(self, ref: int, rank: int, tick: int) -> Container:
        place = ref % self.containers
        service = self._names.service(self._key, self.profile(place), rank)
        return Container(
            ref=ref,
            id=self.docker_id(ref),
            name=service.container,
            image=service.image,
            state=self.lives.state(ref, tick + 1),
            labels={
                "com.docker.compose.project": service.project,
                "com.docker.compose.service": service.name,
                "com.docker.compose.container-number": str(service.number),
            },
            memory_limit_bytes=self._character(place).memory_limit_bytes,
            protected=service.name == "db",
        )

    def _character(self, place: int) -> Character:
        return character_of(self.profile(place), self._seed, self.agent, place, self.cores, self.interval_us)

    def characters(self) -> list[Character]:
        """What its containers are like, by place."""
        return [self._character(place) for place in range(self.containers)]

    def join(self, block: SignalBlock, place: int) -> None:
        """Take the samples from a block that was made of this host's characters and lives too."""
        self._block, self._place = block, place

    def metrics(self, tick: int) -> tuple[Metric, ...]:
        """The samples of a tick: one of each running container."""
        if self._block is not None:
            metrics = self._block.metrics(self._place, tick)
            if metrics is not None:
                return metrics
        rows = []
        for place in range(self.containers):
            spell = self.lives.spell(place, tick)
            if spell.state == "running":
                cpu, mem, rx, tx = ContainerSignals(self._character(place)).at(tick, spell.since)
                rows.append(Metric(ref=spell.ref, cpu=cpu, mem=mem, rx=rx, tx=tx))
        return tuple(rows)

    def metrics_of(self, ticks: range) -> list[tuple[Metric, ...]]:
        """The samples of some ticks that follow one another. Many cost little more than one."""
        refs, cpu, sizes = self.values_of(ticks)
        return [metrics_of_values(*row) for row in zip(refs.tolist(), cpu, sizes, strict=True)]

    def values_of(self, ticks: range) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """The values of the samples of some ticks that follow one another, as arrays: see `SignalBlock.stretch`."""
        block = self._block
        if block is None:
            block = SignalBlock([self.characters()], [self.lives])
            self.join(block, 0)
        return block.stretch(self._place, ticks)

    def logs(self, tick: int) -> tuple[Log, ...]:
        """The lines of a tick, spread over its running containers; two by two they share their microsecond.

        They are `log_lines` entries, of which a stack trace has several lines, and now and then a burst of one container.
        """
        count = self._log_lines
        if not count:
            return ()
        running = self.lives.running(tick)
        if not running:
            return ()
        containers, profiles, pick = self.containers, self._profiles, self._lines.pick
        printed = []
        for counter in range(tick * count, tick * count + count):
            bits = noise(self._line_key, counter)
            ref = running[(bits >> 48) % len(running)]
            for line in pick(profiles[ref % containers], bits):
                printed.append((ref, line))  # noqa: PERF401 - a generator per entry costs more
        if tick >> _BURST_PERIOD != self._burst_period:
            self._burst_period = tick >> _BURST_PERIOD
            self._burst_first = self._burst_of(self._burst_period)
        if 0 <= tick - self._burst_first < _BURST_TICKS:
            key = self._burst_key + tick
            ref = running[self._burst_first % len(running)]
            for number in range(min(_BURST_FACTOR * count, _BURST_LINES)):
                printed += [(ref, line) for line in self._lines.alarm(noise(key, number))]
        at, last = self.at(tick), len(printed) - 1
        if not last:
            ref, (stream, text, partial) = printed[0]
            return (Log(ref=ref, at=at, line=0, stream=stream, text=text, partial=partial),)
        apart_us = min(_SHARED_AT_US, self.interval_us // len(printed))
        ordinals: dict[tuple[int, int], int] = {}
        rows = []
        for i, (ref, (stream, text, partial)) in enumerate(printed):
            line_at = at - (last - i) // 2 * apart_us
            ordinal = ordinals.get((ref, line_at), 0)
            ordinals[ref, line_at] = ordinal + 1
            rows.append(Log(ref=ref, at=line_at, line=ordinal, stream=stream, text=text, partial=partial))
        return tuple(rows)

    def _burst_of(self, period: int) -> int:
        """The first tick of the burst of a period; one before it by far: it has none."""
        bits = noise(self._burst_key, period)
        if bits % _BURST_ONE_IN:
            return -1 << 62
        return (period << _BURST_PERIOD) + (bits >> 32) % ((1 << _BURST_PERIOD) - _BURST_TICKS)

    def apply(self, change: Input) -> bool:
        """Carry out a command; see `Lives.apply`."""
        changed = self.lives.apply(change)
        if changed and self._block is not None:
            self._block.change(self._place, change.ref % self.containers, change.tick + 1)
        return changed

    def handling(self, action_id: str) -> Handling:
        """How the host handles a command. Of the troubled ones half are refused, and half wait for what does not stop."""
        seconds = command_seconds(self.agent, action_id)
        bits = key_of(self._key, *action_id.encode())
        if bits >> 44 >= self._troubled:
            return Handling(seconds, "")
        if bits & 1:
            return Handling(seconds, _REFUSALS[(bits >> 1) % len(_REFUSALS)])
        return Handling(seconds + 1 + (bits >> 1) % (_LONGEST_STOP_MS - 1000) / 1000, "")

    def forget(self, before: int) -> None:
        """Drop what only ticks below `before` need, so that commands without end do not fill memory."""
        self.lives.forget(before)


def share_blocks(hosts: Sequence[FakeHost]) -> None:
    """Let hosts take their samples from common blocks.

    Args:
        hosts: of one fleet, in the order of their phases: those of a block should ask for a tick at about the same time.
    """
    size = max(1, BLOCK_SAMPLES // hosts[0].containers)
    for start in range(0, len(hosts), size):
        group = hosts[start : start + size]
        block = SignalBlock([host.characters() for host in group], [host.lives for host in group])
        for place, host in enumerate(group):
            host.join(block, place)


def host_id(agent: int) -> str:
    """The `sub` of an agent's token."""
    return f"host-{agent:05d}"


def command_seconds(agent: int, action_id: str) -> float:
    """How long a host takes to carry out a command: 50-250 ms, what Docker takes to stop something quick.

    It is the same in every run, so whoever measures a round trip can tell the host's share from the server's.
    """
    return (50 + key_of(agent, *action_id.encode()) % 200) / 1000
