"""Start, stop and restart: each command runs at most once, and how it ended is known.

    pending -> sent -> succeeded | failed | expired | unknown
       '---------------------------> expired | failed (denied at sending)

`sent` is committed before the frame leaves, so a crash in between costs the command, never a second run: nothing that was
marked sent is sent again. Expiry is judged by the server's clock. An agent repeats a result until `result_ack`, which it gets
once the result is committed. A command whose agent stays silent past its expiry and a grace is `unknown`; should its result
come after all, it is taken.

Two tasks do the work, one for what goes down and one for what comes up, each batch in one transaction; nothing that reads a
socket waits for them.
"""

import asyncio
import itertools
import logging
import uuid
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from server.agents import AgentRecord, TrackedContainer, now_us
from server.auth.principal import Role, User
from server.counters import Counters
from server.errors import DatabaseDownError
from server.protocol.canonical import clean_text
from server.protocol.codec import encode
from server.protocol.error_codes import ErrorCode
from server.protocol.messages import (
    Action,
    ActionKind,
    ActionOutcome,
    ActionReport,
    ActionState,
    ActionStatus,
    ResultAck,
)
from server.registry import Registry

RECENT = 100
"""Actions of an organisation that the live topic's snapshot shows."""
MAX_RESULTS = 1_000
"""Results of one organisation waiting for the database; past it they are dropped, and the agents repeat them when they
connect again. Of one: who reports what nobody asked for fills only its own place."""
TICK_SECONDS = 1.0
REREAD_TICKS = 5
"""Pause between two looks for actions that were admitted and did not come into memory, in ticks."""
RETRY_SECONDS = 1.0
_OPEN: frozenset[ActionState] = frozenset({"pending", "sent"})

Seam = Callable[[str], Awaitable[None]]
"""A named place between two steps where a test may cut: before_sent, after_sent, before_result, after_result."""

_log = logging.getLogger("seatrial.actions")


class ActionRecord(msgspec.Struct, kw_only=True, frozen=True):
    """An action as it is stored. Times in Unix microseconds, by the server's clock but for `finished_at`."""

    action_id: str
    org: str
    host: str
    container_id: int
    kind: ActionKind
    state: ActionState
    reason: str
    detail: str
    requested_by: str
    role: Role
    token_id: str
    token_issued_at: float
    """Unix seconds, as the token says."""
    requested_at: int
    expires_at: int
    sent_at: int | None = None
    finished_at: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether its outcome is still to come."""
        return self.state in _OPEN

    def status(self) -> ActionStatus:
        """As the live view shows it."""
        return ActionStatus(
            action_id=self.action_id, container=str(self.container_id), host=self.host, kind=self.kind, state=self.state,
            requested_by=self.requested_by, requested_at=self.requested_at, reason=self.reason,
            finished_at=self.finished_at, detail=self.detail,
        )  # fmt: skip

    def requester(self) -> User:
        """Who asked for it, as the token said then."""
        return User(
            subject=self.requested_by, org=self.org, role=self.role, expires_at=0.0, issued_at=self.token_issued_at,
            token_id=self.token_id,
        )  # fmt: skip


class ActionRequest(msgspec.Struct, kw_only=True, frozen=True):
    """What a user asks for, and what the server knows of its target at that moment."""

    action_id: str
    container_id: int
    host: str
    kind: ActionKind
    reason: str
    requested_at: int
    expires_at: int
    idempotency_key: str | None
    life_us: int
    """Part of what makes two requests the same; `expires_at` itself depends on when it was asked."""
    removed: bool
    protected: bool


class Denial(msgspec.Struct, frozen=True):
    """Why an attempt was refused. It has its audit row."""

    code: str
    """forbidden, protected, revoked, container_gone, idempotency_conflict, too_many_actions."""
    message: str


class Decision(msgspec.Struct, frozen=True):
    """What became of an attempt."""

    action: ActionRecord | None
    denial: Denial | None = None
    replayed: bool = False
    """The same request was made before: this is its action."""


class Result(msgspec.Struct, frozen=True):
    """What an agent reports of an action."""

    org: str
    host: str
    action_id: str
    outcome: ActionOutcome
    finished_at: int
    detail: str


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a batch of results."""

    changed: Sequence[ActionRecord]
    repeated: int
    """Of actions that had ended before: the agent had not seen the `result_ack`."""
    unasked: int
    """Of actions that this host was never sent."""


