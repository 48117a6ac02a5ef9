"""`/ws/live`: one subscriber, from its upgrade to its end."""

import asyncio
import logging
import time
from typing import Protocol
from urllib.parse import urlsplit

from starlette.websockets import WebSocket

from server.actions import Actions
from server.agents import AgentRecord, TrackedContainer, now_us
from server.auth.principal import User
from server.auth.revocations import Revocations
from server.auth.tokens import TokenError, Tokens
from server.counters import Counters
from server.errors import DatabaseDownError
from server.hub import Hub, Subscription, fleet_summary, sample_of
from server.outbox import Outbox
from server.protocol.close_codes import CloseCode
from server.protocol.codec import FrameError, decode_live_request, encode
from server.protocol.error_codes import ErrorCode
from server.protocol.messages import (
    LIVE_SUBPROTOCOL,
    About,
    Error,
    Gap,
    HeartbeatEcho,
    LiveHeartbeat,
    LiveRequest,
    LogLine,
    Logs,
    Pause,
    Position,
    Resume,
    Snapshot,
    Subscribe,
    Unsubscribe,
)
from server.quotas import Quotas
from server.registry import Registry
from server.settings import Settings
from server.ws.guard import GuardedWebSocket
from server.ws.handshake import connection, offers, refuse, text_of

BAD_FRAMES_PER_MINUTE = 3
ASKS_AT_ONCE, ASKS_PER_SECOND = 500, 50
"""Topics that a socket may ask for: each may cost a look into the database."""
MAX_OVER_LIMIT = 100
"""Topics over the limit that are refused one by one; a client that asks for more does not listen."""
UNSENT_BYTES = 64 * 1024
"""What the kernel takes for a subscriber beyond what it has on its way."""
BARRIER_SECONDS = 5.0
RESUME_LINES = 10_000
"""Lines read again after a pause; what was before them becomes a gap."""
_REVOKED = "the user or the token was revoked"

_log = logging.getLogger("seatrial.live")


class TicketSource(Protocol):
    """Where tickets are redeemed."""

    async def redeem(self, ticket: str, origin: str | None) -> User | None:
        """The user of a ticket, once."""


class LogSource(Protocol):
    """Where stored lines are read."""

    async def owns_container(self, org: str, container_id: int) -> bool:
        """Whether the organisation has this container."""

    async def tail(self, org: str, container_id: int, lines: int, most_bytes: int) -> list[LogLine]:
        """The last lines."""

    async def lines_after(
        self, org: str, container_id: int, after: tuple[int, int], limit: int, most_bytes: int
    ) -> tuple[list[LogLine], int]:
        """The lines that follow a position."""

    async def committed(self, container_id: int, timeout_seconds: float) -> None:
        """Wait until what was received of a container is stored."""


