"""One agent: its connection, whichever it has just now, and what is said over it.

Nothing here waits or keeps time. The fleet calls `tick`, the link calls `on_open`, `on_frame` and `on_close`, and what
must happen later is asked of `Services`. Whatever a server sends, an agent holds a bounded amount and backs off.
"""

import uuid
from collections.abc import Callable

from server.protocol.close_codes import CloseCode
from server.protocol.codec import FrameError, decode_agent_command, encode
from server.protocol.error_codes import ErrorCode
from server.protocol.messages import (
    PROTOCOL_VERSION,
    Ack,
    Action,
    ActionReport,
    ActionResult,
    AgentCommand,
    AgentHeartbeat,
    Bye,
    Container,
    Drain,
    Error,
    HeartbeatEcho,
    Hello,
    Inventory,
    Pulse,
    ResultAck,
    TokenExpiring,
    Welcome,
    Window,
    WindowUpdate,
)
from simulator.backoff import TAKEOVER_SECONDS, Backoff
from simulator.clock_offset import ClockOffset
from simulator.delivery import Delivery
from simulator.hosts import Host
from simulator.ledger import ClockRecord, Limits
from simulator.link import Link
from simulator.orders import Orders
from simulator.services import Services, Timer

AGENT_VERSION = "seatrial-simulator"
WELCOME_SECONDS = 10.0
"""Deadline of the server's answer to `hello`."""
SILENT_HEARTBEATS = 3
"""Heartbeat intervals without any frame from the server after which the connection counts as dead."""
MAX_UNREADABLE = 20
"""Frames that are no message, in one connection, before the agent closes it. A few may be a newer server's."""
MAX_DRAIN_SECONDS = 3600
CONTAINERS_PER_FRAME = 200
_PROTOCOL_ERROR = 1002
_ERROR_CODES = frozenset(ErrorCode)


