"""From a decoded batch to its lane and its watchers, in one plain call.

    Ingest.accept --+--> hub
                    '--> lane.offer -> ... -> Progress.committed -> ack

Nothing here waits: the reader of a socket never stands behind the database.
"""

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from server.agents import AgentRecord, Progress, Session, TrackedContainer, now_us
from server.counters import Counters
from server.dirty_minutes import DirtyMinutes, Mark
from server.errors import PeerError
from server.log_bounds import LogBounds
from server.protocol.canonical import clean_log_text
from server.protocol.close_codes import CloseCode
from server.protocol.codec import BadRow, Decoded
from server.protocol.error_codes import ErrorCode, RejectReason
from server.protocol.messages import About, Batch, Log, LogLine, Pulse, Rejected
from server.reads import MINUTE_US
from server.rows import LINE_OVERHEAD_BYTES, METRIC_ROW_BYTES, ROW_OVERHEAD_BYTES, pack_log, pack_metric, pack_time
from server.windows import Budget, Windows

BATCH_OVERHEAD_BYTES = 600
"""A pending batch beside its rows: the object, its two lists, its place in the lane."""

MARK_BYTES = 160
"""A mark for the rollup: a tuple with its number, its place in a set."""

REJECTED_BYTES = 400
"""A rejected row with its place and detail: what its name costs until the ack."""


@dataclass(slots=True)
class PendingBatch:
    """A batch between its arrival and its COMMIT."""

    record: AgentRecord
    progress: Progress
    seq: int
    frame_bytes: int
    replay: bool
    """It may have been stored before: merge it, do not copy it."""
    metric_rows: list[bytes]
    log_rows: list[bytes]
    metric_positions: Sequence[int] = ()
    """Where each packed row stood in the frame."""
    log_positions: Sequence[int] = ()
    rejected: list[Rejected] = field(default_factory=list)
    marks: Collection[Mark] = ()
    """Minutes that the rollup must compute (again): stored in the transaction that stores the rows."""
    memory_bytes: int = 0
    received_at: float = field(default_factory=time.monotonic)
    """Monotonic seconds."""


class LaneSink(Protocol):
    """Where accepted batches go."""

    def offer(self, batch: PendingBatch) -> None:
        """Take a batch for the next flush. Never waits; the batch's memory is already counted."""


class LiveSink(Protocol):
    """Where the live view gets its rows."""

    def publish_samples(self, record: AgentRecord, containers: list[TrackedContainer]) -> None:
        """Containers of one host have a new `newest`, of their `live_at`."""

    def publish_late(self, record: AgentRecord, containers: list[TrackedContainer]) -> None:
        """Containers of one host, each as often as a sample of it was stored that is older than its `live_at`."""

    def publish_lines(self, org: str, container: TrackedContainer, lines: list[LogLine]) -> None:
        """New lines of one container."""

    def watches_logs(self, container: TrackedContainer) -> bool:
        """Whether anybody watches this container's log."""

    def watches_samples(self, record: AgentRecord) -> bool:
        """Whether anybody of the organisation watches samples."""


