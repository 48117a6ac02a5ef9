"""A simulated Docker host: its containers, and every row of every tick, as a function of the seed and its inputs."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Literal, NamedTuple

import numpy as np

from server.protocol.messages import Container, ContainerState, Log, Metric
from simulator.loglines import LogLines
from simulator.names import Names
from simulator.signal_blocks import BLOCK_SAMPLES, SignalBlock
from simulator.signals import Character, ContainerSignals, character_of, key_of, mix, noise

InputKind = Literal["start", "stop", "restart"]

_SHARED_AT_US = 1000
"""Lines of a tick lie at most this far apart, two by two at the same microsecond."""


class Input(NamedTuple):
    """Something that the seed does not hold: a command that was carried out after `tick` and before the next."""

    tick: int
    ref: int
    kind: InputKind


class _Phase(NamedTuple):
    """A stretch of a container's life."""

    first_tick: int
    running: bool


_ALWAYS = (_Phase(0, running=True),)


class FakeHost:
    """One host. It keeps no clock and does no I/O; any tick can be asked for, in any order.

    Args:
        seed: of the run.
        agent: number of the host, from 1.
        containers: how many, at least 1.
        log_lines: lines per tick over the whole host.
        t0_us: Unix microseconds of tick 0, before the host's phase.
        interval_us: microseconds between two ticks.
        lines: the pool of log lines of the same seed.
        names: the names of the same seed.

    Attributes:
        agent: number of the host.
        host_id: `host-00001`.
        machine_id: 32 hexadecimal digits, stable for (seed, agent).
        t0_us: as given; a fleet sets it when all its hosts are built.
        phase_us: how long after t0 its first tick lies, in [0, interval_us).
    """

    __slots__ = (
        "_block", "_key", "_lifes", "_line_key", "_lines", "_log_lines", "_names", "_place", "_ref_key", "_seed",
        "agent", "containers", "cores", "host_id", "hostname", "interval_us", "machine_id", "phase_us",
        "t0_us",
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
    ) -> None:
        self._seed = seed
        self._key = key = key_of(seed, agent)
        self._line_key, self._ref_key = key_of(key, 1), key_of(key, 2)
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
        self._block: SignalBlock | None = None
        self._place = 0
        self._lifes: dict[int, tuple[_Phase, ...]] = {}

    def at(self, tick: int) -> int:
        """When a tick is due, in Unix microseconds."""
        return self.t0_us + self.phase_us + tick * self.interval_us

    def first_tick_at(self, at_us: int) -> int:
        """The first tick at or after `at_us`, at least 0."""
        return max(0, -((self.t0_us + self.phase_us - at_us) // self.interval_us))

    def docker_id(self, ref: int) -> str:
        """The container's Docker id, 64 hexadecimal digits; another one for each host and seed."""
        return sha256(f"container/{self.machine_id}/{ref}".encode()).hexdigest()

    def container(self, ref: int, tick: int) -> Container:
        """A container as the host reports it after `tick`."""
        service, image = self._names.service(self._key, ref)
        project = self._names.project(self._key)
        number = ref // 10 + 1
        state: ContainerState = "running" if self._phase(ref, tick + 1).running else "exited"
        return Container(
            ref=ref,
            id=self.docker_id(ref),
            name=f"{project}-{service}-{number}",
            image=image,
            state=state,
            labels={
                "com.docker.compose.project": project,
                "com.docker.compose.service": service,
                "com.docker.compose.container-number": str(number),
            },
            memory_limit_bytes=self._memory_limit_bytes(ref),
            protected=service == "db",
        )

    def characters(self) -> list[Character]:
        """What its containers are like, by ref."""
        return [
            character_of(self._seed, self.agent, ref, self.cores, self._memory_limit_bytes(ref))
            for ref in range(self.containers)
        ]

    def join(self, block: SignalBlock, place: int) -> None:
        """Take the samples from a block that was made of this host's characters too."""
        self._block, self._place = block, place
        for ref, life in self._lifes.items():
            block.change(place, ref, life[-1].first_tick, running=life[-1].running)

    def metrics(self, tick: int) -> tuple[Metric, ...]:
        """The samples of a tick: one of each running container."""
        if self._block is not None:
            metrics = self._block.metrics(self._place, tick)
            if metrics is not None:
                return metrics
        rows = []
        for ref, character in enumerate(self.characters()):
            phase = self._phase(ref, tick)
            if phase.running:
                cpu, mem, rx, tx = ContainerSignals(character).at(tick, phase.first_tick)
                rows.append(Metric(ref=ref, cpu=cpu, mem=mem, rx=rx, tx=tx))
        return tuple(rows)

    def metrics_of(self, ticks: range) -> list[tuple[Metric, ...]]:
        """The samples of some ticks that follow one another. Many cost little more than one."""
        since = np.zeros((len(ticks), self.containers), np.int64)
        running = np.ones(since.shape, np.bool_)
        for ref in self._lifes:
            phases = [self._phase(ref, tick) for tick in ticks]
            since[:, ref] = [phase.first_tick for phase in phases]
            running[:, ref] = [phase.running for phase in phases]
        block = self._block
        if block is None:
            block = SignalBlock([self.characters()])
            self.join(block, 0)
        return block.stretch(self._place, ticks, since, running)

    def logs(self, tick: int) -> tuple[Log, ...]:
        """The lines of a tick, spread over its running containers; two by two they share their microsecond."""
        count = self._log_lines
        if not count:
            return ()
        refs = range(self.containers)
        running = refs if not self._lifes else [ref for ref in refs if self._phase(ref, tick).running]
        if not running:
            return ()
        at = self.at(tick)
        apart_us = min(_SHARED_AT_US, self.interval_us // count)
        ordinals: dict[tuple[int, int], int] = {}
        rows = []
        for i in range(count):
            counter = tick * count + i
            ref = running[noise(self._ref_key, counter) % len(running)]
            line_at = at - (count - 1 - i) // 2 * apart_us
            ordinal = ordinals.get((ref, line_at), 0)
            ordinals[ref, line_at] = ordinal + 1
            stream, text, partial = self._lines.pick(self._line_key, counter)
            rows.append(Log(ref=ref, at=line_at, line=ordinal, stream=stream, text=text, partial=partial))
        return tuple(rows)

    def apply(self, change: Input) -> bool:
        """Carry out a command; it shows from the tick after `change.tick` on.

        Inputs come in the order of their ticks. Starting what runs and stopping what does not changes nothing.

        Returns:
            Whether the container's state or start changed.

        Raises:
            KeyError: there is no such container.
        """
        if not 0 <= change.ref < self.containers:
            raise KeyError(change.ref)
        life = self._lifes.get(change.ref, _ALWAYS)
        last = life[-1]
        running = change.kind != "stop"
        if change.kind != "restart" and last.running == running:
            return False
        first = change.tick + 1
        # Two commands between the same two ticks: only the later one is ever seen.
        kept = life if last.first_tick < first else life[:-1]
        self._lifes[change.ref] = (*kept, _Phase(first, running))
        if self._block is not None:
            self._block.change(self._place, change.ref, first, running=running)
        return True

    def forget(self, before: int) -> None:
        """Drop what only ticks below `before` need, so that commands without end do not fill memory."""
        for ref, life in self._lifes.items():
            past = sum(phase.first_tick <= before for phase in life[1:])
            self._lifes[ref] = life[past:]

    def _phase(self, ref: int, tick: int) -> _Phase:
        life = self._lifes.get(ref, _ALWAYS)
        for phase in reversed(life):
            if phase.first_tick <= tick:
                return phase
        return life[0]

    def _memory_limit_bytes(self, ref: int) -> int | None:
        bits = mix(self._key + ref)
        return None if bits & 3 == 0 else (256 << 20) << (bits >> 2 & 3)


def share_blocks(hosts: Sequence[FakeHost]) -> None:
    """Let hosts take their samples from common blocks.

    Args:
        hosts: of one fleet, in the order of their phases: those of a block should ask for a tick at about the same time.
    """
    size = max(1, BLOCK_SAMPLES // hosts[0].containers)
    for start in range(0, len(hosts), size):
        group = hosts[start : start + size]
        block = SignalBlock([host.characters() for host in group])
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
