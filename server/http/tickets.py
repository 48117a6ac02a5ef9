"""`POST /api/live-tickets`: what a browser needs to open /ws/live."""

from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Header
from pydantic import BaseModel, ConfigDict, Field

from server.auth.principal import User
from server.http.problems import PROBLEM_RESPONSES, CurrentUser

MAX_TOPICS = 200
Topic = Annotated[
    str,
    Field(
        pattern=r"^(fleet|actions|host:[A-Za-z0-9][A-Za-z0-9._-]{0,127}|(container|logs):[0-9]{1,19})$",
        examples=["host:host-1"],
    ),
]


class TicketBody(BaseModel):
    """What the ticket shall be good for."""

    model_config = ConfigDict(extra="forbid")

    topics: Annotated[
        list[Topic] | None,
        Field(
            min_length=1,
            max_length=MAX_TOPICS,
            description="Topics that its socket may watch; others do not exist for it. Left out: all of the organisation.",
        ),
    ] = None


class LiveTicket(BaseModel):
    """A ticket, good once."""

    ticket: Annotated[str, Field(description="Goes into /ws/live?ticket=...", examples=["q3Zk...43 characters"])]
    expires_in_seconds: Annotated[int, Field(examples=[30])]


class TicketIssuer(Protocol):
    """Where tickets come from."""

    ticket_seconds: int

    async def issue(self, user: User, origin: str | None, topics: frozenset[str] | None = None) -> str:
        """A new ticket for a user, bound to an Origin and perhaps to topics."""


def router(tickets: TicketIssuer, current_user: CurrentUser) -> APIRouter:
    """The one route."""
    routes = APIRouter(prefix="/api", tags=["live"], responses=PROBLEM_RESPONSES)

    @routes.post("/live-tickets", status_code=201, summary="A one-use ticket for /ws/live")
    async def issue_ticket(
        user: Annotated[User, Depends(current_user)],
        body: TicketBody | None = None,
        origin: Annotated[str | None, Header(max_length=2048, pattern="^[\x20-\x7e]*$")] = None,
    ) -> LiveTicket:
        topics = frozenset(body.topics) if body is not None and body.topics is not None else None
        ticket = await tickets.issue(user, origin, topics)
        return LiveTicket(ticket=ticket, expires_in_seconds=tickets.ticket_seconds)

    return routes
