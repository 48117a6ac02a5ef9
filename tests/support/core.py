"""The server's core without sockets and database: an agent that says hello, lanes and watchers that write down."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from server.agents import AgentRecord, Session, TrackedContainer, now_us
from server.counters import Counters
from server.dirty_minutes import DirtyMinutes
from server.hub import sample_of
from server.ingest import Ingest, LaneSink, LiveSink, PendingBatch
from server.log_bounds import LogBounds
from server.protocol.codec import BadRow, Decoded, encode
from server.protocol.messages import Batch, Container, Hello, Log, LogLine, Metric, Sample, Window
from server.quotas import Limits, Quotas
from server.registry import Registry
from server.windows import Budget, Windows
from tests.support.sockets import ScriptedSocket

SECOND_US = 1_000_000
EPOCH = "11111111-1111-4111-8111-111111111111"
OTHER_EPOCH = "22222222-2222-4222-8222-222222222222"


def container(ref: int = 0, number: int | None = None, **fields: Any) -> Container:
    """Container `number` of its host (the same as its ref, if not given)."""
    number = ref if number is None else number
    defaults: dict[str, Any] = {
        "ref": ref, "id": f"{number:064x}", "name": f"c{number}", "image": "i", "state": "running",
    }  # fmt: skip
    return Container(**defaults | fields)


def hello(*containers: Container, **fields: Any) -> Hello:
    """A first hello of a new agent."""
    defaults: dict[str, Any] = {
        "protocol": 1, "epoch": EPOCH, "connection": 1, "machine_id": "m1", "oldest": 1, "next_seq": 1,
        "agent_version": "1", "hostname": "box", "cores": 4, "containers": containers,
    }  # fmt: skip
    return Hello(**defaults | fields)


def make_quotas(**limits: int) -> Quotas:
    """Quotas that nobody reaches, but for those given."""
    defaults = {"agents": 10**9, "containers": 10**9, "subscribers": 10**9, "batches_per_second": 10**9}
    return Quotas(Limits(**defaults | limits))


def make_registry(counters: Counters | None = None, quotas: Quotas | None = None, **limits: Any) -> Registry:
    """A registry of one lane."""
    defaults: dict[str, Any] = {
        "lanes": 1, "max_containers": 100, "labels_bytes": 1000, "heartbeat_seconds": 15, "offline_after_seconds": 5.0,
    }  # fmt: skip
    return Registry(counters or Counters(), quotas or make_quotas(), **defaults | limits)


def make_ingest(
    counters: Counters,
    lanes: Sequence[LaneSink],
    live: LiveSink,
    *,
    budget: Budget | None = None,
    registry: Registry | None = None,
    window_batches: int = 64,
    window_bytes: int = 1_000_000,
    log_text_bytes: int = 16_384,
    dirty_minutes: DirtyMinutes | None = None,
) -> Ingest:
    """Ingest as a day of retention and a minute of future want it."""
    budget = budget or Budget(256 * 1024 * 1024)
    windows = Windows(budget, registry or make_registry(), Window(batches=window_batches, bytes=window_bytes))
    return Ingest(
        counters, budget, windows, lanes, live, LogBounds(2**40), dirty_minutes or DirtyMinutes(),
        accept_past_seconds=86_340, future_seconds=60,
        log_text_bytes=log_text_bytes,
    )  # fmt: skip


def show(known: TrackedContainer, at: int, **values: Any) -> None:
    """Let a container have newest values, as if a batch had brought them."""
    known.live_at, known.newest = at, Metric(ref=known.info.ref, **values)


def send(ingest: Ingest, session: Session, batch: Batch, bad_rows: tuple[BadRow, ...] = ()) -> int:
    """Let a session send a batch; returns the bytes of its frame."""
    size = len(encode(batch))
    ingest.accept(session, Decoded(batch, bad_rows), batch, size)
    return size


@dataclass
class RecordingLane:
    """Keeps what it is offered."""

    batches: list[PendingBatch] = field(default_factory=list)

    def offer(self, batch: PendingBatch) -> None:
        """Keep it."""
        self.batches.append(batch)

    def commit(self) -> None:
        """Let everything be committed, the acks be sent."""
        batches, self.batches = self.batches, []
        for batch in batches:
            batch.progress.committed(batch.seq, 1, batch.frame_bytes, batch.rejected)
        for progress in {id(batch.progress): batch.progress for batch in batches}.values():
            if progress.on_change is not None:
                progress.on_change()


@dataclass
class RecordingLive:
    """Watches everything, or nothing, and keeps what is published."""

    watched: bool = True
    samples: list[Sample] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    """Names of containers, once for each sample."""
    lines: list[tuple[str, LogLine]] = field(default_factory=list)

    def publish_samples(self, record: AgentRecord, containers: list[TrackedContainer]) -> None:
        """Keep the samples."""
        self.samples += map(sample_of, containers)

    def publish_late(self, record: AgentRecord, containers: list[TrackedContainer]) -> None:
        """Keep whose they are."""
        self.late += [container.info.name for container in containers]

    def publish_lines(self, org: str, container: TrackedContainer, lines: list[LogLine]) -> None:
        """Keep the lines."""
        self.lines += [(container.info.name, line) for line in lines]

    def watches_logs(self, container: TrackedContainer) -> bool:
        """As told."""
        return self.watched

    def watches_samples(self, record: AgentRecord) -> bool:
        """As told."""
        return self.watched


@dataclass
class Peer:
    """An agent with one connection, which numbers its batches itself."""

    ingest: Ingest
    session: Session
    socket: ScriptedSocket
    seq: int = 0

    def batch(self, *metrics: Metric, logs: tuple[Log, ...] = (), **fields: Any) -> Batch:
        """Send the next batch, or one with other `fields`."""
        self.seq = fields.get("seq", self.seq + 1)
        defaults: dict[str, Any] = {"seq": self.seq, "oldest": 1, "at": now_us(), "metrics": metrics, "logs": logs}
        batch = Batch(**defaults | fields)
        send(self.ingest, self.session, batch)
        return batch


def connect(registry: Registry, ingest: Ingest, greeting: Hello, *, org: str = "o", host: str = "h1") -> Peer:
    """Let an agent connect; its next batch is the first one never sent."""
    socket = ScriptedSocket()
    session, errors = registry.connect(org, host, greeting, socket)
    ingest.windows.open(session)
    assert not errors
    return Peer(ingest, session, socket, greeting.next_seq - 1)
