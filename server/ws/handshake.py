"""What both sockets do before and around their messages: refusals, subprotocols, the guarded connection."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.websockets import WebSocket

from server.counters import Counters
from server.protocol.codec import encode
from server.protocol.messages import Error
from server.sockets import Socket
from server.ws.direct import DirectWebSocket
from server.ws.guard import SCOPE_KEY


async def refuse(
    ws: WebSocket, counters: Counters, endpoint: str, status: int, reason: str, message: str, **headers: str
) -> None:
    """Answer the upgrade with an HTTP status and a body that says why; header names take _ for -."""
    counters.handshakes_refused[endpoint, reason] += 1
    body = json.dumps({"error": reason, "message": message}) + "\n"
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    await ws.send_denial_response(Response(body, status, names, media_type="application/json"))


def offers(ws: WebSocket, subprotocol: str) -> bool:
    """Whether the client offers the subprotocol."""
    offered: list[str] = ws.scope["subprotocols"]
    return subprotocol in offered


def connection(ws: WebSocket) -> DirectWebSocket:
    """The guarded connection under an ASGI WebSocket.

    Raises:
        TypeError: the app runs under another server or protocol class.
    """
    socket = ws.scope.get(SCOPE_KEY)
    if not isinstance(socket, DirectWebSocket):
        raise TypeError("the app needs `seatrial serve`: uvicorn with the guarded protocol classes")
    return socket


def send_error(socket: Socket, counters: Counters, error: Error) -> None:
    """Tell a peer what was refused; one that does not read does not learn it."""
    counters.errors_sent[error.code] += 1
    socket.try_send(encode(error))


def text_of(event: Mapping[str, Any]) -> str | None:
    """The text of a receive event; None: the frame was binary."""
    text: str | None = event.get("text")
    return text
