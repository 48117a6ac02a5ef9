"""What an action is, from the request to its end, and what keeps them must do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from server.auth.principal import Role, User
from server.protocol.messages import ActionKind, ActionOutcome, ActionState, ActionStatus

_OPEN: frozenset[ActionState] = frozenset({"pending", "sent"})


def is_open(state: ActionState) -> bool:
    """Whether the outcome of an action in this state is still to come."""
    return state in _OPEN


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
        return is_open(self.state)

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


class Admitted(msgspec.Struct, frozen=True):
    """An attempt that became an action."""

    action: ActionRecord
    replayed: bool = False
    """The same request was made before: this is its action."""


Decision = Admitted | Denial
"""What became of an attempt."""


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
