"""An agent's batches: produced per tick, sent within the window, held until acknowledged, accounted for in the ledger."""

from collections.abc import Iterator

from server.protocol.codec import encode
from server.protocol.error_codes import RejectReason
from server.protocol.messages import Ack, Batch, Metric, Rejected, Welcome, Window
from simulator.hosts import Host
from simulator.ledger import Dropped, Map, RejectedMore, RejectedRecord
from simulator.link import Link
from simulator.services import Services
from simulator.spool import Spool

_REASONS = frozenset(RejectReason)
_OTHER = "other"
_REMADE_TICKS = 16
"""As many ticks are made again at once when the first of them is to be sent: the others follow it."""
_OLDEST_DIGITS = 20
"""By so much a frame made again may be shorter than the first time: `oldest` has as many digits at most."""


class Delivery:
    """The batches of one agent and epoch.

    Args:
        host: makes the rows.
        spool: empty.
        services: the fleet.
        first_tick: the first one to be produced; those before it are in a history.

    Attributes:
        epoch: number of the agent's start, from 0, as the ledger counts them.
        tick: the last one produced; before the first, the one that precedes it.
        noted: whether the fleet knows already that something moved on since the last flush of the ledger.
    """

    __slots__ = (
        "_hollow", "_host", "_link", "_mapped", "_max_frame_bytes", "_number", "_remade", "_resync_at", "_services", "_spool",
        "_window", "epoch",
        "noted", "streaming", "tick",
    )  # fmt: skip

    def __init__(self, host: Host, spool: Spool, services: Services, first_tick: int = 0) -> None:
        self._host, self._spool, self._services = host, spool, services
        self._number = host.agent
        self._link: Link | None = None
        self._window = Window(batches=1, bytes=1)
        self._max_frame_bytes = 0
        self._hollow: list[range] = []
        """Seqs of batches without rows: see `flood`."""
        self._mapped = False
        """Whether the ledger knows already which seq belongs to the next tick."""
        self._remade: dict[int, tuple[Metric, ...]] = {}
        self._resync_at: int | None = None
        self.epoch = 0
        self.tick = first_tick - 1
        self.noted = False
        self.streaming = False
        """Whether the server has acknowledged something on the present connection."""

    @property
    def backlog(self) -> int:
        """Batches that are not acknowledged."""
        return len(self._spool)

    @property
    def max_frame_bytes(self) -> int:
        """The server's limit of a frame; 0 before the first welcome."""
        return self._max_frame_bytes

    @property
    def oldest(self) -> int:
        """Lowest seq held; `next_seq` when none is."""
        return self._spool.first

    @property
    def oldest_tick(self) -> int:
        """Tick of the lowest seq held; the next one to come when none is."""
        return self._spool.tick_of(self._spool.first) if self._spool else self.tick + 1

    @property
    def produced(self) -> int:
        """Highest seq given out."""
        return self._spool.produced

    @property
    def sent(self) -> int:
        """Highest seq ever sent."""
        return self._spool.sent

    @property
    def next_seq(self) -> int:
        """Seq of the next batch never sent before."""
        return self._spool.next_seq

    # ------------------------------------------------------------ the way up

    def produce(self, tick: int) -> tuple[Metric, ...] | None:
        """Produce the batch of a tick, and send it if its turn has come.

        Returns:
            The tick's samples if the batch could not be sent yet, so that live views may get them; else None.
        """
        spool, host, counts = self._spool, self._host, self._services.counts
        metrics, logs = host.metrics(tick), host.logs(tick)
        batch = Batch(seq=spool.produced + 1, oldest=spool.first, at=host.at(tick), metrics=metrics, logs=logs)
        frame = encode(batch)
        seq = spool.add(tick, len(frame))
        if tick != self.tick + 1 or not self._mapped:
            self._mapped = True
            self._services.record(Map(agent=self._number, epoch=self.epoch, seq=seq, tick=tick))
        self.tick = tick
        counts.batches_produced += 1
        counts.metrics_produced += len(metrics)
        counts.logs_produced += len(logs)
        self._note()
        # The frame just made can go as it is, unless room had to be made for it: then its `oldest` is out of date.
        self._send(seq if batch.oldest == spool.first else None, frame)
        return metrics if spool.sent < seq else None

    def flood(self, batches: int) -> tuple[int, int]:
        """Send all that is held and so many batches without rows behind it, whatever the window is.

        They are numbered, held and sent again like any other. Half of the spool stays free: rows must not have to go for
        batches without any.

        Returns:
            How many were added, fewer where the spool has no room or nothing can be sent, and how many went past the
            window, of those held before too.
        """
        if self._link is None or not self._spool.produced:
            return 0, 0
        spool = self._spool
        first = spool.produced + 1
        while spool.produced + 1 < first + batches:
            frame_bytes = len(self._hollow_frame(spool.produced + 1, self.tick))
            if not spool.half_free(frame_bytes):
                break
            spool.add(self.tick, frame_bytes)
        added = spool.produced + 1 - first
        if not added:
            return 0, 0
        self._note_hollow(range(first, first + added))
        return added, self._send(past_window=True)

    def _send(self, ready: int | None = None, frame: bytes = b"", *, past_window: bool = False) -> int:
        """Send what is due and fits into the window. `frame` is that of the seq `ready`; others are made again.

        Returns:
            How many did not fit, and went all the same because of `past_window`.
        """
        link, spool, counts = self._link, self._spool, self._services.counts
        past = 0
        if link is None:
            return past
        while (seq := spool.next_to_send()) is not None and not link.full:
            if not past_window and not spool.fits(spool.bytes_of(seq) - _OLDEST_DIGITS, self._window):
                break  # made in vain on each tick while the window is full, it would be an overload's second load
            data = frame if seq == ready else self._frame(seq)
            if len(data) > self._max_frame_bytes:
                spool.poison(seq)
                self._note()
                continue
            if not spool.fits(len(data), self._window):
                if not past_window:
                    break
                past += 1
            link.send(data)
            counts.batches_sent += 1
            counts.batches_resent += spool.on_its_way(len(data))
            counts.bytes_sent += len(data)
            self._note()
        return past

    def _frame(self, seq: int) -> bytes:
        """The frame of a batch that is held, made again: only its `oldest` may differ from the time before."""
        spool, host = self._spool, self._host
        tick = spool.tick_of(seq)
        if self._is_hollow(seq):
            return self._hollow_frame(seq, tick)
        metrics = self._remade.pop(tick, None)
        if metrics is None and tick == self.tick:
            metrics = host.metrics(tick)  # alone, as after the first hello: it stands in the block yet
        elif metrics is None:
            # No command can change them any more: these ticks are past.
            ticks = range(tick, min(tick + _REMADE_TICKS, self.tick + 1))
            self._remade = dict(zip(ticks, host.metrics_of(ticks), strict=True))
            metrics = self._remade.pop(tick)
        return encode(Batch(seq=seq, oldest=spool.first, at=host.at(tick), metrics=metrics, logs=host.logs(tick)))

    def _hollow_frame(self, seq: int, tick: int) -> bytes:
        return encode(Batch(seq=seq, oldest=self._spool.first, at=self._host.at(tick)))

    def _note_hollow(self, seqs: range) -> None:
        """Note that batches that were just produced hold no rows."""
        self._hollow = [before for before in self._hollow if before.stop > self._spool.first]
        if self._hollow and self._hollow[-1].stop == seqs.start:
            self._hollow[-1] = range(self._hollow[-1].start, seqs.stop)
        else:
            self._hollow.append(seqs)
            self._services.record(Map(agent=self._number, epoch=self.epoch, seq=seqs.start, tick=None))
        self._mapped = False
        self._services.counts.batches_produced += len(seqs)
        self._note()

    def _is_hollow(self, seq: int) -> bool:
        return any(seq in seqs for seqs in self._hollow)

    # ------------------------------------------------------------ what the server says

    def open(self, link: Link, welcome: Welcome, at_us: int) -> bool:
        """Take up sending on a welcomed connection, from the lowest batch held on.

        Returns:
            False if the server claims to have stored what was never sent; then nothing is sent.
        """
        spool = self._spool
        if welcome.acked_seq > spool.sent:
            return False
        self._settle(welcome.acked_seq, at_us)
        spool.reconnected()
        self._remade.clear()
        if self._resync_at is not None and self._resync_at != spool.acked:
            self._resync_at = None
        self._link = link
        self.streaming = False
        self._window = welcome.window
        self._max_frame_bytes = welcome.limits.frame_bytes
        return True

    def resume(self) -> None:
        """Send what is due."""
        self._send()

    def close(self) -> None:
        """The connection is gone or about to be replaced: nothing is sent before the next `open`."""
        self._link = None
        self.streaming = False

    def window(self, window: Window) -> None:
        """Keep to another window from now on."""
        self._window = window
        self._send()

    def ack(self, ack: Ack, at_us: int) -> bool:
        """Let go of what is acknowledged, and send what now fits.

        Returns:
            False if that was never sent; then nothing changes.
        """
        if ack.seq > self._spool.sent:
            return False
        if ack.rejected or ack.rejected_more:
            self._note_rejected(ack)
        self.streaming = True
        self._settle(ack.seq, at_us)
        self._send()
        return True

    def refuse(self, seq: int) -> None:
        """The server cannot read this batch: never send it again, and declare it."""
        self._spool.poison(seq)
        self._note()

    def too_big(self) -> None:
        """The server closed for a frame over its limit: never send the likeliest one again."""
        seq = self._spool.largest_on_its_way()
        if seq is not None:
            self.refuse(seq)

    def resync(self) -> None:
        """The server closed for a gap. Twice at the same place: it drops that batch, whatever it says about it."""
        acked = self._spool.acked
        if self._resync_at == acked:
            self.refuse(acked + 1)
        self._resync_at = acked

    def _settle(self, seq: int, at_us: int) -> None:
        services, host, spool = self._services, self._host, self._spool
        first = spool.first
        ticks = spool.ack(seq)
        if not ticks:
            return
        services.counts.batches_acked += len(ticks)
        for settled, tick in enumerate(ticks, first):
            if not (self._hollow and self._is_hollow(settled)):
                services.acked(self._number, host.due(tick), at_us)
        host.forget(spool.tick_of(spool.first) if spool else self.tick)
        self._note()

    def waiting_since(self) -> Iterator[int]:
        """When each batch that is held was due, Unix microseconds; those without rows are left out."""
        spool, host = self._spool, self._host
        for seq in range(spool.first, spool.produced + 1):
            if not (self._hollow and self._is_hollow(seq)):
                yield host.due(spool.tick_of(seq))

    # ------------------------------------------------------------ the ledger

    def progress(self) -> tuple[int, int, int, int, int]:
        """The line of this agent in the ledger's next progress; what was dropped is recorded before it."""
        spool, services = self._spool, self._services
        if spool.dropped:
            for first, last, sent in spool.take_dropped():
                services.counts.batches_dropped += last - first + 1
                services.record(Dropped(agent=self._number, epoch=self.epoch, first=first, last=last, sent=sent))
        self.noted = False
        return self._number, self.epoch, spool.produced, spool.sent, spool.acked

    def _note_rejected(self, ack: Ack) -> None:
        services = self._services
        for row in ack.rejected:
            services.counts.rejected[_reason(row.reason)] += 1
            services.record(self._rejected(row))
        if ack.rejected_more:
            counts = {_reason(reason): count for reason, count in ack.rejected_more.items()}
            services.counts.rejected.update(counts)
            first = min(self._spool.acked + 1, ack.seq)
            services.record(
                RejectedMore(agent=self._number, epoch=self.epoch, first=first, last=ack.seq, counts=counts)
            )

    def _rejected(self, row: Rejected) -> RejectedRecord:
        return RejectedRecord(
            agent=self._number,
            epoch=self.epoch,
            seq=row.seq,
            row=row.row[:32],
            ref=row.ref,
            at=row.at,
            line=row.line,
            reason=_reason(row.reason),
        )

    def _note(self) -> None:
        if not self.noted:
            self.noted = True
            self._services.changed(self)


def _reason(reason: str) -> str:
    """A reason of the catalogue, or `other`: a strange server must not fill our tables."""
    return reason if reason in _REASONS else _OTHER