class Agent:
    """One agent of the fleet; the `Session` of its links.

    Args:
        host: what it reports.
        delivery: its batches.
        services: the fleet.
        backoff: its own.
        log_text_bytes: limit of a log line that the ledger assumes until a server says otherwise.

    Attributes:
        delivery: its batches.
        epoch_id: UUID of its start.
        offset: how far the server's clock is ahead.
    """

    __slots__ = (
        "_backoff", "_connection", "_deadline", "_dialled_at", "_dialling", "_drain_seconds", "_following", "_heard_at",
        "_heartbeat", "_host", "_left", "_link", "_log_text_bytes", "_old", "_opened_at", "_orders", "_redial",
        "_services", "_unreadable", "_welcomed", "delivery", "epoch_id", "offset",
    )  # fmt: skip

    def __init__(
        self, host: Host, delivery: Delivery, services: Services, backoff: Backoff, log_text_bytes: int
    ) -> None:
        self.delivery = delivery
        self.epoch_id = str(uuid.uuid4())
        self.offset = ClockOffset()
        self._host, self._services, self._backoff = host, services, backoff
        self._orders = Orders(host, services)
        self._log_text_bytes = log_text_bytes
        self._link: Link | None = None
        self._old: Link | None = None
        self._welcomed = self._dialling = self._left = False
        self._connection = self._unreadable = 0
        self._dialled_at = self._opened_at = self._heard_at = 0
        self._heartbeat = 0.0
        self._following: list[int] = []
        self._drain_seconds: float | None = None
        self._redial: Timer | None = None
        self._deadline: Timer | None = None

    # ------------------------------------------------------------ what the fleet calls

    @property
    def connected(self) -> bool:
        """Whether the server has welcomed the present connection."""
        return self._welcomed

    @property
    def streaming(self) -> bool:
        """Whether the server has acknowledged a batch on the present connection."""
        return self._welcomed and self.delivery.streaming

    @property
    def number(self) -> int:
        """Of its host."""
        return self._host.agent

    @property
    def phase_us(self) -> int:
        """How long after the start of the timeline its own one begins."""
        return self._host.phase_us

    def due_us(self, tick: int) -> int:
        """When a tick is due, Unix microseconds."""
        return self._host.due(tick)

    @property
    def gone(self) -> bool:
        """Whether no connection stands."""
        return self._link is None and self._old is None

    def start(self) -> None:
        """Dial for the first time."""
        self._dial()

    def dial_now(self) -> bool:
        """Dial without the rest of a pause, if the agent is in one; returns whether it was."""
        if self._redial is None or self._link is not None:
            return False
        self._redial.cancel()
        self._dial()
        return True

    def tick(self, tick: int) -> None:
        """Produce the batch of a tick; while it cannot be sent, its samples go as a pulse."""
        turned = self._host.lives.turned(max(0, self.delivery.tick), tick)
        if turned:
            self._services.counts.containers_recreated += self._host.lives.recreated(turned)
        if turned and self._link is not None:
            # The server must know a new container before the first batch that mentions it.
            self._orders.changed.update(turned)
            self._tell(tick - 1)
        unsent = self.delivery.produce(tick)
        link = self._link
        if link is None or not self._welcomed:
            return
        if unsent is not None and not link.full:
            link.send(encode(Pulse(at=self._host.at(tick), metrics=unsent)))
            self._services.counts.pulses += 1
        self._tell()

    def leave(self, reason: str) -> None:
        """Say goodbye and close; nothing is dialled any more."""
        self._left = True
        self.delivery.close()
        self._cancel_timers()
        if self._link is not None:
            self._link.send(encode(Bye(reason=reason)))
            self._link.close(CloseCode.NORMAL, reason)
        if self._old is not None:
            self._old.close(CloseCode.NORMAL, reason)

    def abort(self) -> None:
        """Cut what is left of the connections."""
        for link in (self._link, self._old):
            if link is not None:
                link.abort()

    def set_clock(self, ahead_us: int) -> None:
        """From the next tick on its clock is ahead by so much, for its rows and for all else that it says."""
        first = self.delivery.tick + 1
        self._host.clock.set(first, ahead_us)
        self._services.record(ClockRecord(agent=self._host.agent, tick=first, ahead_us=ahead_us))
        self.offset = ClockOffset()  # what was measured by the other clock says nothing now

    # ------------------------------------------------------------ the connection's life

    def _dial(self) -> None:
        self._redial = None
        if self._left or self._dialling:
            return
        self._dialling = True
        self._connection += 1
        self._dialled_at = self._services.now_us()
        self._services.dial(self._host.agent, self, self._on_refused)

    def _dial_after(self, seconds: float) -> None:
        if self._redial is not None:
            self._redial.cancel()
        self._redial = self._services.call_later(seconds, self._dial)

    def _on_refused(self, status: int | None, retry_after_seconds: float | None) -> None:
        self._dialling = False
        self._services.counts.refused["unreachable" if status is None else str(status)] += 1
        if not self._left:
            self._dial_after(self._backoff.after_refusal(status, retry_after_seconds))

    def on_open(self, link: Link) -> None:
        """See `Session`. While a connection stands this one takes over from it."""
        self._dialling = False
        services = self._services
        services.counts.connects += 1
        if self._left:
            link.close(CloseCode.NORMAL)
            return
        if self._link is not None:
            services.counts.takeovers += 1
            if self._old is not None:
                self._old.abort()
            self._old = self._link
        self._link = link
        self._welcomed = False
        self._drain_seconds = None
        self._unreadable = 0
        self._opened_at = self._heard_at = services.now_us()
        self.delivery.close()
        self._wait(WELCOME_SECONDS, self._no_welcome)
        self._following = self._refs()[CONTAINERS_PER_FRAME:]
        link.send(encode(self.hello(self._orders.retell())))

    def on_close(self, link: Link, code: int, reason: str, *, by_peer: bool) -> None:
        """See `Session`."""
        del reason
        if link is self._old:
            self._old = None
        elif link is self._link:
            self._lost(code, by_peer=by_peer)
        self._services.closed(code)

    def _lost(self, code: int, *, by_peer: bool) -> None:
        """The present connection is gone."""
        self._link = None
        self._welcomed = False
        self.delivery.close()
        self._cancel_timers()
        if self._left:
            return
        if by_peer and code == CloseCode.MESSAGE_TOO_BIG:
            self.delivery.too_big()
        if by_peer and code == CloseCode.RESYNC_REQUIRED:
            self.delivery.resync()
        if self._old is not None:
            # The newer hello has overtaken it at the server: start afresh, with one connection.
            self._old.close(CloseCode.NORMAL, "superseded")
        connected_seconds = (self._services.now_us() - self._opened_at) / 1e6
        delay = self._backoff.after_close(
            code, by_peer=by_peer, connected_seconds=connected_seconds, drain_seconds=self._drain_seconds
        )
        if delay is not None and not self._dialling:
            self._dial_after(delay)

    def _no_welcome(self) -> None:
        if self._link is not None:
            self._link.close(_PROTOCOL_ERROR, "no welcome")

    def _beat(self) -> None:
        link = self._link
        if link is None:
            return
        now = self._services.now_us()
        if now - self._heard_at > SILENT_HEARTBEATS * self._heartbeat * 1e6:
            link.abort()
            return
        if not link.full:
            link.send(encode(AgentHeartbeat(at=self.clock_us(now))))
        self._wait(self._heartbeat, self._beat)

    def _wait(self, seconds: float, callback: Callable[[], None]) -> None:
        """Set the connection's one timer: first the deadline of `welcome`, then heartbeats."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._services.call_later(seconds, callback)

    def _cancel_timers(self) -> None:
        for timer in (self._redial, self._deadline):
            if timer is not None:
                timer.cancel()
        self._redial = self._deadline = None

    # ------------------------------------------------------------ what the server says

    def on_frame(self, link: Link, data: bytes) -> None:
        """See `Session`. The connection that was taken over may still bring acks and commands."""
        if link is not self._link and link is not self._old:
            return
        self._heard_at = self._services.now_us()
        try:
            message = decode_agent_command(data)
        except FrameError:
            self._services.counts.unreadable_frames += 1
            self._unreadable += 1
            if self._unreadable >= MAX_UNREADABLE:
                link.close(_PROTOCOL_ERROR, "too many unreadable frames")
            return
        if isinstance(message, Ack):  # by far the commonest
            self._tell()
            if not self.delivery.ack(message, self._heard_at):
                link.close(_PROTOCOL_ERROR, "ack of what was never sent")
        elif isinstance(message, Action):
            self._on_action(message)
        elif link is self._link:
            self._on_message(link, message)

    def _on_message(self, link: Link, message: AgentCommand) -> None:
        match message:
            case Welcome():
                self._on_welcome(link, message)
            case WindowUpdate():
                self._tell()
                self.delivery.window(Window(batches=message.batches, bytes=message.bytes))
            case ResultAck():
                self._orders.acknowledged(message.action_id)
            case HeartbeatEcho():
                self.offset.take(message.at, message.server_time, self.clock_us(self._heard_at))
            case TokenExpiring():
                if not self._dialling:
                    since = (self._heard_at - self._dialled_at) / 1e6
                    self._dial_after(max(0.0, TAKEOVER_SECONDS - since))
            case Drain():
                self._drain_seconds = float(min(message.reconnect_within_seconds, MAX_DRAIN_SECONDS))
            case Error():
                self._on_error(message)

    def _on_welcome(self, link: Link, welcome: Welcome) -> None:
        if self._welcomed or not self.delivery.open(link, welcome, self._heard_at):
            link.close(_PROTOCOL_ERROR, "unexpected welcome")
            return
        services = self._services
        services.counts.welcomes += 1
        self._welcomed = True
        if welcome.limits.log_text_bytes != self._log_text_bytes:
            self._log_text_bytes = welcome.limits.log_text_bytes
            services.record(Limits(log_text_bytes=self._log_text_bytes))
        self.offset.take(self.clock_us(self._opened_at), welcome.server_time, self.clock_us(self._heard_at))
        if self._old is not None:
            self._old.close(CloseCode.NORMAL, "superseded")
        self._heartbeat = float(welcome.heartbeat_seconds)
        self._wait(self._heartbeat, self._beat)
        self._send_other_containers(link)
        self._tell()
        self.delivery.resume()

    def _on_error(self, error: Error) -> None:
        self._services.counts.errors[error.code if error.code in _ERROR_CODES else "other"] += 1
        about = error.about
        if (
            error.code == ErrorCode.BAD_REQUEST
            and about is not None
            and about.type == "batch"
            and about.seq is not None
        ):
            self.delivery.refuse(about.seq)

    def _on_action(self, action: Action) -> None:
        now = self.clock_us(self._services.now_us())
        delay = self._orders.take(action, now + self.offset.server_ahead_us)
        if delay is None:
            self._tell()
        else:
            self._services.call_later(delay, lambda: self._execute(action))

    def _execute(self, action: Action) -> None:
        if not self._left:
            self._orders.execute(action, self.delivery.tick)
            self._tell()

    # ------------------------------------------------------------ what the agent says

    def _tell(self, tick: int | None = None) -> None:
        """Say what the server does not know: containers that changed, and results. What a full link cannot take waits.

        Args:
            tick: after which the containers are told of; None: the last one produced.
        """
        link, orders = self._link, self._orders
        if link is None or not self._welcomed:
            return
        while orders.changed and not link.full:
            refs = sorted(orders.changed)[:CONTAINERS_PER_FRAME]
            orders.changed.difference_update(refs)
            told = self._host.inventory(refs, self.delivery.tick if tick is None else tick)
            upserts = tuple(container for container in told if container.state != "removed")
            removed = tuple(container.ref for container in told if container.state == "removed")
            link.send(encode(Inventory(at=self.clock_us(self._services.now_us()), upserts=upserts, removed=removed)))
        while orders.untold and not link.full:
            report = orders.result(orders.untold.pop())
            if report is not None:
                link.send(
                    encode(
                        ActionResult(
                            action_id=report.action_id,
                            outcome=report.outcome,
                            finished_at=report.finished_at,
                            detail=report.detail,
                        )
                    )
                )

    def hello(self, results: tuple[ActionReport, ...] = ()) -> Hello:
        """What the agent says of itself now, with results that are not acknowledged."""
        host, delivery = self._host, self.delivery
        refs = self._refs()
        return Hello(
            protocol=PROTOCOL_VERSION,
            epoch=self.epoch_id,
            connection=self._connection,
            machine_id=host.machine_id,
            oldest=delivery.oldest,
            next_seq=delivery.next_seq,
            agent_version=AGENT_VERSION,
            hostname=host.hostname,
            cores=host.cores,
            containers=self._containers(refs[:CONTAINERS_PER_FRAME]),
            containers_follow=len(refs) > CONTAINERS_PER_FRAME,
            unacknowledged_results=results,
        )

    def _send_other_containers(self, link: Link) -> None:
        """The containers that did not fit into `hello`."""
        refs, self._following = self._following, []
        for start in range(0, len(refs), CONTAINERS_PER_FRAME):
            part = Inventory(
                at=self.clock_us(self._services.now_us()),
                upserts=self._containers(refs[start : start + CONTAINERS_PER_FRAME]),
                snapshot="last" if start + CONTAINERS_PER_FRAME >= len(refs) else "part",
            )
            link.send(encode(part))

    def _refs(self) -> list[int]:
        """The containers that there are, and those that a held batch mentions."""
        return self._host.lives.refs(self.delivery.oldest_tick, self.delivery.tick + 1)

    def _containers(self, refs: list[int]) -> tuple[Container, ...]:
        return tuple(self._host.inventory(refs, self.delivery.tick))

    def clock_us(self, now_us: int) -> int:
        """What its own clock says at a moment."""
        return now_us + self._host.clock.newest_us
