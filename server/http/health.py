"""Is it alive, is it ready, what does it count, and what does it speak: for probes, Prometheus and authors of agents."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from server.protocol import asyncapi

Readiness = Callable[[], Awaitable[list[str]]]
"""Why the server is not ready; an empty list when it is."""


def router(metrics: CollectorRegistry, readiness: Readiness) -> APIRouter:
    """`/livez`, `/readyz`, `/metrics`, `/asyncapi.json`."""
    routes = APIRouter(tags=["operations"])
    document = asyncapi.text()

    @routes.get("/livez", summary="Whether the process answers")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @routes.get("/readyz", summary="Whether the server can store what it is sent", responses={503: {}})
    async def readyz() -> JSONResponse:
        reasons = await readiness()
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    @routes.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics_text() -> Response:
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @routes.get("/asyncapi.json", summary="The WebSocket protocol as AsyncAPI 3", response_class=Response)
    async def asyncapi_json() -> Response:
        return Response(document, media_type="application/json")

    return routes
