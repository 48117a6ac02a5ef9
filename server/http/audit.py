"""`/api/audit`: who attempted what, and how it ended. For Admins, by page or as a file."""

import csv
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Annotated, Literal, Protocol

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from server import reads
from server.auth.principal import User
from server.http.problems import PROBLEM_RESPONSES, CurrentUser, Refused
from server.http.values import Moment, NextPage
from server.reads import AuditFilter

EXPORT_PAGE = 1000
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters that a spreadsheet takes for a formula: OWASP, CSV injection."""

Filter = Annotated[str | None, Query(max_length=1000, pattern="^[^\x00]*$")]


class AuditEntry(BaseModel):
    """One attempt. Times in Unix microseconds."""

    id: Annotated[str, Field(examples=["4711"])]
    at: int
    actor: Annotated[str, Field(examples=["ada"])]
    role: Annotated[str, Field(examples=["operator"])]
    action: Annotated[str, Field(examples=["container.stop"])]
    target: Annotated[str, Field(examples=["container:4611686018427387904"])]
    reason: str
    result: Annotated[
        str, Field(description="denied, done, or the state of its action", examples=["succeeded", "denied"])
    ]
    detail: Annotated[str, Field(examples=["protected: the container is protected: only an admin may stop it"])]
    action_id: str | None = None
    finished_at: int | None = None


class AuditPage(BaseModel):
    """Entries, newest first."""

    entries: list[AuditEntry]
    next: NextPage


class AuditReads(Protocol):
    """Where the log is read."""

    async def entries(
        self, org: str, wanted: AuditFilter, *, before: int | None, limit: int
    ) -> Sequence[reads.AuditEntry]:
        """The newest entries that match, newest first."""


def router(audit: AuditReads, current_user: CurrentUser) -> APIRouter:
    """The one route."""
    routes = APIRouter(prefix="/api", tags=["audit"], responses=PROBLEM_RESPONSES)

    @routes.get(
        "/audit",
        summary="The audit log, newest first (admin)",
        response_model=AuditPage,
        responses={200: {"content": {"text/csv": {}}, "description": "A page; as csv: everything that matches"}},
    )
    async def read_audit(
        user: Annotated[User, Depends(current_user)],
        actor: Filter = None,
        action: Filter = None,
        target: Filter = None,
        result: Filter = None,
        reason: Filter = None,
        since: Annotated[Moment | None, Query(description="From this time on.")] = None,
        until: Annotated[Moment | None, Query(description="Before this time.")] = None,
        after: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="The `next` of the page before")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        form: Annotated[
            Literal["json", "csv"], Query(alias="format", description="csv: a file, without paging")
        ] = "json",
    ) -> object:
        if not user.may("admin"):
            raise Refused(403, "forbidden", f"role {user.role}: expected admin or above")
        wanted = AuditFilter(
            actor=actor, action=action, target=target, result=result, reason=reason, since=since, until=until
        )
        first = [
            _shown(entry)
            for entry in await audit.entries(
                user.org, wanted, before=after, limit=EXPORT_PAGE if form == "csv" else limit
            )
        ]
        if form == "csv":
            return StreamingResponse(
                _lines(audit, user.org, wanted, first),
                media_type="text/csv; charset=utf-8",
                headers={
                    "Content-Disposition": 'attachment; filename="audit.csv"',
                    "X-Content-Type-Options": "nosniff",
                },
            )
        return AuditPage(entries=first, next=first[-1].id if len(first) == limit else None)

    return routes


async def _lines(audit: AuditReads, org: str, wanted: AuditFilter, page: list[AuditEntry]) -> AsyncIterator[str]:
    """The log as CSV, a page in memory at a time. Rows written meanwhile are newer and not among them."""
    columns = list(AuditEntry.model_fields)
    yield _row(columns)
    while page:
        yield "".join(_row([getattr(entry, column) for column in columns]) for entry in page)
        if len(page) < EXPORT_PAGE:
            return
        found = await audit.entries(org, wanted, before=int(page[-1].id), limit=EXPORT_PAGE)
        page = [_shown(entry) for entry in found]


def _row(values: Sequence[object]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(
        "" if value is None else f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
        for value in values
    )
    return out.getvalue()


def _shown(entry: reads.AuditEntry) -> AuditEntry:
    """As the API shows it: a 64-bit key is text there."""
    return AuditEntry(**asdict(entry) | {"id": str(entry.id)})
