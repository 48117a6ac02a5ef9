"""From a decoded batch to its lane and its watchers, in one plain call.

    Ingest.accept --+--> hub
                    '--> lane.offer -> ... -> Progress.committed -> ack

Nothing here waits: the reader of a socket never stands behind the database.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from server.agents import AgentRecord, Progress, Session, TrackedContainer, now_us
from server.counters import Counters
from server.errors import PeerError
from server.log_bounds import LogBounds
from server.protocol.canonical import clean_log_text
from server.protocol.close_codes import CloseCode
from server.protocol.codec import BadRow, Decoded
from server.protocol.error_codes import ErrorCode, RejectReason
from server.protocol.messages import About, Batch, Log, LogLine, Metric, Pulse, Rejected, Sample
from server.quotas import Organisation
from server.rows import LINE_OVERHEAD_BYTES, ROW_OVERHEAD_BYTES, pack_log, pack_metric

BATCH_OVERHEAD_BYTES = 600
"""A pending batch beside its rows: the object, its two lists, its place in the lane."""

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
    memory_bytes: int = 0


class LaneSink(Protocol):
    """Where accepted batches go."""

    def offer(self, batch: PendingBatch) -> None:
        """Take a batch for the next flush. Never waits; the batch's memory is already counted."""


class LiveSink(Protocol):
    """Where the live view gets its rows."""

    def publish_samples(self, record: AgentRecord, samples: list[tuple[TrackedContainer, Sample]]) -> None:
        """New samples of one host."""

    def publish_lines(self, container: TrackedContainer, lines: list[LogLine]) -> None:
        """New lines of one container."""

    def watches_logs(self, container: TrackedContainer) -> bool:
        """Whether anybody watches this container's log."""

    def watches_samples(self, record: AgentRecord) -> bool:
        """Whether anybody of the organisation watches samples."""


class Budget:
    """Memory for what is received and not committed, all agents together; one organisation gets at most its share."""

    def __init__(self, limit_bytes: int, *, share: float = 1.0) -> None:
        self.limit_bytes = limit_bytes
        self.share_bytes = int(limit_bytes * share)
        self.used_bytes = 0

    def take(self, organisation: Organisation, size: int) -> bool:
        """Count `size` bytes in; False: they do not fit, nothing is counted."""
        if self.used_bytes + size > self.limit_bytes or organisation.ingest_bytes + size > self.share_bytes:
            return False
        self.used_bytes += size
        organisation.ingest_bytes += size
        return True

    def give(self, organisation: Organisation, size: int) -> None:
        """Count `size` bytes out."""
        self.used_bytes -= size
        organisation.ingest_bytes -= size


