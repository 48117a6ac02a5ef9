"""`/api/containers/{id}/actions` and `/api/actions`: start, stop, restart, and how they ended."""

from collections.abc import Sequence
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from server.action_records import ActionRecord, Denial
from server.actions import Actions
from server.auth.principal import User
from server.http.problems import PROBLEM_RESPONSES, CurrentUser, Refused
from server.http.values import ContainerId, NextPage
from server.protocol.messages import ActionKind, ActionState

_STATUS = {
    "forbidden": 403, "protected": 403, "revoked": 403, "container_gone": 409, "idempotency_conflict": 409,
    "too_many_actions": 429,
}  # fmt: skip
MAX_WAIT_SECONDS = 30
MAX_LIFE_SECONDS = 3600


class ActionBody(BaseModel):
    """What shall be done, and why."""

    model_config = ConfigDict(extra="forbid")

    kind: Annotated[ActionKind, Field(examples=["restart"])]
    reason: Annotated[
        str, Field(min_length=1, max_length=500, description="For the audit log.", examples=["deploy 2026.11.3"])
    ]
    expires_in_seconds: Annotated[
        int,
        Field(
            ge=1, le=MAX_LIFE_SECONDS, description="An agent that comes later does not get it any more.", examples=[30]
        ),
    ] = 30

    @field_validator("reason")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("expected a reason, found only blanks")
        return value


class ActionView(BaseModel):
    """An action. Times in Unix microseconds, by the server's clock; `finished_at` by the agent's if it reported."""

    action_id: Annotated[str, Field(examples=["5f0c9a52-6f0e-4c1e-9a39-0d3f5a9f7b11"])]
    container: Annotated[str, Field(examples=["4611686018427387904"])]
    host: Annotated[str, Field(examples=["host-1"])]
    kind: ActionKind
    state: ActionState
    reason: str
    requested_by: str
    requested_at: int
    expires_at: int
    sent_at: int | None = None
    finished_at: int | None = None
    detail: Annotated[str, Field(description="Of a failure: what Docker said, or why it was not sent.")] = ""


class ActionPage(BaseModel):
    """Actions, newest first."""

    actions: list[ActionView]
    next: NextPage


class ActionReads(Protocol):
    """Where actions are read."""

    async def find(self, org: str, action_id: str) -> ActionRecord | None:
        """An action of an organisation."""

    async def page(
        self,
        org: str,
        *,
        container_id: int | None,
        host: str | None,
        state: ActionState | None,
        before: tuple[int, str] | None,
        limit: int,
    ) -> Sequence[ActionRecord]:
        """Actions that match, newest first."""


def router(actions: Actions, reads: ActionReads, current_user: CurrentUser) -> APIRouter:
    """The three routes."""
    routes = APIRouter(prefix="/api", tags=["actions"], responses=PROBLEM_RESPONSES)

    @routes.post(
        "/containers/{container_id}/actions",
        status_code=202,
        summary="Start, stop or restart a container (operator; a protected one: admin)",
        responses={
            200: {"model": ActionView, "description": "It ended within `wait_seconds`"},
            409: {"description": "The container is gone, or the Idempotency-Key belongs to another request"},
            429: {"description": "Too many actions are open"},
        },
    )
    async def request_action(
        container_id: ContainerId,
        body: ActionBody,
        response: Response,
        user: Annotated[User, Depends(current_user)],
        idempotency_key: Annotated[
            str | None,
            Header(
                min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$",
                description="The same key with the same request gives the same action, which runs once.",
            ),
        ] = None,
        wait_seconds: Annotated[
            float, Query(ge=0, le=MAX_WAIT_SECONDS, description="Answer once it has ended, at the latest after these.")
        ] = 0,
    ) -> ActionView:  # fmt: skip
        decision = await actions.request(
            user, container_id, kind=body.kind, reason=body.reason, life_seconds=body.expires_in_seconds,
            idempotency_key=idempotency_key,
        )  # fmt: skip
        if decision is None:
            raise Refused(404, "not_found", f"container {container_id}: there is none in your organisation")
        if isinstance(decision, Denial):
            raise Refused(_STATUS[decision.code], decision.code, decision.message)
        action = decision.action
        if wait_seconds and action.is_open:
            ended = await actions.wait(action, wait_seconds)
            action = ended or await reads.find(user.org, action.action_id) or action
        response.status_code = 202 if action.is_open else 200
        response.headers["Location"] = f"/api/actions/{action.action_id}"
        if decision.replayed:
            response.headers["Idempotent-Replayed"] = "true"
        return view(action)

    @routes.get("/actions/{action_id}", summary="An action and how it ended")
    async def get_action(action_id: str, user: Annotated[User, Depends(current_user)]) -> ActionView:
        action = await reads.find(user.org, action_id) if "\x00" not in action_id else None
        if action is None:
            raise Refused(404, "not_found", "there is no such action in your organisation")
        return view(action)

    @routes.get("/actions", summary="Actions, newest first, a page at a time")
    async def list_actions(
        user: Annotated[User, Depends(current_user)],
        container: Annotated[ContainerId | None, Query(description="Only of this container.")] = None,
        host: Annotated[str | None, Query(max_length=128, description="Only of this host.")] = None,
        state: Annotated[ActionState | None, Query()] = None,
        after: Annotated[
            str | None, Query(pattern=r"^[0-9]{1,17}\.[0-9a-f-]{1,64}$", description="The `next` of the page before")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> ActionPage:
        before = None
        if after is not None:
            at, _, action_id = after.partition(".")
            before = (int(at), action_id)
        found = await reads.page(
            user.org, container_id=container, host=host, state=state, before=before, limit=limit
        )  # fmt: skip
        following = f"{found[-1].requested_at}.{found[-1].action_id}" if len(found) == limit else None
        return ActionPage(actions=[view(action) for action in found], next=following)

    return routes


def view(action: ActionRecord) -> ActionView:
    """As the API shows it."""
    return ActionView(
        action_id=action.action_id, container=str(action.container_id), host=action.host, kind=action.kind,
        state=action.state, reason=action.reason, requested_by=action.requested_by, requested_at=action.requested_at,
        expires_at=action.expires_at, sent_at=action.sent_at, finished_at=action.finished_at, detail=action.detail,
    )  # fmt: skip
