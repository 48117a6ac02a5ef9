"""Every agent that the server knows: who is connected, who takes over, and what containers each has."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from server.agents import GONE, AgentRecord, Progress, Session, TrackedContainer, now_us
from server.counters import Counters
from server.errors import PeerError
from server.protocol.canonical import clean_text
from server.protocol.close_codes import CloseCode
from server.protocol.error_codes import ErrorCode
from server.protocol.identity import container_id
from server.protocol.messages import About, Container, Error, Hello, Inventory
from server.quotas import Quotas
from server.sockets import Socket

NO_EPOCH = "00000000-0000-0000-0000-000000000000"
"""Of a host that was invited and never seen."""

SeriesKey = tuple[str, str, str]
"""Organisation, host and series: a workload across re-created containers."""


@dataclass(slots=True)
class InventoryChange:
    """What an inventory message changed, and what of it was refused."""

    upserts: list[TrackedContainer]
    removed: list[TrackedContainer]
    errors: list[Error]


class Registry:
    """Every agent the server knows, by (organisation, host).

    Plain functions only: nothing here waits. `on_host` is called when a host's state changed for its watchers.
    """

    def __init__(
        self,
        counters: Counters,
        quotas: Quotas,
        *,
        lanes: int,
        max_containers: int,
        labels_bytes: int,
        heartbeat_seconds: int,
        offline_after_seconds: float,
    ) -> None:
        self._counters = counters
        self._quotas = quotas
        self._lanes = lanes
        self._max_containers = max_containers
        self._labels_bytes = labels_bytes
        self._silence_seconds = 3.0 * heartbeat_seconds
        self._offline_after_seconds = offline_after_seconds
        self.records: dict[tuple[str, str], AgentRecord] = {}
        self._of_org: dict[str, dict[str, AgentRecord]] = {}
        self.by_container: dict[int, AgentRecord] = {}
        self.dirty: set[AgentRecord] = set()
        self.protected: frozenset[SeriesKey] = frozenset()
        """Series that Admins protected; labels beside."""
        self.connected = 0
        self._sessions = 0
        self._known = 0
        self._leaving: dict[AgentRecord, float] = {}
        """Closed sockets whose host is not offline yet, with the monotonic time when it will be."""
        self.on_host: Callable[[AgentRecord, list[TrackedContainer], list[TrackedContainer]], None] = _no_watchers

    def record(self, org: str, host: str) -> AgentRecord:
        """The record of a host, new if it was never seen. Its lane follows from its name, for life."""
        key = (org, host)
        if (record := self.records.get(key)) is None:
            lane = container_id(org, host, "") % self._lanes
            record = self.records[key] = AgentRecord(org, host, self._known, lane, self._quotas.of(org))
            self._known += 1
            self._of_org.setdefault(org, {})[host] = record
        return record

    def invite(self, org: str, host: str) -> None:
        """A host whose agent was invited: it is known from now on, never seen until it connects."""
        record = self.record(org, host)
        if record.hello is None:
            record.hello = Hello(
                protocol=1, epoch=NO_EPOCH, connection=1, machine_id="", oldest=1, next_seq=1, agent_version="",
                hostname="", cores=0,
            )  # fmt: skip

    def of_org(self, org: str) -> Collection[AgentRecord]:
        """The hosts of one organisation: what is summed up for it must not walk those of all."""
        return self._of_org.get(org, {}).values()

    def restore(self, org: str, host: str, info: Container) -> None:
        """A container that the database knows as present: the next full list that lacks it removes it."""
        record = self.record(org, host)
        container = TrackedContainer(org, host, info)
        if self.by_container.setdefault(container.id, record) is record and container.id not in record.by_id:
            record.by_id[container.id] = container
            record.count_present(container.removed_at is None)
            self._pin(record, container)

    def protect(self, protected: frozenset[SeriesKey]) -> None:
        """Take over which series are protected; their watchers are told."""
        changed = self.protected ^ protected
        self.protected = protected
        for key in {(org, host) for org, host, _ in changed}:
            if (record := self.records.get(key)) is not None:
                containers = [c for c in record.by_id.values() if (*key, c.series) in changed]
                for container in containers:
                    self._pin(record, container)
                if containers:
                    self.on_host(record, [c for c in containers if c.removed_at is None], [])

    def _pin(self, record: AgentRecord, container: TrackedContainer) -> None:
        container.pinned = (record.org, record.host, container.series) in self.protected

    # -- connections

    def sessions(self) -> Iterator[Session]:
        """Of all agents that are connected. Nobody may connect or leave while it is walked."""
        return (record.session for record in self.records.values() if record.session is not None)

    def is_connected(self, org: str, host: str) -> bool:
        """Whether the host's agent has a connection now."""
        record = self.records.get((org, host))
        return record is not None and record.session is not None

    def connect(self, org: str, host: str, hello: Hello, socket: Socket) -> tuple[Session, list[Error]]:
        """Admit a connection, take over an older one of the same machine, and take its containers.

        Raises:
            PeerError: another machine is connected as this host, or this connection is older than the one there is.
        """
        hello = _cleaned_hello(hello)
        record = self.record(org, host)
        current = record.session
        if current is not None:
            self._take_over(record, current, hello)
        now = asyncio.get_running_loop().time()
        record.pay()  # for the acks that did not reach it: the welcome tells how far it is
        if hello.epoch != record.progress.epoch:
            self._begin_epoch(record, hello.epoch)
        record.progress.tell_again()
        record.organisation.agents += 1
        self._sessions += 1
        session = Session(
            id=f"{self._sessions:x}-{now_us():x}", socket=socket, record=record, progress=record.progress,
            connection=hello.connection, next_seq=hello.next_seq, machine_id=hello.machine_id, last_frame=now,
        )  # fmt: skip
        record.hello = hello
        record.session = session
        record.ack_due = False
        record.last_seen_us = now_us()
        record.alert = None
        record.progress.on_change = record.send_ack
        self._leaving.pop(record, None)
        self.connected += 1
        record.snapshot = set()
        change = self._take_containers(record, hello.containers, listed=record.snapshot)
        if not hello.containers_follow:
            change.removed += self._end_snapshot(record)
        record.online = True
        self.dirty.add(record)
        record.epoch_dirty = True
        self.on_host(record, change.upserts, change.removed)
        return session, change.errors

    def _take_over(self, record: AgentRecord, current: Session, hello: Hello) -> None:
        if hello.machine_id != current.machine_id:
            self._counters.duplicate_identities += 1
            record.alert = "duplicate_identity"
            self.dirty.add(record)
            self.on_host(record, [], [])
            raise PeerError(
                ErrorCode.DUPLICATE_IDENTITY,
                f"machine_id = {hello.machine_id!r}: another machine is connected as host {record.host!r};"
                " each host needs a token of its own",
                About(type="hello", field="machine_id"),
            )
        if hello.epoch == record.progress.epoch and hello.connection <= current.connection:
            error = PeerError(
                ErrorCode.BAD_REQUEST,
                f"connection = {hello.connection}: expected more than {current.connection}, which is connected",
                About(type="hello", field="connection"),
            )
            error.close_code = CloseCode.SUPERSEDED
            raise error
        self._counters.takeovers += 1
        self.disconnect(current)
        current.socket.close(CloseCode.SUPERSEDED, "a newer connection of this agent took over")

    def _begin_epoch(self, record: AgentRecord, epoch: str) -> None:
        """Refs and sequence numbers begin anew; what earlier epochs stored is remembered per container."""
        record.progress.on_change = None
        record.progress = Progress(epoch)
        record.containers = {}
        for container in record.by_id.values():
            container.floor_at = max(container.floor_at, container.last_at)
            container.last_at = 0

    def disconnect(self, session: Session) -> None:
        """The session's socket is gone. Idempotent; the host goes offline after its grace."""
        record = session.record
        if record.session is not session:
            return
        record.last_seen_us = record.seen_us()
        record.session = None
        record.progress.on_change = None
        record.organisation.agents -= 1
        self.connected -= 1
        self._leaving[record] = asyncio.get_running_loop().time() + self._offline_after_seconds

    def leave(self, session: Session) -> None:
        """The agent said bye: offline at once."""
        self.disconnect(session)
        if self._leaving.pop(session.record, None) is not None:
            self._set_offline(session.record)

    def tick(self) -> None:
        """Once a second: close the silent, show the gone as offline."""
        now = asyncio.get_running_loop().time()
        for record in self.records.values():
            session = record.session
            if session is not None and now - session.last_frame > self._silence_seconds:
                session.socket.close(CloseCode.SILENT, f"no frame for {self._silence_seconds:g} s")
                self.disconnect(session)
                self._leaving[record] = now
        for record in [r for r, at in self._leaving.items() if at <= now]:
            del self._leaving[record]
            self._set_offline(record)

    def forget(self, removed_before: float) -> int:
        """Drop containers that are gone since before `removed_before` (Unix seconds); returns how many."""
        count = 0
        for record in self.records.values():
            gone = [c for c in record.by_id.values() if c.removed_at is not None and c.removed_at < removed_before]
            for container in gone:
                del record.by_id[container.id]
                self.by_container.pop(container.id, None)
                record.dirty.discard(container.id)
            if gone:
                known = record.by_id
                record.containers = {ref: c for ref, c in record.containers.items() if c.id in known}
            count += len(gone)
        self._counters.containers_forgotten += count
        return count

    def drop_host(self, org: str, host: str, seen_before_us: int) -> bool:
        """Forget a host that was not seen since then, with its containers; False: it was, or is connected."""
        record = self.records.get((org, host))
        if record is None:
            return True
        if record.session is not None or record.seen_us() >= seen_before_us:
            return False
        del self.records[org, host]
        del self._of_org[org][host]
        if not self._of_org[org]:
            del self._of_org[org]
        record.count_present(-record.present)
        for key in record.by_id:
            if self.by_container.get(key) is record:
                del self.by_container[key]
        self._counters.containers_forgotten += len(record.by_id)
        self.dirty.discard(record)
        self._leaving.pop(record, None)
        return True

    def _set_offline(self, record: AgentRecord) -> None:
        record.online = False
        self.dirty.add(record)
        self.on_host(record, [], [])

    # -- containers

    def inventory(self, record: AgentRecord, message: Inventory) -> InventoryChange:
        """Take over what changed among an agent's containers."""
        listed = None
        if message.snapshot is not None:
            listed = record.snapshot = record.snapshot or set()
        change = self._take_containers(record, message.upserts, listed)
        for ref in message.removed:
            if (container := record.containers.get(ref)) is not None:
                self._mark_removed(record, container)
                change.removed.append(container)
        if message.snapshot == "last":
            change.removed += self._end_snapshot(record)
        self.dirty.add(record)
        self.on_host(record, change.upserts, change.removed)
        return change

    def _take_containers(
        self, record: AgentRecord, containers: Iterable[Container], listed: set[int] | None
    ) -> InventoryChange:
        """Take containers over; `listed`: the refs of the snapshot that they are a part of, noted there."""
        change = InventoryChange([], [], [])
        # A full list replaces what was there before, so only what it lists counts against the limit.
        counting = record.by_id.values() if listed is None else _named(record, listed)
        present = {c.id for c in counting if c.removed_at is None}
        for raw in containers:
            info = _cleaned(raw)
            known = record.containers.get(info.ref)
            if known is not None and known.info.id != info.id:
                change.errors.append(
                    _about_container(info, "ref", f"ref = {info.ref}: already names another container")
                )
                continue
            if known is not None and listed is not None:
                listed.add(info.ref)  # even if what it says now is refused: it is there
            if (size := _labels_size(info)) > self._labels_bytes:
                change.errors.append(
                    _limit(info, "labels", f"labels: {size} bytes, expected at most {self._labels_bytes}")
                )
                continue
            container = known or record.by_id.get(container_id(record.org, record.host, info.id))
            is_new = container is None or container.id not in present
            if info.state not in GONE and is_new:
                if len(present) >= self._max_containers:
                    message = f"expected at most {self._max_containers} containers"
                    change.errors.append(_limit(info, "containers", message))
                    continue
                organisation = record.organisation
                if organisation.containers - record.present + len(present) >= organisation.limits.containers:
                    message = f"expected at most {organisation.limits.containers} containers in the organisation"
                    change.errors.append(_limit(info, "containers", message))
                    continue
            if container is None:
                container = TrackedContainer(record.org, record.host, info)
                owner = self.by_container.setdefault(container.id, record)
                if owner is not record:
                    self._counters.container_collisions += 1
                    change.errors.append(_about_container(info, "id", f"id = {info.id}: its 63-bit key is taken"))
                    continue
                record.by_id[container.id] = container
                was_present = False
            else:
                was_present = container.removed_at is None
                container.update(info)
            self._pin(record, container)
            record.count_present((container.removed_at is None) - was_present)
            if container.removed_at is None:
                present.add(container.id)
            else:
                present.discard(container.id)
            record.containers[info.ref] = container
            if listed is not None:
                listed.add(info.ref)
            record.dirty.add(container.id)
            change.upserts.append(container)
        return change

    def _end_snapshot(self, record: AgentRecord) -> list[TrackedContainer]:
        """The list is complete: what it lacks is gone."""
        seen, record.snapshot = record.snapshot or set(), None
        listed = {c.id for c in _named(record, seen)}
        gone = [c for c in record.by_id.values() if c.id not in listed and c.removed_at is None]
        for container in gone:
            self._mark_removed(record, container)
        return gone

    def _mark_removed(self, record: AgentRecord, container: TrackedContainer) -> None:
        info = container.info
        record.count_present(-(container.removed_at is None))
        container.update(
            Container(
                ref=info.ref, id=info.id, name=info.name, image=info.image, state="removed", labels=info.labels,
                memory_limit_bytes=info.memory_limit_bytes, protected=info.protected,
            )
        )  # fmt: skip
        record.dirty.add(container.id)


