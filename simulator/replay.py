"""Recorded agents as hosts of a fleet: what they sent, at its times, under other names, as often as wanted.

Tick `k` of a host is the `k`-th batch of its recorded agent; past the last one the recording begins anew, a period later.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

import msgspec
import numpy as np
from numpy.typing import NDArray

from server.protocol.canonical import float32
from server.protocol.messages import Container, Log, Metric
from simulator.host import Handling, command_seconds, host_id
from simulator.host_clock import HostClock
from simulator.lives import Input
from simulator.recorded_agents import Recording
from simulator.samples import NO_SAMPLES, SAMPLE, Samples
from simulator.signals import key_of, noise


class _Still:
    """The lives of containers that are there all the time."""

    def __init__(self, containers: int) -> None:
        self._containers = containers

    def turned(self, before: int, tick: int) -> Sequence[int]:
        del before, tick
        return ()

    def recreated(self, turned: Sequence[int]) -> int:
        del turned
        return 0

    def refs(self, first: int, last: int) -> list[int]:
        del first, last
        return list(range(self._containers))


class ReplayHost:
    """A host that sends what a recorded agent sent. It offers what `FakeHost` does.

    Args:
        recording: all of it.
        seed: of the run: another one gives other identities.
        agent: number of the host, from 1; the recorded agents take turns.
        t0_us: Unix microseconds of the recording's first batch, before the host's phase.
        start_us: how much later this host begins the recording: its moment of the fleet's ramp. It loses nothing by it.

    Attributes:
        See `FakeHost`.
    """

    __slots__ = (
        "_batches", "_dues", "_recorded", "_recording", "agent", "clock", "cores", "host_id", "hostname",
        "interval_us", "lives", "machine_id", "phase_us", "t0_us",
    )  # fmt: skip

    def __init__(self, recording: Recording, *, seed: int, agent: int, t0_us: int, start_us: int = 0) -> None:
        recorded = recording.agents[(agent - 1) % len(recording.agents)]
        self._recording, self._recorded, self._batches = recording, recorded, recorded.batches
        self._dues = recorded.dues_us
        self.agent, self.t0_us = agent, t0_us
        self.host_id = host_id(agent)
        self.machine_id = sha256(f"replay/{seed}/{agent}/{recorded.hello.machine_id}".encode()).hexdigest()[:32]
        self.hostname = f"{recorded.hello.hostname[:200]}-{agent}"
        self.cores = recorded.hello.cores
        self.clock = HostClock()
        self.lives = _Still(len(recorded.containers))
        self.interval_us = recorded.interval_us
        # The first copy of each begins at its start; the others spread, so that they do not all send at once.
        first = agent <= len(recording.agents)
        self.phase_us = start_us + (0 if first else noise(key_of(seed, agent), 5) % self.interval_us)

    @property
    def round_ticks(self) -> int:
        """Ticks after which the recording begins anew."""
        return len(self._batches)

    def due(self, tick: int) -> int:
        """When a tick is due, Unix microseconds."""
        turn, place = divmod(tick, len(self._batches))
        return self._shift(turn) + self._dues[place]

    def at(self, tick: int) -> int:
        """What its batch says of its time."""
        turn, place = divmod(tick, len(self._batches))
        return self._shift(turn) + self.clock.ahead_us(tick) + self._batches[place].at_us

    def first_tick_at(self, at_us: int) -> int:
        """The first tick due at or after `at_us`, at least 0."""
        turn = max(0, (at_us - self._shift(0) - self._dues[-1] - 1) // self._recording.period_us)
        while self._shift(turn) + self._dues[-1] < at_us:
            turn += 1
        return turn * len(self._dues) + bisect_left(self._dues, at_us - self._shift(turn))

    def docker_id(self, ref: int) -> str:
        """Another one for each host and seed."""
        return sha256(f"replay/{self.machine_id}/{self._recorded.containers[ref].id}".encode()).hexdigest()

    def inventory(self, refs: Iterable[int], tick: int) -> list[Container]:
        """Containers as they were recorded last, under Docker ids of their own; all are there all the time."""
        del tick
        known = self._recorded.containers
        return [msgspec.structs.replace(known[ref], id=self.docker_id(ref)) for ref in refs]

    def metrics(self, tick: int) -> tuple[Metric, ...]:
        """The samples of a tick."""
        turn, place = divmod(tick, len(self._batches))
        batch, shift = self._batches[place], self._shift(turn) + self.clock.ahead_us(tick)
        return tuple(
            [
                Metric(
                    ref=row.ref, cpu=row.cpu, mem=row.mem, rx=row.rx, tx=row.tx,
                    at=None if row.at is None or row.at == batch.at_us else row.at + shift,
                )
                for row in batch.metrics
            ]
        )  # fmt: skip

    def metrics_of(self, ticks: range) -> list[tuple[Metric, ...]]:
        """The samples of some ticks."""
        return [self.metrics(tick) for tick in ticks]

    def logs(self, tick: int) -> tuple[Log, ...]:
        """The lines of a tick."""
        turn, place = divmod(tick, len(self._batches))
        shift = self._shift(turn) + self.clock.ahead_us(tick)
        return tuple([msgspec.structs.replace(row, at=row.at + shift) for row in self._batches[place].logs])

    def stored(self, key_of_ref: Callable[[int], int], ticks: range) -> tuple[Samples, NDArray[np.int64]]:
        """The samples of some ticks as stored, and the tick of each; see `samples_of`."""
        found = [(tick, self.at(tick), row) for tick in ticks for row in self.metrics(tick)]
        if not found:
            return NO_SAMPLES, np.empty(0, np.int64)
        rows = np.zeros(len(found), SAMPLE)
        for place, (_, at, row) in enumerate(found):
            values = (None if row.cpu is None else float32(row.cpu), row.mem, row.rx, row.tx)
            nulls = sum(1 << bit for bit, value in enumerate(values) if value is None)
            rows[place] = (key_of_ref(row.ref), at if row.at is None else row.at, *(v or 0 for v in values), nulls)
        return rows, np.array([tick for tick, _, _ in found], np.int64)

    def apply(self, change: Input) -> bool:
        """Never comes: `handling` refuses every command."""
        raise KeyError(change.ref)

    def handling(self, action_id: str) -> Handling:
        """A recording cannot be told anything."""
        return Handling(command_seconds(self.agent, action_id), "a replayed agent carries out no commands")

    def forget(self, before: int) -> None:
        """Nothing is kept."""

    def _shift(self, turn: int) -> int:
        return self.t0_us + self.phase_us + turn * self._recording.period_us