class LiveEndpoint:
    """Admits subscribers and serves their topics."""

    def __init__(
        self,
        settings: Settings,
        tokens: Tokens,
        revocations: Revocations,
        quotas: Quotas,
        tickets: TicketSource,
        registry: Registry,
        hub: Hub,
        logs: LogSource,
        actions: Actions,
        counters: Counters,
    ) -> None:
        self._settings = settings
        self._tokens = tokens
        self._revocations = revocations
        self._quotas = quotas
        self._tickets = tickets
        self._registry = registry
        self._hub = hub
        self._logs = logs
        self._actions = actions
        self._counters = counters
        self.subscribers: set[Subscriber] = set()
        self.draining = False
        self._open = 0
        """Sockets open, and upgrades admitted whose user is being looked up."""

    async def __call__(self, ws: WebSocket) -> None:
        """Serve one connection."""
        if not await self._may_upgrade(ws):
            return
        # Counted in the step that checked the limit: a thousand that dial at once do not pass it together.
        self._open += 1
        try:
            await self._connect(ws)
        finally:
            self._open -= 1

    async def _connect(self, ws: WebSocket) -> None:
        try:
            user = await self._user(ws)
        except DatabaseDownError:
            await refuse(ws, self._counters, "live", 503, "unavailable", "the database is away", Retry_After="5")
            return
        await ws.accept(subprotocol=LIVE_SUBPROTOCOL)
        socket = connection(ws)
        if user is None:
            # Accepted first: a browser cannot read the HTTP status of a refused upgrade.
            self._counters.handshakes_refused["live", "credentials"] += 1
            socket.close(CloseCode.TOKEN_EXPIRED, "ticket or token is not good (any more)")
            return
        if self._revocations.revoked(user):
            self._counters.handshakes_refused["live", "revoked"] += 1
            socket.close(CloseCode.REVOKED, _REVOKED)
            return
        organisation = self._quotas.of(user.org)
        if organisation.subscribers >= organisation.limits.subscribers:
            self._counters.handshakes_refused["live", "org_subscribers"] += 1
            message = f"{organisation.limits.subscribers} live sockets of the organisation are open"
            socket.close(CloseCode.CONNECTION_LIMIT, message)
            return
        organisation.subscribers += 1
        try:
            await self._serve(ws, socket, user)
        finally:
            organisation.subscribers -= 1

    async def _serve(self, ws: WebSocket, socket: GuardedWebSocket, user: User) -> None:
        subscriber = Subscriber(
            user, socket, self._hub, self._registry, self._logs, self._actions, self._counters, self._settings
        )
        socket.limit_unsent(UNSENT_BYTES)
        self.subscribers.add(subscriber)
        expiry = asyncio.get_running_loop().call_later(
            max(0.0, user.expires_at - time.time()), socket.close, CloseCode.TOKEN_EXPIRED, "the session has expired"
        )
        try:
            await subscriber.serve(ws)
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, the peer gets a close code and the log its trace
            _log.exception("subscriber failed", extra={"org": user.org, "subject": user.subject})
            socket.close(CloseCode.INTERNAL_ERROR, "internal error")
        finally:
            expiry.cancel()
            subscriber.stop()
            self.subscribers.discard(subscriber)

    def tick(self) -> None:
        """Once a second: give up on those who do not read."""
        for subscriber in tuple(self.subscribers):
            subscriber.outbox.tick()

    def close_revoked(self) -> None:
        """The revocations changed: close those whom they concern."""
        for subscriber in tuple(self.subscribers):
            if self._revocations.revoked(subscriber.user):
                subscriber.close(CloseCode.REVOKED, _REVOKED)

    async def _may_upgrade(self, ws: WebSocket) -> bool:
        async def no(status: int, reason: str, message: str, **headers: str) -> bool:
            await refuse(ws, self._counters, "live", status, reason, message, **headers)
            return False

        if self.draining:
            return await no(503, "draining", "the server is about to stop", Retry_After="5")
        if not self._origin_allowed(ws):
            return await no(403, "origin", "Origin is neither the server's own nor among allowed_origins")
        if self._open >= self._settings.max_subscribers:
            return await no(503, "subscribers", "too many live sockets", Retry_After="30")
        if not offers(ws, LIVE_SUBPROTOCOL):
            return await no(400, "subprotocol", f"expected Sec-WebSocket-Protocol: {LIVE_SUBPROTOCOL}")
        return True

    def _origin_allowed(self, ws: WebSocket) -> bool:
        origin = ws.headers.get("origin")
        if origin is None:
            return False
        if origin in self._settings.allowed_origins:
            return True
        if self._settings.public_url is not None:
            return origin == self._settings.public_url
        # Development: without a name of our own, what the browser dialled is ours.
        parts = urlsplit(origin)
        return parts.scheme in {"http", "https"} and bool(parts.netloc) and parts.netloc == ws.headers.get("host")

    async def _user(self, ws: WebSocket) -> User | None:
        ticket = ws.query_params.get("ticket")
        if ticket is not None:
            return await self._tickets.redeem(ticket, ws.headers.get("origin"))
        try:
            return self._tokens.user(ws.query_params.get("token"))
        except TokenError:
            return None


