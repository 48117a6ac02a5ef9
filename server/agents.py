"""An agent as the server knows it: its containers, and per epoch what was received and committed.

A `Progress` belongs to one epoch of one agent and outlives its sockets: what arrived on a connection that broke is
still committed, and the acknowledgement goes to whichever connection the agent has then.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from server.protocol.codec import encode
from server.protocol.identity import container_id, series_name
from server.protocol.messages import (
    Ack,
    Container,
    ContainerStatus,
    Hello,
    HostStatus,
    Metric,
    Rejected,
    Window,
)
from server.quotas import Organisation
from server.rows import metric_head
from server.sockets import Socket

GONE = frozenset({"removed", "dead"})
"""States of a container that is no longer there."""
NO_WINDOW = Window(batches=1, bytes=1)
"""Before the first is told."""
REJECTED_SHOWN = 20
"""Rejected rows that an ack names; those beyond are counted by reason."""


def now_us() -> int:
    """Wall clock in Unix microseconds."""
    return time.time_ns() // 1000


class TrackedContainer:
    """A container of an agent: its key, its newest times, and what the live view shows of it."""

    __slots__ = (
        "floor_at", "head", "id", "info", "key", "last_at", "last_log", "late_log_bytes", "live_at", "log_bytes", "log_mark",
        "marked_closing", "marked_from", "marked_until", "newest", "pinned", "removed_at", "series",
    )  # fmt: skip

    def __init__(self, org: str, host: str, info: Container) -> None:
        self.id = container_id(org, host, info.id)
        self.key = str(self.id)
        self.head = metric_head(self.id)
        self.last_at = 0
        """Newest sample of this epoch: the next must be later."""
        self.floor_at = 0
        """Newest sample of earlier epochs: at or below it a row may be stored already."""
        self.marked_from = self.marked_until = self.marked_closing = 0
        """The minute that was marked last for the rollup (`server.dirty_minutes`)."""
        self.last_log = (0, -1)
        self.log_bytes = 0
        """Of lines since the last segment (`server.log_bounds`)."""
        self.log_mark = 0
        """When `log_bytes` reaches it, the bounds are told."""
        self.late_log_bytes = 0
        self.live_at = 0
        self.newest: Metric | None = None
        """What the live view shows of it, of the time `live_at`; None: nothing yet, or it does not run."""
        self.removed_at: float | None = None
        self.pinned = False
        """An Admin protected its series. The registry keeps it."""
        self.update(info)

    def update(self, info: Container) -> None:
        """Take over what the agent says of it now."""
        self.info = info
        self.series = series_name(info.name, info.labels)
        if info.state in GONE:
            self.removed_at = self.removed_at or time.time()
        else:
            self.removed_at = None
        if info.state != "running":
            self.newest = None

    @property
    def protected(self) -> bool:
        """Whether only an Admin may stop it: by its label, or because an Admin said so."""
        return self.info.protected or self.pinned

    def status(self, host: str) -> ContainerStatus:
        """As the API shows it."""
        info = self.info
        return ContainerStatus(
            id=self.key, host=host, docker_id=info.id, name=info.name, series=self.series, image=info.image,
            state=info.state, protected=self.protected, memory_limit_bytes=info.memory_limit_bytes, labels=info.labels,
        )  # fmt: skip


class Progress:
    """What was received and committed of one epoch."""

    __slots__ = (
        "acked", "epoch", "on_change", "outstanding_batches", "outstanding_bytes", "received", "rejected", "rejected_more",
        "suspect", "told", "unacked_batches", "unacked_bytes",
    )  # fmt: skip

    def __init__(self, epoch: str, acked: int = 0) -> None:
        self.epoch = epoch
        self.acked = acked
        self.received = acked
        self.outstanding_batches = 0
        self.outstanding_bytes = 0
        self.unacked_batches = 0
        """Committed, and the agent was not told yet: they fill its window still."""
        self.unacked_bytes = 0
        self.rejected: list[Rejected] = []
        self.rejected_more: Counter[str] = Counter()
        self.told: list[Rejected] = []
        """The rejections that an ack named last: its socket may have broken before the agent read it."""
        self.suspect = False
        """It produced a duplicate: its rows are merged, not copied, from then on."""
        self.on_change: Callable[[], None] | None = None
        """Sends the ack, while the agent is connected."""

    def committed(self, seq: int, batches: int, size: int, rejected: Iterable[Rejected]) -> None:
        """Everything up to `seq` is in the database; `batches` of `size` frame bytes are no longer on their way."""
        self.acked = max(self.acked, seq)
        self.outstanding_batches -= batches
        self.outstanding_bytes -= size
        self.unacked_batches += batches
        self.unacked_bytes += size
        for row in rejected:
            if len(self.rejected) < REJECTED_SHOWN:
                self.rejected.append(row)
            else:
                self.rejected_more[row.reason] += 1

    def take_ack(self) -> Ack:
        """The cumulative ack with the rejections since the one before."""
        ack = Ack(seq=self.acked, rejected=tuple(self.rejected), rejected_more=dict(self.rejected_more))
        if self.rejected:
            self.told = self.rejected
        self.rejected = []
        self.rejected_more.clear()
        return ack

    def tell_again(self) -> None:
        """A new connection: name once more what the one before may not have carried. (seq, row) tells a repetition."""
        self.rejected += self.told[: REJECTED_SHOWN - len(self.rejected)]
        self.told = []

    def restore(self, ack: Ack) -> None:
        """Put back what `take_ack` took: it was not sent."""
        self.rejected = list(ack.rejected)
        self.rejected_more = Counter(ack.rejected_more)


class AgentRecord:
    """An agent as the server knows it, connected or not."""

    __slots__ = (
        "ack_due",
        "alert",
        "by_id",
        "containers",
        "dirty",
        "epoch_dirty",
        "hello",
        "host",
        "lane",
        "last_seen_us",
        "number",
        "online",
        "org",
        "organisation",
        "present",
        "progress",
        "session",
        "skew_ms",
        "snapshot",
        "topic",
    )  # fmt: skip

    def __init__(self, org: str, host: str, number: int, lane: int, organisation: Organisation) -> None:
        self.org = org
        self.number = number
        """Of those that the server came to know since its start: spreads what is done for each now and then."""
        self.organisation = organisation
        """What its organisation takes, all its hosts together."""
        self.host = host
        self.lane = lane
        self.topic = (org, f"host:{host}")
        self.hello: Hello | None = None
        self.progress = Progress("")
        self.session: Session | None = None
        self.online = False
        self.last_seen_us = 0
        self.skew_ms: float | None = None
        self.alert: Literal["duplicate_identity"] | None = None
        self.containers: dict[int, TrackedContainer] = {}
        """By ref, of this epoch."""
        self.by_id: dict[int, TrackedContainer] = {}
        self.present = 0
        """Of these, containers that are there."""
        self.snapshot: set[int] | None = None
        """Refs seen so far of a full snapshot that comes in parts."""
        self.dirty: set[int] = set()
        """Containers that the database does not know as they are now."""
        self.epoch_dirty = False
        self.ack_due = False

    def seen_us(self) -> int:
        """When its last frame came, in Unix microseconds."""
        if self.session is None:
            return self.last_seen_us
        return now_us() - int((time.monotonic() - self.session.last_frame) * 1e6)

    def status(self) -> HostStatus:
        """As the API shows it."""
        hello = self.hello
        return HostStatus(
            id=self.host, hostname=hello.hostname if hello else "", online=self.online, last_seen=self.seen_us(),
            agent_version=hello.agent_version if hello else "", cores=hello.cores if hello else 0,
            containers=self.present,
            clock_skew_ms=self.skew_ms, alert=self.alert,
        )  # fmt: skip

    def send_ack(self) -> None:
        """Send the newest ack, or let it wait for the organisation's bucket.

        An agent that does not read keeps only that one pending.
        """
        session = self.session
        if session is None or not self.organisation.may_ack(self):
            return
        ack = self.progress.take_ack()
        if session.socket.try_send(encode(ack)):
            self.ack_due = False
            self.pay()
        else:
            self.progress.restore(ack)
            self.ack_due = True

    def pay(self) -> None:
        """The agent is told how far it is committed: its organisation pays for what that lets go."""
        progress = self.progress
        self.organisation.pay(progress.unacked_batches)
        progress.unacked_batches = progress.unacked_bytes = 0

    def count_present(self, change: int) -> None:
        """So many containers came (or went, below zero)."""
        self.present += change
        self.organisation.containers += change


@dataclass(slots=True)
class Session:
    """One connection of an agent, from hello to its end."""

    id: str
    socket: Socket
    record: AgentRecord
    progress: Progress
    connection: int
    next_seq: int
    """Batches below may have been stored before: they are merged."""
    machine_id: str
    last_frame: float
    """Monotonic seconds, the loop's time."""
    bad_frames: list[float] = field(default_factory=list)
    window: Window = NO_WINDOW
    """What the agent was told it may have on its way."""
    window_before: Window = NO_WINDOW
    """A larger one that it was told earlier, and that holds until then: monotonic seconds."""
    window_before_until: float = 0.0
    window_acked: int = 0
    """How far it was acknowledged when its window was looked at last."""