class ActionStore(Protocol):
    """Where actions are kept. Each method is one transaction.

    Raises (all methods):
        DatabaseDownError: nothing was changed, or it is not known whether; calling again is safe.
    """

    async def decide(self, user: User, request: ActionRequest) -> Decision:
        """Admit or refuse an attempt, and write its one audit row."""

    async def mark_sent(
        self, action_ids: Sequence[str], now: int
    ) -> tuple[Sequence[ActionRecord], Sequence[ActionRecord]]:
        """Mark pending actions sent; returns those that are to be sent now, and those denied as their user was revoked."""

    async def mark_unsent(self, action_ids: Sequence[str]) -> None:
        """Back to pending: their frames surely did not leave."""

    async def deny(self, action_ids: Sequence[str], detail: str, now: int) -> Sequence[ActionRecord]:
        """End pending actions as denied; returns those that were."""

    async def take_results(self, results: Sequence[Result]) -> Taken:
        """End sent actions as their agents report."""

    async def expire(self, now: int, grace_us: int) -> Sequence[ActionRecord]:
        """End what is past its time: pending as expired, sent (and a grace later) as unknown; returns those."""

    async def open_actions(self) -> Sequence[ActionRecord]:
        """Every action whose outcome is still to come."""

    async def recent(self, per_org: int) -> Sequence[ActionRecord]:
        """The newest actions of each organisation, oldest first."""

    async def target(self, org: str, container_id: int) -> str | None:
        """The host of a container that is no longer there but known; None: not of this organisation."""


