"""Recorded agents as hosts of a fleet: what they sent, at its times, under other names, as often as wanted.

Tick `k` of a host is the `k`-th batch of its recorded agent; past the last one the recording begins anew, a period later.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from server.protocol.canonical import float32
from server.protocol.codec import FrameError, decode_agent_message
from server.protocol.messages import Batch, Container, Hello, Inventory, Log, Metric
from simulator.errors import PlanError, as_option
from simulator.host import Handling, command_seconds, host_id
from simulator.lives import Input
from simulator.recording import Frame, RecordingError, read_entries
from simulator.samples import NO_SAMPLES, SAMPLE, Samples
from simulator.signals import key_of, noise
from simulator.workload import MIN_INTERVAL_US

_FEWEST_US = 1_000
"""Shortest time that a recording is taken to last."""


class RecordedBatch(NamedTuple):
    """A batch of a recorded agent. Times in microseconds after the recording's first batch; rows hold such times too."""

    due_us: int
    """When it arrived."""
    at_us: int
    """What the agent's clock said: before 0 where it was behind, or where the batch was old."""
    metrics: tuple[Metric, ...]
    """Each with its own time; `ref` is the container's place in `RecordedAgent.containers`."""
    logs: tuple[Log, ...]


@dataclass(slots=True)
class RecordedAgent:
    """One agent of a recording."""

    hello: Hello
    containers: list[Container] = field(default_factory=list)
    """Every one that it ever named, as it was named last; `ref` is the place."""
    batches: list[RecordedBatch] = field(default_factory=list)
    """In the order of their arrival."""

    @property
    def interval_us(self) -> int:
        """Mean time between two batches; a second if there is but one."""
        count = len(self.batches) - 1
        return max(_FEWEST_US, (self.batches[-1].due_us - self.batches[0].due_us) // count) if count else 1_000_000


@dataclass(frozen=True, slots=True)
class Recording:
    """What a recording holds of agents that sent batches.

    Attributes:
        path: where it was read.
        digest: SHA-256 of the file, hexadecimal.
        agents: in the order of their first batch.
        left_out: frames that are no message, and rows of containers that were never named.
        period_us: after which it begins anew: rows of two rounds never share a time.
        slack_us: how far a row's time lies from its batch's arrival, at most.
    """

    path: Path
    digest: str
    agents: tuple[RecordedAgent, ...]
    left_out: int
    period_us: int
    slack_us: int

    @property
    def interval_us(self) -> int:
        """The shortest mean time between two batches of an agent."""
        return min(agent.interval_us for agent in self.agents)

    @property
    def most_containers(self) -> int:
        """Of an agent."""
        return max(len(agent.containers) for agent in self.agents)

    @property
    def most_lines(self) -> int:
        """Of an agent, per batch, rounded up."""
        return max(-(-sum(len(b.logs) for b in agent.batches) // len(agent.batches)) for agent in self.agents)

    def plan_fields(self, times: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a plan that sends it so many times.

        Args:
            times: how many hosts send what each recorded agent sent.
            given: of the fields that a recording decides those that somebody asked for.

        Raises:
            PlanError: there is one, or `times` is below 1.
        """
        for name, value in given.items():
            raise PlanError(*as_option(name, value), "nothing: --replay sends what was recorded")
        if times < 1:
            raise PlanError("times", times, "at least 1")
        return {
            "recording": self, "agents": times * len(self.agents), "containers": max(1, self.most_containers),
            "log_lines": self.most_lines, "interval_us": max(MIN_INTERVAL_US, self.interval_us),
        }  # fmt: skip


def read_recording(path: Path) -> Recording:
    """Read a recording.

    Raises:
        RecordingError: it cannot be used: see `read_entries`; or no agent sent a batch in it.
    """
    gathered = _Gathered()
    for entry in read_entries(path):
        if isinstance(entry, Frame):
            gathered.take(entry)
    found = [agent for agent in gathered.agents.values() if agent.batches]
    if not found:
        raise RecordingError(f"{path}: no agent sent a batch in it: expected one at least")
    origin = min(agent.batches[0].due_us for agent in found)
    agents = tuple(sorted((_rebased(agent, origin) for agent in found), key=lambda agent: agent.batches[0].due_us))
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    dues = [batch.due_us for agent in agents for batch in agent.batches]
    slack = max(
        (abs(at - batch.due_us) for agent in agents for batch in agent.batches for at in _times(batch)), default=0
    )
    spans = [max(times) - min(times) for agent in agents if (times := [at for b in agent.batches for at in _times(b)])]
    longest = max([max(dues) - min(dues), *spans])
    return Recording(
        path, digest, agents, gathered.left_out, longest + max(agent.interval_us for agent in agents), slack
    )


class _Gathered:
    """The frames of a recording, agent by agent. Resent batches are taken once."""

    def __init__(self) -> None:
        self.agents: dict[str, RecordedAgent] = {}
        self.left_out = 0
        self._speakers: dict[int, RecordedAgent] = {}
        self._refs: dict[tuple[str, str], dict[int, int]] = {}
        """The place of each container, by the agent's machine and epoch."""
        self._seen: set[tuple[str, str, int]] = set()

    def take(self, frame: Frame) -> None:
        """A frame, in the order of the recording."""
        try:
            message, bad_rows, _ = decode_agent_message(frame.text)
        except FrameError:
            self.left_out += 1
            return
        self.left_out += len(bad_rows)
        if isinstance(message, Hello):
            agent = self.agents.setdefault(message.machine_id, RecordedAgent(message))
            agent.hello = message
            self._speakers[frame.connection] = agent
            self._name(agent, message.containers)
            return
        speaker = self._speakers.get(frame.connection)
        if speaker is None:
            self.left_out += 1
        elif isinstance(message, Inventory):
            self._name(speaker, message.upserts)
        elif isinstance(message, Batch):
            key = speaker.hello.machine_id, speaker.hello.epoch, message.seq
            if key not in self._seen:
                self._seen.add(key)
                speaker.batches.append(self._batch(speaker, message, frame.at_us))

    def _name(self, agent: RecordedAgent, containers: Iterable[Container]) -> None:
        refs = self._refs.setdefault((agent.hello.machine_id, agent.hello.epoch), {})
        places = {container.id: place for place, container in enumerate(agent.containers)}
        for container in containers:
            place = refs[container.ref] = places.setdefault(container.id, len(agent.containers))
            named = msgspec.structs.replace(container, ref=place)
            if place < len(agent.containers):
                agent.containers[place] = named
            else:
                agent.containers.append(named)

    def _batch(self, agent: RecordedAgent, batch: Batch, due_us: int) -> RecordedBatch:
        refs = self._refs[agent.hello.machine_id, agent.hello.epoch]
        replace = msgspec.structs.replace
        metrics = tuple(
            replace(row, ref=refs[row.ref], at=batch.at if row.at is None else row.at)
            for row in batch.metrics
            if row.ref in refs
        )
        logs = tuple(replace(row, ref=refs[row.ref]) for row in batch.logs if row.ref in refs)
        self.left_out += len(batch.metrics) + len(batch.logs) - len(metrics) - len(logs)
        return RecordedBatch(due_us, batch.at, metrics, logs)


class _Still:
    """The lives of containers that are there all the time."""

    def __init__(self, containers: int) -> None:
        self._containers = containers

    def turned(self, before: int, tick: int) -> Sequence[int]:
        del before, tick
        return ()

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

    Attributes:
        See `FakeHost`.
    """

    __slots__ = (
        "_batches", "_dues", "_recorded", "_recording", "agent", "cores", "host_id", "hostname",
        "interval_us", "lives", "machine_id", "phase_us", "t0_us",
    )  # fmt: skip

    def __init__(self, recording: Recording, *, seed: int, agent: int, t0_us: int) -> None:
        recorded = recording.agents[(agent - 1) % len(recording.agents)]
        self._recording, self._recorded, self._batches = recording, recorded, recorded.batches
        self._dues = [batch.due_us for batch in recorded.batches]
        self.agent, self.t0_us = agent, t0_us
        self.host_id = host_id(agent)
        self.machine_id = sha256(f"replay/{seed}/{agent}/{recorded.hello.machine_id}".encode()).hexdigest()[:32]
        self.hostname = f"{recorded.hello.hostname[:200]}-{agent}"
        self.cores = recorded.hello.cores
        self.lives = _Still(len(recorded.containers))
        self.interval_us = recorded.interval_us
        # The first copy of each is on the recording's own time; the others spread, so that they do not all send at once.
        first = agent <= len(recording.agents)
        self.phase_us = 0 if first else noise(key_of(seed, agent), 5) % self.interval_us

    def due(self, tick: int) -> int:
        """When a tick is due, Unix microseconds."""
        turn, place = divmod(tick, len(self._batches))
        return self._shift(turn) + self._dues[place]

    def at(self, tick: int) -> int:
        """What its batch says of its time."""
        turn, place = divmod(tick, len(self._batches))
        return self._shift(turn) + self._batches[place].at_us

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
        batch, shift = self._batches[place], self._shift(turn)
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
        shift = self._shift(turn)
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


def _times(batch: RecordedBatch) -> Iterator[int]:
    """Of its rows."""
    yield from (row.at for row in batch.metrics if row.at is not None)
    yield from (row.at for row in batch.logs)


def _rebased(agent: RecordedAgent, origin: int) -> RecordedAgent:
    """The same with times after `origin`."""
    replace = msgspec.structs.replace
    agent.batches = [
        RecordedBatch(
            batch.due_us - origin,
            batch.at_us - origin,
            tuple(replace(row, at=row.at - origin) if row.at is not None else row for row in batch.metrics),
            tuple(replace(row, at=row.at - origin) for row in batch.logs),
        )
        for batch in agent.batches
    ]
    return agent
