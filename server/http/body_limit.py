"""A bound on request bodies, for every route: nothing in the API takes more than a few lines of JSON."""

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.problems import problem

MAX_BODY_BYTES = 64 * 1024
MAX_DISCARDED_BYTES = 1024 * 1024
DISCARD_SECONDS = 2.0


class BodyLimit:
    """ASGI middleware: 413 as a problem, before anything looks at the request (the framework's own answers in plain text).

    What comes past the bound is thrown away for a moment before the answer: closing on a peer that still writes resets the
    connection, and it would never read why. A peer that goes on after that is closed on all the same.
    """

    def __init__(self, app: ASGIApp, most_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The HTTP parser lets no length pass that is not a number.
        declared = int(Headers(scope=scope).get("content-length", 0))
        if declared > self._most_bytes:
            await _discard(receive)
            answer = problem(413, "content_too_large", self._sentence(declared), {"Connection": "close"})
            await answer(scope, receive, send)
            return
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most_bytes:
                if message.get("more_body"):
                    await _discard(receive)
                raise HTTPException(413, self._sentence(taken), {"Connection": "close"})
            return message

        await self._app(scope, bounded, send)

    def _sentence(self, found: int) -> str:
        return f"body = {found} bytes or more: expected at most {self._most_bytes}"


async def _discard(receive: Receive) -> None:
    """Read the rest of a body and forget it, up to a bound and a deadline."""
    size = 0
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            while size < MAX_DISCARDED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body"):
                    return
    except TimeoutError:
        return