class Actions:
    """Admits, sends, and follows actions to their end."""

    def __init__(
        self,
        store: ActionStore,
        registry: Registry,
        counters: Counters,
        publish: Callable[[str, ActionStatus], None],
        *,
        grace_seconds: float,
        seam: Seam | None = None,
    ) -> None:
        self._store = store
        self._registry = registry
        self._counters = counters
        self._publish = publish
        self._grace_us = int(grace_seconds * 1e6)
        self._seam = seam
        self._pending: dict[tuple[str, str], dict[str, ActionRecord]] = defaultdict(dict)
        """What waits for its agent, by (organisation, host); bounded by `max_open_actions` an organisation."""
        self._due: set[tuple[str, str]] = set()
        self._something_due = asyncio.Event()
        self._results: dict[tuple[str, str, str], Result] = {}
        self._results_of: Counter[str] = Counter()
        """How many of them, by organisation."""
        self._some_results = asyncio.Event()
        self._waiters: dict[str, set[asyncio.Future[ActionRecord]]] = defaultdict(set)
        self._recent: dict[str, OrderedDict[str, ActionStatus]] = defaultdict(OrderedDict)

    # -- life

    async def load(self) -> None:
        """Take up what an earlier process left open. What it marked sent is not sent again."""
        for action in await self._store.recent(RECENT):
            self._remember(action)
        await self.reread()

    async def reread(self) -> None:
        """Take up pending actions that are not in memory: an earlier process's, or of a COMMIT whose answer got lost."""
        for action in await self._store.open_actions():
            if action.state == "pending":
                self._pending[action.org, action.host].setdefault(action.action_id, action)

    async def run_down(self) -> None:
        """Send what is due until cancelled."""
        while True:
            await self._something_due.wait()
            self._something_due.clear()
            try:
                await self.send_due()
            except DatabaseDownError as error:
                _log.warning("actions wait for the database", extra={"error": str(error)})
                await asyncio.sleep(RETRY_SECONDS)
                self._something_due.set()

    async def run_up(self) -> None:
        """Store results until cancelled."""
        while True:
            await self._some_results.wait()
            self._some_results.clear()
            try:
                await self.store_results()
            except DatabaseDownError as error:
                _log.warning("results wait for the database", extra={"error": str(error)})
                await asyncio.sleep(RETRY_SECONDS)
                self._some_results.set()

    async def run_clock(self) -> None:
        """Once a second, until cancelled: expire what is past its time, and try again what could not be sent."""
        for tick in itertools.count():
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self.expire()
                if tick % REREAD_TICKS == 0:
                    await self.reread()
            except DatabaseDownError as error:
                _log.warning("expiry waits for the database", extra={"error": str(error)})
            for key, waiting in self._pending.items():
                if waiting:
                    self._make_due(key)

    # -- what users ask

    async def request(
        self,
        user: User,
        container_id: int,
        *,
        kind: ActionKind,
        reason: str,
        life_seconds: float,
        idempotency_key: str | None,
    ) -> Decision | None:
        """Admit or refuse an attempt; None: the organisation has no such container.

        Raises:
            DatabaseDownError: it is not known whether it was admitted; with an idempotency key asking again is safe.
        """
        found = self._find(user.org, container_id)
        if found is not None:
            host, removed, protected = found
        else:
            known = await self._store.target(user.org, container_id)
            if known is None:
                return None
            host, removed, protected = known, True, False
        now = now_us()
        life_us = int(life_seconds * 1e6)
        decision = await self._store.decide(
            user,
            ActionRequest(
                action_id=str(uuid.uuid4()), container_id=container_id, host=host, kind=kind, reason=clean_text(reason),
                requested_at=now, expires_at=now + life_us, idempotency_key=idempotency_key, life_us=life_us,
                removed=removed, protected=protected,
            ),
        )  # fmt: skip
        if decision.denial is not None:
            self._counters.actions_denied[decision.denial.code] += 1
        elif decision.action is not None:
            if not decision.replayed:
                self._counters.actions_requested += 1
                self._changed(decision.action)
            if decision.action.state == "pending":
                # A replayed one too: the answer to its COMMIT may have got lost, and then nobody here knows of it.
                self._pending[user.org, host].setdefault(decision.action.action_id, decision.action)
                self._make_due((user.org, host))
        return decision

    async def wait(self, action: ActionRecord, seconds: float) -> ActionRecord | None:
        """The action once it has ended; None: it did not within `seconds`."""
        if not action.is_open or not seconds:
            return None if action.is_open else action
        future: asyncio.Future[ActionRecord] = asyncio.get_running_loop().create_future()
        waiters = self._waiters[action.action_id]
        waiters.add(future)
        try:
            shown = self._recent[action.org].get(action.action_id)
            if shown is not None and shown.state not in _OPEN:
                return None  # it ended before we began to wait: the caller reads it
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            return None
        finally:
            waiters.discard(future)
            if not waiters:
                self._waiters.pop(action.action_id, None)

    def recent(self, org: str) -> tuple[ActionStatus, ...]:
        """The newest actions of an organisation, oldest first, for the live topic's snapshot."""
        return tuple(self._recent[org].values()) if org in self._recent else ()

    @property
    def pending(self) -> int:
        """Actions that wait for their agent."""
        return sum(map(len, self._pending.values()))

    # -- what agents do

    def agent_ready(self, record: AgentRecord) -> None:
        """An agent connected, or named containers: what waits for it may go."""
        key = (record.org, record.host)
        if self._pending.get(key):
            self._make_due(key)

    def result(self, record: AgentRecord, report: ActionReport) -> None:
        """An agent reports; it is told once that is stored."""
        key = (record.org, record.host, report.action_id)
        if key not in self._results:
            if self._results_of[record.org] >= MAX_RESULTS:
                self._counters.action_results_dropped += 1
                return
            self._results_of[record.org] += 1
        self._results[key] = Result(
            record.org, record.host, clean_text(report.action_id), report.outcome, min(report.finished_at, now_us()),
            clean_text(report.detail),
        )  # fmt: skip
        self._some_results.set()

    # -- steps

    async def send_due(self) -> None:
        """Mark what can go as sent, commit, then let it go."""
        due, self._due = self._due, set()
        try:
            ready, denied = self._sort_due(due)
            if denied:
                detail = "denied: the container was protected before it was sent"
                self._ended(await self._store.deny(denied, detail, now_us()))
            if not ready:
                return
            await self._cut("before_sent")
            sent, revoked = await self._store.mark_sent(ready, now_us())
        except BaseException:
            self._due |= due
            raise
        self._ended(revoked)
        for action in sent:
            self._pending[action.org, action.host].pop(action.action_id, None)
        await self._cut("after_sent")
        unsent = [action for action in sent if not self._send(action)]
        for action in sent:
            if action not in unsent:
                self._counters.actions_sent += 1
                self._changed(action)
        if unsent:
            # If this fails they stay marked as sent and end as unknown: never sent twice.
            await self._store.mark_unsent([action.action_id for action in unsent])
            for action in unsent:
                again = msgspec.structs.replace(action, state="pending", sent_at=None)
                self._pending[action.org, action.host][action.action_id] = again

    async def store_results(self) -> None:
        """Commit what agents reported, then tell them."""
        while results := dict(list(self._results.items())[:500]):
            await self._cut("before_result")
            taken = await self._store.take_results(list(results.values()))
            self._counters.action_results_repeated += taken.repeated
            self._counters.action_results_unknown += taken.unasked
            self._ended(taken.changed)
            await self._cut("after_result")
            for key, result in results.items():
                if self._results.get(key) is result:
                    del self._results[key]
                    self._results_of[result.org] -= 1
                    if not self._results_of[result.org]:
                        del self._results_of[result.org]
                self._acknowledge(result)

    async def expire(self) -> None:
        """End what is past its time."""
        self._ended(await self._store.expire(now_us(), self._grace_us))

    # -- parts

    def _sort_due(self, due: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
        """Ids of what can be sent now, and of what may not be sent any more."""
        ready, denied = [], []
        for key in due:
            record = self._registry.records.get(key)
            if record is None or record.session is None:
                continue
            for action in self._pending[key].values():
                container = record.by_id.get(action.container_id)
                if container is None or _ref(record, container) is None:
                    continue  # not named in this epoch (yet)
                if _needs_admin(action.kind, container.protected) and not action.requester().may("admin"):
                    denied.append(action.action_id)
                else:
                    ready.append(action.action_id)
        return ready, denied

    def _send(self, action: ActionRecord) -> bool:
        """Let a frame go; False: it surely did not."""
        record = self._registry.records.get((action.org, action.host))
        if record is None or record.session is None or action.expires_at <= now_us():
            return False  # the COMMIT may have taken longer than the action had
        container = record.by_id.get(action.container_id)
        ref = None if container is None else _ref(record, container)
        if ref is None:
            return False
        frame = Action(action_id=action.action_id, ref=ref, kind=action.kind, expires_at=action.expires_at)
        return record.session.socket.try_send(encode(frame))

    def _acknowledge(self, result: Result) -> None:
        record = self._registry.records.get((result.org, result.host))
        if record is not None and record.session is not None:
            record.session.socket.try_send(encode(ResultAck(action_id=result.action_id)))

    def _ended(self, actions: Iterable[ActionRecord]) -> None:
        for action in actions:
            key = (action.org, action.host)
            if (waiting := self._pending.get(key)) is not None:
                waiting.pop(action.action_id, None)
                if not waiting:
                    del self._pending[key]
            self._counters.actions_ended[action.state] += 1
            self._changed(action)
            for future in self._waiters.get(action.action_id, ()):
                if not future.done():
                    future.set_result(action)

    def _changed(self, action: ActionRecord) -> None:
        self._remember(action)
        self._publish(action.org, action.status())

    def _remember(self, action: ActionRecord) -> None:
        recent = self._recent[action.org]
        recent[action.action_id] = action.status()
        while len(recent) > RECENT:
            recent.popitem(last=False)

    def _find(self, org: str, container_id: int) -> tuple[str, bool, bool] | None:
        """Host, whether it is gone, and whether it is protected, of a container in memory."""
        record = self._registry.by_container.get(container_id)
        if record is None or record.org != org:
            return None
        container = record.by_id[container_id]
        return record.host, container.removed_at is not None, container.protected

    def _make_due(self, key: tuple[str, str]) -> None:
        self._due.add(key)
        self._something_due.set()

    async def _cut(self, name: str) -> None:
        if self._seam is not None:
            await self._seam(name)


def denial(user: User, request: ActionRequest) -> Denial | None:
    """Why the policy refuses a request, if it does: Operators act, only Admins stop what is protected."""
    if not user.may("operator"):
        return Denial(ErrorCode.FORBIDDEN, f"role {user.role}: expected operator or above")
    if request.removed:
        return Denial("container_gone", "the container is no longer there")
    if _needs_admin(request.kind, request.protected) and not user.may("admin"):
        return Denial("protected", f"the container is protected: only an admin may {request.kind} it")
    return None


def _needs_admin(kind: ActionKind, protected: bool) -> bool:
    return protected and kind != "start"


def _ref(record: AgentRecord, container: TrackedContainer) -> int | None:
    """The newest number that names a container in the agent's epoch."""
    return next((ref for ref in reversed(record.containers) if record.containers[ref] is container), None)
