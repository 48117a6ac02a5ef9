"""Whether this server may be loaded by a test: `GET /api/test-load`, asked before anything else is sent."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from server.settings import Settings


class Kept(BaseModel):
    """How samples and log lines are kept, which whoever verifies them must know. Times in seconds."""

    strategy: Annotated[str, Field(examples=["plain"])]
    retention_seconds: Annotated[float, Field(examples=[86400.0])]
    prune_interval_seconds: Annotated[float, Field(examples=[60.0])]


class TestLoad(BaseModel):
    """What a load test may do here."""

    accepted: bool
    storage: Annotated[Kept | None, Field(description="Only where test load is accepted.")] = None


def router(settings: Settings) -> APIRouter:
    """The one route. It takes no token: a caller must not show one to a server that may be the wrong one."""
    routes = APIRouter(prefix="/api", tags=["operations"])
    kept = Kept(
        strategy=settings.storage,
        retention_seconds=settings.retention_seconds,
        prune_interval_seconds=settings.prune_interval_seconds,
    )
    answer = TestLoad(accepted=True, storage=kept) if settings.accept_test_load else TestLoad(accepted=False)

    @routes.get("/test-load", summary="Whether this server accepts the load of a test")
    async def test_load() -> TestLoad:
        return answer

    return routes
