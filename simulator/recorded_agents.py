"""The agents of a recording: what each of them sent, put together from its connections and restarts."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from server.protocol.codec import FrameError, decode_agent_message
from server.protocol.messages import Batch, Container, Hello, Inventory, Log, Metric
from simulator.errors import PlanError, as_option
from simulator.ledger import Replayed
from simulator.recording import Frame, RecordingError, read_entries
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
    dues_us: tuple[int, ...] = ()
    """When each of them is due. Made once they are all there: every copy of the agent looks them up."""

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
            "replayed": Replayed(path=str(self.path.resolve()), digest=self.digest),
            "agents": times * len(self.agents),
            "containers": max(1, self.most_containers),
            "log_lines": self.most_lines,
            "interval_us": max(MIN_INTERVAL_US, self.interval_us),
        }


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


def open_replayed(named: Replayed) -> Recording:
    """The recording that a plan or a ledger names.

    Raises:
        RecordingError: it cannot be used, or is another one.
    """
    recording = read_recording(Path(named.path))
    if recording.digest != named.digest:
        raise RecordingError(f"{named.path}: digest = {recording.digest}: expected {named.digest}, as in the ledger")
    return recording


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
    agent.dues_us = tuple(batch.due_us for batch in agent.batches)
    return agent
