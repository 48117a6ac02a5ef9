"""What Admins do beside enrolment: revocations, protected containers; and the organisation's limits."""

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from server.auth.principal import User
from server.auth.revocations import Kind, Revocation
from server.http.agents import Reason
from server.http.containers import ContainerView, no_container
from server.http.problems import PROBLEM_RESPONSES, CurrentUser, Refused
from server.http.values import ContainerId, NextPage
from server.quotas import Quotas
from server.reads import StoredContainer


class RevocationBody(BaseModel):
    """Who, or which token, shall be worth nothing any more."""

    model_config = ConfigDict(extra="forbid")

    kind: Annotated[
        Literal["user", "token", "host"],
        Field(description="A host: also one that is not known (any more) but may still have a token."),
    ]
    subject: Annotated[
        str,
        Field(
            min_length=1,
            max_length=128,
            pattern=r"^[\x21-\x7e]+$",
            description="The user's or the host's id (`sub`), or the token's (`jti`).",
            examples=["ada"],
        ),
    ]
    reason: Reason


class RevocationView(BaseModel):
    """A revocation: what was issued up to `revoked_at` (Unix microseconds) is refused, a token whenever it was."""

    kind: Literal["user", "token", "host"]
    subject: str
    revoked_at: int
    revoked_by: str
    reason: str


class RevocationPage(BaseModel):
    """Revocations, by kind and subject."""

    revocations: list[RevocationView]
    next: NextPage


class ProtectionBody(BaseModel):
    """Whether only an Admin may stop or restart it."""

    model_config = ConfigDict(extra="forbid")

    protected: bool
    reason: Reason


class LimitsView(BaseModel):
    """The most that the organisation may take."""

    agents: int
    containers: int
    subscribers: int
    batches_per_second: int


class UsageView(BaseModel):
    """What it takes now, of this server."""

    agents: int
    containers: int
    subscribers: int
    batches_per_second: float
    acks_waiting: Annotated[int, Field(description="Agents that stand still because the batches of all are too many.")]


class QuotasView(BaseModel):
    """Limits and usage."""

    limits: LimitsView
    usage: UsageView


class AdminOperations(Protocol):
    """What Admins do. All raise DatabaseDownError; those of a user raise DeniedError."""

    async def revoke(self, user: User, kind: Kind, subject: str, reason: str) -> Revocation:
        """End what a user was issued up to now, or one token."""

    async def revocations(self, org: str, *, after: tuple[str, str] | None, limit: int) -> Sequence[Revocation]:
        """What is revoked, by (kind, subject), after a place."""

    async def protect(self, user: User, container_id: int, *, protected: bool, reason: str) -> StoredContainer | None:
        """Protect a container's series, or no longer; None: the organisation has no such container."""


def router(administration: AdminOperations, quotas: Quotas, current_user: CurrentUser) -> APIRouter:
    """The four routes."""
    routes = APIRouter(prefix="/api", tags=["administration"], responses=PROBLEM_RESPONSES)

    @routes.post("/revocations", status_code=201, summary="End a user's tokens, or one token (admin)")
    async def revoke(body: RevocationBody, user: Annotated[User, Depends(current_user)]) -> RevocationView:
        return _view(await administration.revoke(user, body.kind, body.subject, body.reason))

    @routes.get("/revocations", summary="What is revoked, a page at a time (admin)")
    async def list_revocations(
        user: Annotated[User, Depends(current_user)],
        after: Annotated[
            str | None,
            Query(pattern=r"^(host|token|user):[\x21-\x7e]{1,128}$", description="The `next` of the page before"),
        ] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> RevocationPage:
        if not user.may("admin"):
            raise Refused(403, "forbidden", f"role {user.role}: expected admin or above")
        kind, _, subject = (after or "").partition(":")
        found = await administration.revocations(user.org, after=(kind, subject) if after else None, limit=limit)
        following = f"{found[-1].kind}:{found[-1].subject}" if len(found) == limit else None
        return RevocationPage(revocations=[_view(revocation) for revocation in found], next=following)

    @routes.put(
        "/containers/{container_id}/protection",
        summary="Protect a container and those that replace it, or no longer (admin)",
        description="The container's series is protected. A container whose own label protects it stays protected.",
    )
    async def protect(
        container_id: ContainerId, body: ProtectionBody, user: Annotated[User, Depends(current_user)]
    ) -> ContainerView:
        container = await administration.protect(user, container_id, protected=body.protected, reason=body.reason)
        if container is None:
            raise no_container(container_id)
        return ContainerView.model_validate(container)

    @routes.get("/quotas", summary="Limits of the organisation, and what it takes")
    async def read_quotas(user: Annotated[User, Depends(current_user)]) -> QuotasView:
        organisation = quotas.of(user.org)
        limits = organisation.limits
        return QuotasView(
            limits=LimitsView(
                agents=limits.agents, containers=limits.containers, subscribers=limits.subscribers,
                batches_per_second=limits.batches_per_second,
            ),
            usage=UsageView(
                agents=organisation.agents, containers=organisation.containers, subscribers=organisation.subscribers,
                batches_per_second=organisation.batches_per_second, acks_waiting=len(organisation.waiting),
            ),
        )  # fmt: skip

    return routes


def _view(revocation: Revocation) -> RevocationView:
    return RevocationView(
        kind=revocation.kind, subject=revocation.subject, revoked_at=revocation.revoked_at,
        revoked_by=revocation.revoked_by, reason=revocation.reason,
    )  # fmt: skip