class Ingest:
    """Checks, packs and forks what agents send."""

    def __init__(
        self,
        counters: Counters,
        budget: Budget,
        lanes: Sequence[LaneSink],
        live: LiveSink,
        log_bounds: LogBounds,
        *,
        window_batches: int,
        window_bytes: int,
        accept_past_seconds: float,
        future_seconds: float,
        log_text_bytes: int,
    ) -> None:
        self._counters = counters
        self._budget = budget
        self._lanes = lanes
        self._live = live
        self._log_bounds = log_bounds
        self.window_batches = window_batches
        self.window_bytes = window_bytes
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
        self._check_window(progress, batch, frame_bytes)
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
        pending.memory_bytes = (
            sum(map(len, pending.metric_rows))
            + sum(map(len, pending.log_rows))
            + (len(pending.metric_rows) + len(pending.log_rows)) * ROW_OVERHEAD_BYTES
            + len(pending.rejected) * REJECTED_BYTES
            + BATCH_OVERHEAD_BYTES
        )
        organisation = session.record.organisation
        if not self._budget.take(organisation, pending.memory_bytes):
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
        organisation.batches += 1
        progress.outstanding_batches += 1
        progress.outstanding_bytes += pending.frame_bytes
        self._counters.batches_accepted += 1
        self._lanes[session.record.lane].offer(pending)

    def pulse(self, session: Session, pulse: Pulse) -> None:
        """Newest values for the live view only."""
        record = session.record
        _, latest = self.clock()
        samples = []
        for metric in pulse.metrics:
            container = record.containers.get(metric.ref)
            at = metric.at if metric.at is not None else pulse.at
            if container is not None and container.live_at < at <= latest:
                container.show(at, metric.cpu, metric.mem, metric.rx, metric.tx)
                samples.append((container, _show(container, metric, at)))
        if samples and self._live.watches_samples(record):
            self._live.publish_samples(record, samples)

    def _check_order(self, progress: Progress, batch: Batch) -> None:
        if batch.oldest > batch.seq:
            raise PeerError(
                ErrorCode.BAD_REQUEST, f"oldest = {batch.oldest}: expected at most seq = {batch.seq}", _about(batch)
            )
        expected = max(progress.received + 1, batch.oldest)
        if batch.seq != expected:
            raise PeerError(ErrorCode.SEQ_GAP, f"seq = {batch.seq}: expected {expected}", _about(batch))

    def _check_window(self, progress: Progress, batch: Batch, frame_bytes: int) -> None:
        # What is committed fills the agent's window until it is told.
        batches = progress.outstanding_batches + progress.unacked_batches
        size = progress.outstanding_bytes + progress.unacked_bytes
        # One batch may always be on its way, or a frame larger than the window could never be sent.
        if batches and (batches >= self.window_batches or size + frame_bytes > self.window_bytes):
            raise PeerError(
                ErrorCode.WINDOW_EXCEEDED,
                f"{batches} batches of {size} bytes are unacknowledged:"
                f" expected at most {self.window_batches} of {self.window_bytes}",
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
        samples: list[tuple[TrackedContainer, Sample]] = []
        rows = pending.metric_rows
        kept: list[int] = []
        for position, metric in zip(pending.metric_positions, batch.metrics, strict=True):
            at = metric.at if metric.at is not None else batch.at
            container = containers.get(metric.ref)
            reason = _check_row(container, at, earliest, latest)
            if reason is None and container is not None and at <= container.last_at and not pending.replay:
                reason = RejectReason.NOT_RISING
            if reason is not None or container is None:
                pending.rejected.append(
                    Rejected(
                        seq=batch.seq, row=f"metrics[{position}]", reason=reason or RejectReason.UNKNOWN_REF,
                        ref=metric.ref, at=at, detail=_detail(reason, at, earliest, latest, container),
                    )
                )  # fmt: skip
                continue
            if at <= container.floor_at:
                pending.replay = True
            container.last_at = max(container.last_at, at)
            rows.append(pack_metric(container.id, at, metric.cpu, metric.mem, metric.rx, metric.tx))
            kept.append(position)
            if at > container.live_at:
                sample = _show(container, metric, at) if watched else None
                container.show(at, metric.cpu, metric.mem, metric.rx, metric.tx)
                if sample is not None:
                    samples.append((container, sample))
        pending.metric_positions = kept
        if samples:
            self._live.publish_samples(record, samples)

    def _pack_logs(self, pending: PendingBatch, batch: Batch) -> None:
        containers = pending.record.containers
        earliest, latest = self.clock()
        kept: list[int] = []
        shown: dict[TrackedContainer, list[LogLine]] = {}
        for position, log in zip(pending.log_positions, batch.logs, strict=True):
            container = containers.get(log.ref)
            reason = _check_row(container, log.at, earliest, latest)
            if reason is not None or container is None:
                pending.rejected.append(
                    Rejected(
                        seq=batch.seq, row=f"logs[{position}]", reason=reason or RejectReason.UNKNOWN_REF, ref=log.ref,
                        at=log.at, line=log.line, detail=_detail(reason, log.at, earliest, latest, container),
                    )
                )  # fmt: skip
                continue
            place = (log.at, log.line)
            new = place > container.last_log
            text, cut = clean_log_text(log.text, self._log_text_bytes)
            truncated = log.truncated or cut
            if new:
                container.last_log = place
                container.log_bytes += len(text) + LINE_OVERHEAD_BYTES
                if container.log_bytes >= container.log_mark:
                    self._log_bounds.grown(container)
            else:
                pending.replay = True
                self._log_bounds.came_late(container, len(text) + LINE_OVERHEAD_BYTES)
            pending.log_rows.append(pack_log(container.id, log.at, log.line, log.stream, text, log.partial, truncated))
            kept.append(position)
            if new and self._live.watches_logs(container):
                shown.setdefault(container, []).append(_show_line(log, text, truncated))
        pending.log_positions = kept
        for container, lines in shown.items():
            self._live.publish_lines(container, lines)


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


def _show(container: TrackedContainer, metric: Metric, at: int) -> Sample:
    return Sample(container=container.key, at=at, cpu=metric.cpu, mem=metric.mem, rx=metric.rx, tx=metric.tx)


def _show_line(log: Log, text: bytes, truncated: bool) -> LogLine:
    return LogLine(
        at=log.at, line=log.line, stream=log.stream, text=text.decode(), partial=log.partial, truncated=truncated
    )


def _about(batch: Batch) -> About:
    return About(type="batch", seq=batch.seq)
