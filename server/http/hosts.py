"""`/api/hosts`: what there is to watch."""

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Query

from server.agents import Registry
from server.auth.principal import User
from server.http.problems import CurrentUser
from server.protocol.messages import ContainerStatus, HostStatus


class Inventory(Protocol):
    """Where hosts and containers are read."""

    async def hosts(self, org: str, *, after: str, limit: int) -> Sequence[HostStatus]:
        """Hosts by name."""

    async def containers(self, org: str, host: str) -> Sequence[ContainerStatus] | None:
        """Containers of a host; None: no such host."""


def router(inventory: Inventory, registry: Registry, current_user: CurrentUser) -> APIRouter:
    """Hosts and their containers, always of the user's organisation."""
    routes = APIRouter(prefix="/api/hosts", tags=["hosts"])

    @routes.get("", summary="Hosts by name, a page at a time")
    async def list_hosts(
        user: Annotated[User, Depends(current_user)],
        after: Annotated[str, Query(max_length=128, description="The `next` of the page before")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        found = await inventory.hosts(user.org, after=after, limit=limit)
        # What is in memory is newer than what was written behind.
        hosts = [record.status() if (record := registry.records.get((user.org, h.id))) else h for h in found]
        return {"hosts": msgspec.to_builtins(hosts), "next": found[-1].id if len(found) == limit else None}

    @routes.get("/{host}/containers", summary="Containers of a host by name")
    async def list_containers(user: Annotated[User, Depends(current_user)], host: str) -> dict[str, Any]:
        found = await inventory.containers(user.org, host)
        if found is None:
            raise HTTPException(404, "not found")
        return {"containers": msgspec.to_builtins(found)}

    return routes
