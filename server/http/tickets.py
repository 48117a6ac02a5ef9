"""`POST /api/live-tickets`: what a browser needs to open /ws/live."""

from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Header
from pydantic import BaseModel, Field

from server.auth.principal import User
from server.http.problems import CurrentUser


class LiveTicket(BaseModel):
    """A ticket, good once."""

    ticket: Annotated[str, Field(description="Goes into /ws/live?ticket=...", examples=["q3Zk...43 characters"])]
    expires_in_seconds: Annotated[int, Field(examples=[30])]


class TicketIssuer(Protocol):
    """Where tickets come from."""

    ticket_seconds: int

    async def issue(self, user: User, origin: str | None) -> str:
        """A new ticket for a user, bound to an Origin."""


def router(tickets: TicketIssuer, current_user: CurrentUser) -> APIRouter:
    """The one route."""
    routes = APIRouter(prefix="/api", tags=["live"])

    @routes.post("/live-tickets", status_code=201, summary="A one-use ticket for /ws/live")
    async def issue_ticket(
        user: Annotated[User, Depends(current_user)], origin: Annotated[str | None, Header()] = None
    ) -> LiveTicket:
        ticket = await tickets.issue(user, origin)
        return LiveTicket(ticket=ticket, expires_in_seconds=tickets.ticket_seconds)

    return routes