class Subscriber:
    """A live socket and its subscriptions."""

    def __init__(
        self,
        user: User,
        socket: GuardedWebSocket,
        hub: Hub,
        registry: Registry,
        logs: LogSource,
        actions: Actions,
        counters: Counters,
        settings: Settings,
    ) -> None:
        self.user = user
        self._socket = socket
        self._hub = hub
        self._registry = registry
        self._logs = logs
        self._actions = actions
        self._counters = counters
        self._max_subscriptions = settings.max_subscriptions
        self._share_bytes = settings.outbox_bytes // 4
        """A tail, and the lines held meanwhile, each take at most this: they must fit into the outbox together."""
        self.outbox = Outbox(socket, counters, limit_bytes=settings.outbox_bytes, limit_seconds=settings.outbox_seconds)
        self._subscriptions: dict[str, Subscription] = {}
        self._bad_frames: list[float] = []
        self._over_limit = 0
        self._asks = float(ASKS_AT_ONCE)
        """Topics that may be asked for now."""
        self._asked_at = asyncio.get_running_loop().time()
        socket.on_writable = self.outbox.on_writable

    async def serve(self, ws: WebSocket) -> None:
        """Read requests until the socket ends."""
        while True:
            event = await ws.receive()
            if event["type"] == "websocket.disconnect":
                self._counters.sockets_closed["live", str(event.get("code", 1005))] += 1
                return
            text = text_of(event)
            if text is None:
                self._socket.close(CloseCode.UNSUPPORTED_DATA, "binary frame: expected text")
                return
            try:
                request = decode_live_request(text)
            except FrameError as error:
                if not self._bad_frame(error):
                    return
                continue
            if not self._may_ask(1 if isinstance(request, LiveHeartbeat) else len(request.topics)):
                return
            if not await self._handle(request):
                return

    async def _handle(self, request: LiveRequest) -> bool:
        """Answer a request; False: the socket ends."""
        match request:
            case Subscribe(topics=topics, tail=tail):
                for topic in topics:
                    await self._subscribe(topic, tail)
                if self._over_limit > MAX_OVER_LIMIT:
                    message = f"{self._over_limit} topics over the limit were asked for"
                    self._socket.close(CloseCode.SUBSCRIPTION_LIMIT, message)
                    return False
            case Unsubscribe(topics=topics):
                for topic in topics:
                    self._unsubscribe(topic)
            case Pause(topics=topics):
                self._pause(topics)
            case Resume(topics=topics, since=since):
                for topic in topics:
                    await self._resume(topic, since)
            case LiveHeartbeat(at=at):
                self.outbox.push(encode(HeartbeatEcho(at=at, server_time=now_us())))
        return True

    def close(self, code: CloseCode, reason: str) -> None:
        """Begin to end the socket; `serve` returns then."""
        self._socket.close(code, reason)

    def stop(self) -> None:
        """Leave every topic and free what waits. Idempotent."""
        self._socket.on_writable = None
        for subscription in self._subscriptions.values():
            self._hub.remove(subscription)
        self._subscriptions.clear()
        self.outbox.clear()

    # -- requests

    def _may_ask(self, topics: int) -> bool:
        """Whether so many topics may be asked for now; False: it was too much, and the socket ends."""
        now = asyncio.get_running_loop().time()
        passed, self._asked_at = now - self._asked_at, now
        self._asks = min(ASKS_AT_ONCE, self._asks + passed * ASKS_PER_SECOND) - topics
        if self._asks >= 0:
            return True
        message = f"more than {ASKS_PER_SECOND} topics a second were asked for"
        self._socket.close(CloseCode.RATE_LIMITED, message)
        return False

    async def _subscribe(self, topic: str, tail: int) -> None:
        if topic in self._subscriptions:
            self._unsubscribe(topic)
        if len(self._subscriptions) >= self._max_subscriptions:
            self._over_limit += 1
            self._refuse(topic, ErrorCode.LIMIT_EXCEEDED, f"expected at most {self._max_subscriptions} topics")
            return
        if not await self._exists(topic):
            self._refuse(topic, ErrorCode.NOT_FOUND, "no such topic")
            return
        subscription = Subscription((self.user.org, topic), self.outbox, held_bytes=self._share_bytes)
        self._subscriptions[topic] = subscription
        if topic.startswith("logs:"):
            await self._tail(subscription, tail)
        else:
            # The snapshot first, then the events, and nothing can come between: this is one step of the loop.
            self._push_snapshot(topic)
            self._hub.add(subscription)

    def _unsubscribe(self, topic: str) -> None:
        if (subscription := self._subscriptions.pop(topic, None)) is not None:
            self._hub.remove(subscription)
            self.outbox.discard(topic)

    def _pause(self, topics: tuple[str, ...]) -> None:
        for topic in topics:
            if (subscription := self._subscriptions.get(topic)) is None:
                self._refuse(topic, ErrorCode.NOT_FOUND, "not subscribed")
            else:
                subscription.paused = True

    async def _resume(self, topic: str, since: Position | None) -> None:
        subscription = self._subscriptions.get(topic)
        if subscription is None:
            self._refuse(topic, ErrorCode.NOT_FOUND, "not subscribed")
            return
        if topic.startswith("logs:"):
            subscription.paused = False
            self._hub.remove(subscription)
            self.outbox.discard(topic)
            await self._tail(subscription, 200, since)
            return
        if subscription.paused:
            self.outbox.discard(topic)
            self._push_snapshot(topic)
            subscription.paused = False

    async def _tail(self, subscription: Subscription, tail: int, since: Position | None = None) -> None:
        """Stored lines, then live ones, without a hole and without a line twice.

        Live lines are held first; then what was received before is waited for, read, and sent; then the held ones
        follow, but for those that were read.
        """
        topic = subscription.topic
        container, org = int(topic.removeprefix("logs:")), self.user.org
        subscription.hold()
        self._hub.add(subscription)
        skipped = 0
        lines: list[LogLine] = []
        try:
            await self._logs.committed(container, BARRIER_SECONDS)
            if since is not None:
                after = (since.at, since.line)
                lines, skipped = await self._logs.lines_after(org, container, after, RESUME_LINES, self._share_bytes)
            elif tail:
                lines = await self._logs.tail(org, container, tail, self._share_bytes)
        except (DatabaseDownError, TimeoutError):
            self._hub.remove(subscription)
            self._subscriptions.pop(topic, None)
            self._refuse(topic, ErrorCode.UNAVAILABLE, "the stored lines cannot be read now; subscribe again")
            return
        self.outbox.push(encode(Snapshot(topic=topic, at=now_us(), lines=tuple(lines))))
        skipped += subscription.dropped
        if skipped:
            self.outbox.push(encode(Gap(topic=topic, dropped=skipped)))
        if held := subscription.release({(line.at, line.line) for line in lines}):
            self.outbox.push_lines(topic, encode(Logs(topic=topic, lines=tuple(held))), len(held))

    # -- topics

    async def _exists(self, topic: str) -> bool:
        if self.user.topics is not None and topic not in self.user.topics:
            return False
        kind, _, name = topic.partition(":")
        org = self.user.org
        if topic in {"fleet", "actions"}:
            return True
        if kind == "host":
            return (org, name) in self._registry.records
        if kind not in {"container", "logs"} or not name.isdecimal() or not name.isascii() or len(name) > 19:
            return False
        if self._container(name) is not None:
            return True
        if int(name) >= 2**63:
            return False
        try:
            return await self._logs.owns_container(org, int(name))
        except DatabaseDownError:
            return False

    def _container(self, name: str) -> tuple[AgentRecord, TrackedContainer] | None:
        key = int(name)
        record = self._registry.by_container.get(key)
        if record is None or record.org != self.user.org:
            return None
        return record, record.by_id[key]

    def _push_snapshot(self, topic: str) -> None:
        kind, _, name = topic.partition(":")
        org, now = self.user.org, now_us()
        if topic == "fleet":
            snapshot = Snapshot(topic=topic, at=now, fleet=fleet_summary(self._registry, org))
        elif kind == "host":
            record = self._registry.records[org, name]
            present = [c for c in record.by_id.values() if c.removed_at is None]
            snapshot = Snapshot(
                topic=topic, at=now, host=record.status(), containers=tuple(c.status(name) for c in present),
                samples=tuple(sample_of(c) for c in present if c.live_at),
            )  # fmt: skip
        elif kind == "container" and (found := self._container(name)) is not None:
            record, container = found
            snapshot = Snapshot(
                topic=topic, at=now, containers=(container.status(record.host),),
                samples=(sample_of(container),) if container.live_at else (),
            )  # fmt: skip
        elif topic == "actions":
            snapshot = Snapshot(topic=topic, at=now, actions=self._actions.recent(org))
        else:
            snapshot = Snapshot(topic=topic, at=now)
        self.outbox.push(encode(snapshot))

    # -- refusals

    def _refuse(self, topic: str, code: ErrorCode, message: str) -> None:
        self._counters.errors_sent[code] += 1
        error = Error(code=code, message=message, fatal=False, about=About(topic=topic))
        self.outbox.push(encode(error))

    def _bad_frame(self, error: FrameError) -> bool:
        self._counters.errors_sent[error.error.code] += 1
        self.outbox.push(encode(error.error))
        if error.error.code == ErrorCode.UNKNOWN_TYPE:
            return True  # a newer client may know more than we do
        now = asyncio.get_running_loop().time()
        self._bad_frames = [t for t in self._bad_frames if now - t < 60] + [now]
        if len(self._bad_frames) < BAD_FRAMES_PER_MINUTE:
            return True
        self._socket.close(CloseCode.BAD_REQUEST, f"{BAD_FRAMES_PER_MINUTE} unreadable frames within a minute")
        return False