class Ingest:
    """Checks, packs and forks what agents send."""

    def __init__(
        self,
        counters: Counters,
        budget: Budget,
        windows: Windows,
        lanes: Sequence[LaneSink],
        live: LiveSink,
        log_bounds: LogBounds,
        dirty_minutes: DirtyMinutes,
        *,
        accept_past_seconds: float,
        future_seconds: float,
        log_text_bytes: int,
    ) -> None:
        self._counters = counters
        self.budget = budget
        self.windows = windows
        self._lanes = lanes
        self._live = live
        self._log_bounds = log_bounds
        self._dirty_minutes = dirty_minutes
        self._past_us = int(accept_past_seconds * 1e6)
        self._future_us = int(future_seconds * 1e6)
        self._log_text_bytes = log_text_bytes
        self.draining = False

    def clock(self) -> tuple[int, int]:
        """Earliest and latest row time taken now, Unix microseconds."""
        now = now_us()
        return now - self._past_us, now + self._future_us

    def accept(self, session: Session, decoded: Decoded, batch: Batch, frame_bytes: int) -> None:
        """Take a batch, or drop it as a replay.

        Raises:
            PeerError: an undeclared gap, a batch past the window, or no memory left; the connection ends.
        """
        if self.draining:
            return  # not acknowledged: the agent sends it to the next server
        progress = session.progress
        if batch.seq <= progress.received:
            self._counters.batches_replayed += 1
            if batch.seq <= progress.acked:
                session.record.send_ack()
            return
        self._check_order(progress, batch)
        self._check_window(session, batch, frame_bytes)
        pending = self._pack(session, decoded, batch, frame_bytes)
        self._take(session, pending)

    def skip(self, session: Session, seq: int, detail: str) -> None:
        """Pass over a batch that could not be read, if it is the one expected: those behind it are on their way already.

        Raises:
            PeerError: no memory left; the connection ends.
        """
        if self.draining or seq != session.progress.received + 1:
            return
        rejected = Rejected(seq=seq, row="batch", reason=RejectReason.INVALID_ROW, detail=detail)
        self._counters.rows_rejected[rejected.reason] += 1
        self._take(session, PendingBatch(session.record, session.progress, seq, 0, False, [], [], rejected=[rejected]))

    def _take(self, session: Session, pending: PendingBatch) -> None:
        """Count a batch in, and give it to its lane."""
        logs = pending.log_rows
        pending.memory_bytes = (
            len(pending.metric_rows) * (METRIC_ROW_BYTES + ROW_OVERHEAD_BYTES)
            + sum(map(len, logs))
            + len(logs) * ROW_OVERHEAD_BYTES
            + len(pending.rejected) * REJECTED_BYTES
            + len(pending.marks) * MARK_BYTES
            + BATCH_OVERHEAD_BYTES
        )
        organisation = session.record.organisation
        if not self.budget.take(organisation, pending.memory_bytes, pending.frame_bytes):
            error = PeerError(
                ErrorCode.UNAVAILABLE,
                "no memory left for unstored rows: keep them, come back later",
                About(type="batch", seq=pending.seq),
            )
            error.close_code = CloseCode.TRY_AGAIN_LATER
            raise error
        progress = session.progress
        self._counters.batches_declared_dropped += pending.seq - progress.received - 1
        progress.received = pending.seq
        self._dirty_minutes.marked(pending.marks)
        organisation.batches += 1
        progress.outstanding_batches += 1
        progress.outstanding_bytes += pending.frame_bytes
        self._counters.batches_accepted += 1
        self._lanes[session.record.lane].offer(pending)

    def pulse(self, session: Session, pulse: Pulse) -> None:
        """Newest values for the live view only."""
        record = session.record
        _, latest = self.clock()
        newest = []
        for metric in pulse.metrics:
            container = record.containers.get(metric.ref)
            at = metric.at if metric.at is not None else pulse.at
            if container is not None and container.live_at < at <= latest:
                container.live_at = at
                container.newest = metric
                newest.append(container)
        if newest and self._live.watches_samples(record):
            self._live.publish_samples(record, newest)

    def _check_order(self, progress: Progress, batch: Batch) -> None:
        if batch.oldest > batch.seq:
            raise PeerError(
                ErrorCode.BAD_REQUEST, f"oldest = {batch.oldest}: expected at most seq = {batch.seq}", _about(batch)
            )
        expected = max(progress.received + 1, batch.oldest)
        if batch.seq != expected:
            raise PeerError(ErrorCode.SEQ_GAP, f"seq = {batch.seq}: expected {expected}", _about(batch))

    def _check_window(self, session: Session, batch: Batch, frame_bytes: int) -> None:
        # What is committed fills the agent's window until it is told.
        progress = session.progress
        batches = progress.outstanding_batches + progress.unacked_batches
        size = progress.outstanding_bytes + progress.unacked_bytes
        if not self.windows.allows(session, batches, size, frame_bytes):
            raise PeerError(
                ErrorCode.WINDOW_EXCEEDED,
                f"{batches} batches of {size} bytes are unacknowledged:"
                f" expected at most {session.window.batches} of {session.window.bytes}",
                _about(batch),
            )

    def _pack(self, session: Session, decoded: Decoded, batch: Batch, frame_bytes: int) -> PendingBatch:
        rejected = [_reject_bad(batch.seq, row) for row in decoded.bad_rows]
        positions = decoded.positions or {}
        pending = PendingBatch(
            session.record, session.progress, batch.seq, frame_bytes,
            replay=batch.seq < session.next_seq or session.progress.suspect,
            metric_rows=[], log_rows=[],
            metric_positions=positions.get("metrics", range(len(batch.metrics))),
            log_positions=positions.get("logs", range(len(batch.logs))),
            rejected=rejected,
        )  # fmt: skip
        if batch.metrics:
            self._pack_metrics(pending, batch)
        if batch.logs:
            self._pack_logs(pending, batch)
        for row in rejected:
            self._counters.rows_rejected[row.reason] += 1
        return pending

    def _pack_metrics(self, pending: PendingBatch, batch: Batch) -> None:
        record = pending.record
        containers = record.containers
        earliest, latest = self.clock()
        watched = self._live.watches_samples(record)
        newest: list[TrackedContainer] = []
        late: list[TrackedContainer] = []
        rows = pending.metric_rows
        pack = rows.append
        refused: list[int] = []
        batch_at, replay = batch.at, pending.replay
        batch_time = pack_time(batch_at)
        dirty, closed_until = self._dirty_minutes, self._dirty_minutes.closed_until
        marks: set[Mark] = set()
        for metric in batch.metrics:
            container = containers.get(metric.ref)
            at = metric.at
            if at is None:
                at = batch_at
            if container is None or not earliest <= at <= latest or (at <= container.last_at and not replay):
                refused.append(len(rows) + len(refused))
                row = f"metrics[{pending.metric_positions[refused[-1]]}]"
                reason = _check_row(container, at, earliest, latest) or RejectReason.NOT_RISING
                detail = _detail(reason, at, earliest, latest, container)
                pending.rejected.append(
                    Rejected(seq=batch.seq, row=row, reason=reason, ref=metric.ref, at=at, detail=detail)
                )
                continue
            if at > container.last_at:  # noqa: PLR1730 - max() is a call, and this is the innermost loop
                container.last_at = at
            if at <= container.floor_at:
                pending.replay = replay = True
            # The usual sample of a minute that is marked and open costs these comparisons and no call.
            if (replay or at < closed_until or not container.marked_from <= at < container.marked_until) and (
                replay or dirty.lacks_mark(container, at)
            ):
                marks.add((container, at // MINUTE_US * MINUTE_US))
            time = batch_time if at == batch_at else pack_time(at)
            pack(pack_metric(container.head, time, metric.cpu, metric.mem, metric.rx, metric.tx))
            if at > container.live_at:
                container.live_at = at
                container.newest = metric
                if watched:
                    newest.append(container)
            elif watched and at < container.live_at:  # at the very time a pulse has shown it
                late.append(container)
        if marks:
            pending.marks = marks
        if refused:
            pending.metric_positions = _without(pending.metric_positions, refused)
        if newest or late:
            self._show_samples(record, newest, late)

    def _show_samples(self, record: AgentRecord, newest: list[TrackedContainer], late: list[TrackedContainer]) -> None:
        """To who watches: containers with a new `newest`, and those with samples behind it, once for each sample."""
        shown = list(dict.fromkeys(newest))
        if len(shown) < len(newest):  # of several samples of a container in one batch the last is shown
            late += (Counter(newest) - Counter(shown)).elements()
        if late:
            self._counters.live_samples_late += len(late)
            self._live.publish_late(record, late)
        if shown:
            self._live.publish_samples(record, shown)

    def _pack_logs(self, pending: PendingBatch, batch: Batch) -> None:
        containers = pending.record.containers
        earliest, latest = self.clock()
        rows = pending.log_rows
        refused: list[int] = []
        shown: dict[TrackedContainer, list[LogLine]] = {}
        for log in batch.logs:
            container = containers.get(log.ref)
            reason = _check_row(container, log.at, earliest, latest)
            if reason is not None or container is None:
                refused.append(len(rows) + len(refused))
                row = f"logs[{pending.log_positions[refused[-1]]}]"
                reason = reason or RejectReason.UNKNOWN_REF
                detail = _detail(reason, log.at, earliest, latest, container)
                pending.rejected.append(
                    Rejected(
                        seq=batch.seq, row=row, reason=reason, ref=log.ref, at=log.at, line=log.line, detail=detail
                    )
                )
                continue
            place = (log.at, log.line)
            text, cut = clean_log_text(log.text, self._log_text_bytes)
            truncated = log.truncated or cut
            size = len(text) + LINE_OVERHEAD_BYTES
            new = place > container.last_log
            if new:
                container.last_log = place
                container.log_bytes += size
                if container.log_bytes >= container.log_mark:
                    self._log_bounds.grown(container)
            else:
                pending.replay = True
                self._log_bounds.came_late(container, size)
            rows.append(pack_log(container.id, log.at, log.line, log.stream, text, log.partial, truncated))
            if new and self._live.watches_logs(container):
                shown.setdefault(container, []).append(_show_line(log, text, truncated))
        if refused:
            pending.log_positions = _without(pending.log_positions, refused)
        for container, lines in shown.items():
            self._live.publish_lines(pending.record.org, container, lines)


def _without(positions: Sequence[int], refused: Sequence[int]) -> list[int]:
    """The places in the frame of the rows that are left."""
    left_out = set(refused)
    return [position for index, position in enumerate(positions) if index not in left_out]


def _check_row(container: TrackedContainer | None, at: int, earliest: int, latest: int) -> RejectReason | None:
    if container is None:
        return RejectReason.UNKNOWN_REF
    if at < earliest:
        return RejectReason.TOO_OLD
    if at > latest:
        return RejectReason.IN_FUTURE
    return None


def _detail(
    reason: RejectReason | None, at: int, earliest: int, latest: int, container: TrackedContainer | None
) -> str:
    if reason is RejectReason.TOO_OLD:
        return f"at = {at}: expected at least {earliest}"
    if reason is RejectReason.IN_FUTURE:
        return f"at = {at}: expected at most {latest}"
    if reason is RejectReason.NOT_RISING and container is not None:
        return f"at = {at}: expected more than {container.last_at}"
    return ""


def _reject_bad(seq: int, row: BadRow) -> Rejected:
    return Rejected(
        seq=seq, row=row.path, reason=RejectReason.INVALID_ROW, ref=row.ref, at=row.at, line=row.line, detail=row.detail
    )


def _show_line(log: Log, text: bytes, truncated: bool) -> LogLine:
    return LogLine(
        at=log.at, line=log.line, stream=log.stream, text=text.decode(), partial=log.partial, truncated=truncated
    )


def _about(batch: Batch) -> About:
    return About(type="batch", seq=batch.seq)
