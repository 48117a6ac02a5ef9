"""`/api/containers`: what there is, by label, name, state and so on; and one of them."""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from server.auth.principal import User
from server.http.problems import PROBLEM_RESPONSES, CurrentUser, Refused
from server.http.values import ContainerId, NextPage
from server.protocol.canonical import clean_text
from server.protocol.messages import MAX_INT64, ContainerState
from server.reads import ContainerFilter, ContainerPlace, StoredContainer

MAX_LABELS = 20
"""Labels that one request may ask for."""


class ContainerView(BaseModel):
    """A container as it was written last; what an agent says is there within about a second."""

    model_config = ConfigDict(from_attributes=True)

    id: Annotated[str, Field(description="A 63-bit number as decimal text.", examples=["4611686018427387904"])]
    host: Annotated[str, Field(examples=["host-1"])]
    docker_id: Annotated[str, Field(description="64 hex digits; unique on its host only.")]
    name: Annotated[str, Field(examples=["shop-web-1"])]
    series: Annotated[
        str, Field(description="Survives a re-created container: compose project/service[/number], else the name.",
                   examples=["shop/web"])
    ]  # fmt: skip
    image: Annotated[str, Field(examples=["nginx:1.29"])]
    state: ContainerState
    protected: Annotated[
        bool, Field(description="Only an admin may stop or restart it: by its own label, or an admin said so.")
    ]
    memory_limit_bytes: Annotated[int | None, Field(description="null: none.", examples=[536_870_912])]
    labels: Annotated[dict[str, str], Field(examples=[{"com.docker.compose.project": "shop"}])]
    removed_at: Annotated[int | None, Field(description="Unix microseconds; null: it is there.")] = None


class ContainerPage(BaseModel):
    """Containers by host, series and id."""

    containers: list[ContainerView]
    next: NextPage


class ContainerReads(Protocol):
    """Where containers are read."""

    async def container(self, org: str, container_id: int) -> StoredContainer | None:
        """A container, even if it is gone; None: the organisation has none such, or not any more."""

    async def containers(
        self, org: str, wanted: ContainerFilter, *, after: ContainerPlace | None, limit: int
    ) -> Sequence[StoredContainer]:
        """Containers that match by (host, series, id), after a place."""


def no_container(container_id: int) -> Refused:
    """404, whether it does not exist or belongs to others."""
    return Refused(404, "not_found", f"container {container_id}: there is none in your organisation")


def _storable(text: str) -> str:
    if clean_text(text) is not text:
        raise ValueError("expected text without U+0000 and lone surrogates")
    return text


def _is_label(text: str) -> str:
    key, equals, _ = _storable(text).partition("=")
    if not key or not equals:
        raise ValueError("expected key=value")
    return text


def _pair(label: str) -> tuple[str, str]:
    key, _, value = label.partition("=")
    return key, value


def _is_place(text: str) -> str:
    _place(text)
    return text


def _place(text: str) -> ContainerPlace:
    try:
        host, series, container_id = json.loads(base64.urlsafe_b64decode(text.encode()))
        if isinstance(host, str) and isinstance(series, str) and 0 <= int(container_id) <= MAX_INT64:
            return _storable(host), _storable(series), int(container_id)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        pass
    raise ValueError("expected the `next` of the page before")


def _next(container: StoredContainer) -> str:
    place = json.dumps([container.host, container.series, container.id], ensure_ascii=False)
    return base64.urlsafe_b64encode(place.encode()).decode()


Text = Annotated[str, AfterValidator(_storable)]
"""What may be looked for in the database."""
Label = Annotated[str, AfterValidator(_is_label), Field(examples=["team=shop"])]
Place = Annotated[str, AfterValidator(_is_place)]


def router(reads: ContainerReads, current_user: CurrentUser) -> APIRouter:
    """The two routes."""
    routes = APIRouter(prefix="/api/containers", tags=["containers"], responses=PROBLEM_RESPONSES)

    @routes.get("", summary="Containers that match, a page at a time")
    async def list_containers(
        user: Annotated[User, Depends(current_user)],
        q: Annotated[
            Text | None, Query(min_length=1, max_length=256, description="Part of name, image or series, whatever the case.")
        ] = None,
        host: Annotated[Text | None, Query(max_length=128, description="Only of this host.")] = None,
        series: Annotated[Text | None, Query(max_length=1024, description="Only of this series, exactly.")] = None,
        state: ContainerState | None = None,
        image: Annotated[Text | None, Query(max_length=1024, description="Only of this image, exactly.")] = None,
        label: Annotated[
            list[Label], Query(max_length=MAX_LABELS, description="key=value; repeated: all of them.")
        ] = [],  # noqa: B006 - the framework copies it
        include_removed: Annotated[
            bool, Query(description="Those too that are gone and not yet removed by the retention.")
        ] = False,
        after: Annotated[Place | None, Query(max_length=8192, description="The `next` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> ContainerPage:  # fmt: skip
        wanted = ContainerFilter(
            q=q, host=host, series=series, state=state, image=image, labels=[_pair(text) for text in label],
            include_removed=include_removed,
        )  # fmt: skip
        place = None if after is None else _place(after)
        found = await reads.containers(user.org, wanted, after=place, limit=limit + 1)
        page = found[:limit]
        return ContainerPage(
            containers=[ContainerView.model_validate(container) for container in page],
            next=_next(page[-1]) if len(found) > limit else None,
        )

    @routes.get("/{container_id}", summary="A container, even if it is gone")
    async def get_container(container_id: ContainerId, user: Annotated[User, Depends(current_user)]) -> ContainerView:
        found = await reads.container(user.org, container_id)
        if found is None:
            raise no_container(container_id)
        return ContainerView.model_validate(found)

    return routes