def _no_watchers(_record: AgentRecord, _upserts: list[TrackedContainer], _removed: list[TrackedContainer]) -> None:
    """Until the hub is joined."""


def _named(record: AgentRecord, refs: Iterable[int]) -> list[TrackedContainer]:
    """The containers of some refs, but for those that were forgotten since."""
    return [c for ref in refs if (c := record.containers.get(ref)) is not None]


def _cleaned_hello(hello: Hello) -> Hello:
    """Without characters that Postgres cannot store: the hosts of all are written together."""
    return msgspec.structs.replace(
        hello, machine_id=clean_text(hello.machine_id), hostname=clean_text(hello.hostname),
        agent_version=clean_text(hello.agent_version),
    )  # fmt: skip


def _cleaned(info: Container) -> Container:
    """Without characters that Postgres cannot store."""
    texts = (info.name, info.image, *info.labels, *info.labels.values())
    if all(clean_text(text) is text for text in texts):
        return info
    return Container(
        ref=info.ref, id=info.id, name=clean_text(info.name), image=clean_text(info.image), state=info.state,
        labels={clean_text(k): clean_text(v) for k, v in info.labels.items()},
        memory_limit_bytes=info.memory_limit_bytes, protected=info.protected,
    )  # fmt: skip


def _labels_size(info: Container) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in info.labels.items())


def _about_container(info: Container, field_name: str, message: str) -> Error:
    return Error(
        code=ErrorCode.INVALID_CONTAINER, message=f"container {info.name!r}: {message}", fatal=False,
        about=About(field=field_name, ref=info.ref),
    )  # fmt: skip


def _limit(info: Container, field_name: str, message: str) -> Error:
    return Error(
        code=ErrorCode.LIMIT_EXCEEDED, message=f"container {info.name!r}: {message}", fatal=False,
        about=About(field=field_name, ref=info.ref),
    )  # fmt: skip
