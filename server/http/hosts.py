"""`/api/hosts`: hosts and who is online, and what runs on them."""

import heapq
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Protocol

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from server.agents import AgentRecord
from server.auth.principal import User
from server.http.containers import ContainerView
from server.http.problems import PROBLEM_RESPONSES, CurrentUser, Refused
from server.http.values import NextPage
from server.reads import StoredContainer
from server.registry import Registry


class HostView(BaseModel):
    """A host as it stands now."""

    model_config = ConfigDict(from_attributes=True)

    id: Annotated[str, Field(examples=["host-1"])]
    hostname: Annotated[str, Field(description="What the machine calls itself.", examples=["build-7"])]
    online: bool
    last_seen: Annotated[int, Field(description="Unix microseconds; 0: never.", examples=[1_795_435_200_000_000])]
    agent_version: Annotated[str, Field(examples=["1.4.0"])]
    cores: Annotated[int, Field(examples=[8])]
    containers: Annotated[int, Field(description="Containers that are there, stopped ones too.", examples=[12])]
    clock_skew_ms: Annotated[
        float | None, Field(description="The agent's clock minus the server's; null: not known yet.", examples=[-3.5])
    ]
    alert: Annotated[
        Literal["duplicate_identity"] | None, Field(description="duplicate_identity: another machine has its token.")
    ]


class HostPage(BaseModel):
    """Hosts by id."""

    hosts: list[HostView]
    next: NextPage


class HostContainers(BaseModel):
    """Containers of a host by name, those gone left out."""

    containers: list[ContainerView]


class HostReads(Protocol):
    """Where the containers of a host are read."""

    async def host_containers(self, org: str, host: str) -> Sequence[StoredContainer]:
        """Containers of a host by name, those gone left out."""


def router(reads: HostReads, registry: Registry, current_user: CurrentUser) -> APIRouter:
    """Hosts come from memory, which knows them all, and who is online; their containers as they were written last."""
    routes = APIRouter(prefix="/api/hosts", tags=["hosts"], responses=PROBLEM_RESPONSES)

    @routes.get("", summary="Hosts by id, a page at a time")
    async def list_hosts(
        user: Annotated[User, Depends(current_user)],
        q: Annotated[
            str | None, Query(min_length=1, max_length=128, description="Part of id or hostname, whatever the case.")
        ] = None,
        online: Annotated[bool | None, Query(description="Only those online, or only those offline.")] = None,
        after: Annotated[str, Query(max_length=128, description="The `next` of the page before.")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> HostPage:
        wanted = _matching(registry, user.org, q, online, after)
        found = heapq.nsmallest(limit + 1, wanted, key=lambda record: record.host)
        page = found[:limit]
        return HostPage(
            hosts=[HostView.model_validate(record.status()) for record in page],
            next=page[-1].host if len(found) > limit else None,
        )

    @routes.get("/{host}", summary="A host")
    async def get_host(host: str, user: Annotated[User, Depends(current_user)]) -> HostView:
        return HostView.model_validate(_record(registry, user.org, host).status())

    @routes.get("/{host}/containers", summary="Containers of a host by name")
    async def list_host_containers(host: str, user: Annotated[User, Depends(current_user)]) -> HostContainers:
        _record(registry, user.org, host)
        found = await reads.host_containers(user.org, host)
        return HostContainers(containers=[ContainerView.model_validate(container) for container in found])

    return routes


def _matching(
    registry: Registry, org: str, q: str | None, online: bool | None, after: str
) -> Iterator[AgentRecord]:  # fmt: skip
    part = q and q.lower()
    for record in registry.of_org(org):
        if record.hello is None or record.host <= after:
            continue
        if online is not None and record.online != online:
            continue
        if part and part not in record.host.lower() and part not in record.hello.hostname.lower():
            continue
        yield record


def _record(registry: Registry, org: str, host: str) -> AgentRecord:
    record = registry.records.get((org, host))
    if record is None or record.hello is None:
        raise Refused(404, "not_found", f"host {host}: there is none in your organisation")
    return record
