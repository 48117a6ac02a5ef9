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
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec

from server.action_pending import HostKey, PendingActions
from server.action_policy import needs_admin
from server.action_records import ActionRecord, ActionRequest, ActionStore, Decision, Denial, Result
from server.action_results import ResultBuffer
from server.action_watch import RECENT, ActionWatch
from server.agents import AgentRecord, TrackedContainer, now_us
from server.auth.principal import User
from server.counters import Counters
from server.errors import DatabaseDownError
from server.protocol.canonical import clean_text
from server.protocol.codec import encode
from server.protocol.messages import Action, ActionKind, ActionReport, ActionStatus, ResultAck
from server.registry import Registry

RESULTS_AT_ONCE = 500
"""Results stored in one transaction."""
TICK_SECONDS = 1.0
REREAD_TICKS = 5
"""Pause between two looks for actions that were admitted and did not come into memory, in ticks."""
RETRY_SECONDS = 1.0

Seam = Callable[[str], Awaitable[None]]
"""A named place between two steps where a test may cut: before_sent, after_sent, before_result, after_result."""

_log = logging.getLogger("seatrial.actions")


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
        self._watch = ActionWatch(publish)
        self._grace_us = int(grace_seconds * 1e6)
        self._seam = seam
        self._pending = PendingActions()
        self._results = ResultBuffer()

    # -- life

    async def load(self) -> None:
        """Take up what an earlier process left open. What it marked sent is not sent again."""
        for action in await self._store.recent(RECENT):
            self._watch.remember(action)
        await self.reread()

    async def reread(self) -> None:
        """Take up pending actions that are not in memory: an earlier process's, or of a COMMIT whose answer got lost."""
        for action in await self._store.open_actions():
            if action.state == "pending":
                self._pending.keep(action)

    async def run_down(self) -> None:
        """Send what is due until cancelled."""
        while True:
            await self._pending.wait()
            try:
                await self.send_due()
            except DatabaseDownError as error:
                _log.warning("actions wait for the database", extra={"error": str(error)})
                await asyncio.sleep(RETRY_SECONDS)
                self._pending.try_again()

    async def run_up(self) -> None:
        """Store results until cancelled."""
        while True:
            await self._results.wait()
            try:
                await self.store_results()
            except DatabaseDownError as error:
                _log.warning("results wait for the database", extra={"error": str(error)})
                await asyncio.sleep(RETRY_SECONDS)
                self._results.try_again()

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
            self._pending.make_all_due()

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
        if isinstance(decision, Denial):
            self._counters.actions_denied[decision.code] += 1
            return decision
        action = decision.action
        if not decision.replayed:
            self._counters.actions_requested += 1
            self._watch.changed(action)
        if action.state == "pending":
            # A replayed one too: the answer to its COMMIT may have got lost, and then nobody here knows of it.
            self._pending.keep(action)
            self._pending.make_due((action.org, action.host))
        return decision

    async def wait(self, action: ActionRecord, seconds: float) -> ActionRecord | None:
        """The action once it has ended; None: it did not within `seconds`, or did before the wait began."""
        return await self._watch.wait(action, seconds)

    def recent(self, org: str) -> tuple[ActionStatus, ...]:
        """The newest actions of an organisation, oldest first, for the live topic's snapshot."""
        return self._watch.recent(org)

    @property
    def pending(self) -> int:
        """Actions that wait for their agent."""
        return len(self._pending)

    # -- what agents do

    def agent_ready(self, record: AgentRecord) -> None:
        """An agent connected, or named containers: what waits for it may go."""
        self._pending.make_due((record.org, record.host))

    def result(self, record: AgentRecord, report: ActionReport) -> None:
        """An agent reports; it is told once that is stored."""
        result = Result(
            record.org, record.host, clean_text(report.action_id), report.outcome, min(report.finished_at, now_us()),
            clean_text(report.detail),
        )  # fmt: skip
        if not self._results.put(result):
            self._counters.action_results_dropped += 1

    # -- steps

    async def send_due(self) -> None:
        """Mark what can go as sent, commit, then let it go."""
        due = self._pending.take_due()
        try:
            ready, denied = self._sort_due(due)
            if denied:
                detail = "denied: the container was protected before it was sent"
                self._ended(await self._store.deny(list(denied), detail, now_us()))
            if not ready:
                return
            await self._cut("before_sent")
            sent, revoked = await self._store.mark_sent(list(ready), now_us())
        except BaseException:
            self._pending.give_back(due)
            raise
        self._ended(revoked)
        # All of them: one that was not marked is no longer pending, and how it ends is for the clock or its agent to say.
        self._pending.forget(ready.values())
        await self._cut("after_sent")
        unsent = []
        for action in sent:
            if self._send(action):
                self._counters.actions_sent += 1
                self._watch.changed(action)
            else:
                unsent.append(action)
        if unsent:
            # If this fails they stay marked as sent and end as unknown: never sent twice.
            await self._store.mark_unsent([action.action_id for action in unsent])
            for action in unsent:
                self._pending.keep(msgspec.structs.replace(action, state="pending", sent_at=None))

    async def store_results(self) -> None:
        """Commit what agents reported, then tell them."""
        while results := self._results.oldest(RESULTS_AT_ONCE):
            await self._cut("before_result")
            taken = await self._store.take_results(results)
            self._counters.action_results_repeated += taken.repeated
            self._counters.action_results_unknown += taken.unasked
            self._ended(taken.changed)
            await self._cut("after_result")
            self._results.remove(results)
            for result in results:
                self._acknowledge(result)

    async def expire(self) -> None:
        """End what is past its time."""
        self._ended(await self._store.expire(now_us(), self._grace_us))

    # -- parts

    def _sort_due(self, due: Iterable[HostKey]) -> tuple[Mapping[str, ActionRecord], Mapping[str, ActionRecord]]:
        """What can be sent now, and what may not be sent any more, by id."""
        ready, denied = {}, {}
        for key in due:
            record = self._registry.records.get(key)
            if record is None or record.session is None:
                continue
            for action in self._pending.of(key):
                container = record.by_id.get(action.container_id)
                if container is None or _ref(record, container) is None:
                    continue  # not named in this epoch (yet)
                if needs_admin(action.kind, container.protected) and not action.requester().may("admin"):
                    denied[action.action_id] = action
                else:
                    ready[action.action_id] = action
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

    def _ended(self, actions: Sequence[ActionRecord]) -> None:
        self._pending.forget(actions)
        for action in actions:
            self._counters.actions_ended[action.state] += 1
            self._watch.ended(action)

    def _find(self, org: str, container_id: int) -> tuple[str, bool, bool] | None:
        """Host, whether it is gone, and whether it is protected, of a container in memory."""
        record = self._registry.by_container.get(container_id)
        if record is None or record.org != org:
            return None
        container = record.by_id[container_id]
        return record.host, container.removed_at is not None, container.protected

    async def _cut(self, name: str) -> None:
        if self._seam is not None:
            await self._seam(name)


def _ref(record: AgentRecord, container: TrackedContainer) -> int | None:
    """The newest number that names a container in the agent's epoch."""
    return next((ref for ref in reversed(record.containers) if record.containers[ref] is container), None)
