"""The peer of `bench message`: sends back what it receives, nothing but ASGI, under uvicorn as the server runs it."""

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

Event = dict[str, Any]


async def echo(scope: Event, receive: Callable[[], Awaitable[Event]], send: Callable[[Event], Awaitable[None]]) -> None:
    """Send back each text."""
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


if __name__ == "__main__":
    uvicorn.run(
        echo, host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", http="httptools", ws="websockets-sansio",
        ws_per_message_deflate=False, access_log=False, log_level="warning", lifespan="off",
    )  # fmt: skip
