"""The AsyncAPI 3 document, made from the message types. `docs/asyncapi.json` holds it; a test compares.

`python -m server.protocol.asyncapi` prints it.
"""

import json
import sys
from typing import Any

import msgspec

from server.protocol import close_codes, error_codes
from server.protocol.messages import AGENT_SUBPROTOCOL, LIVE_SUBPROTOCOL, MESSAGES, PROTOCOL_VERSION, type_of

_REF = "#/components/schemas/{name}"
_SOCKETS = {
    "agent": {
        "address": "/ws/agent",
        "description": f"An agent's one outbound socket. Authorization: Bearer <agent JWT>; subprotocol {AGENT_SUBPROTOCOL}.",
        "headers": {"Authorization": "Bearer <agent JWT: sub = host, org, aud = agent, exp>"},
        "query": {},
        "from_client": "agent",
        "from_server": "agent_server",
    },
    "live": {
        "address": "/ws/live",
        "description": f"Live view for browsers. A one-use ticket, or a short-lived user JWT; subprotocol {LIVE_SUBPROTOCOL}.",
        "headers": {},
        "query": {"ticket": "from POST /api/live-tickets, good once within 30 s", "token": "a user JWT instead of it"},
        "from_client": "live",
        "from_server": "live_server",
    },
}


def document() -> dict[str, Any]:
    """AsyncAPI 3.0 as plain data."""
    every = [message for group in MESSAGES.values() for message in group]
    _, schemas = msgspec.json.schema_components(every, ref_template=_REF)
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for name, socket in _SOCKETS.items():
        members: dict[str, Any] = {}
        for side, verb in (("from_client", "receive"), ("from_server", "send")):
            group = str(socket[side])
            refs = []
            for message in MESSAGES[group]:
                # A `heartbeat` goes both ways: the key of a message in its channel is its class.
                key = message.__name__
                messages[key] = {
                    "name": type_of(message),
                    "title": key,
                    "summary": (message.__doc__ or "").strip(),
                    "contentType": "application/json",
                    "payload": {"$ref": _REF.format(name=key)},
                }
                members[key] = {"$ref": f"#/components/messages/{key}"}
                refs.append({"$ref": f"#/channels/{name}/messages/{key}"})
            operations[f"{name}_{verb}"] = {
                "action": verb,
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": refs,
            }
        channels[name] = {
            "address": socket["address"],
            "description": socket["description"],
            "messages": members,
            "bindings": {"ws": _binding(socket)},
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Seatrial protocol",
            "version": f"{PROTOCOL_VERSION}.0.0",
            "description": "Operations are the server's: it receives what the client sends. docs/protocol.md tells the rules.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
        "x-close-codes": {
            str(int(code)): {"meaning": meaning, "client": client}
            for code, (meaning, client) in close_codes.MEANING.items()
        },
        "x-error-codes": {
            str(code): {"meaning": meaning, "close": close and int(close)}
            for code, (meaning, close) in error_codes.MEANING.items()
        },
        "x-reject-reasons": {str(reason): meaning for reason, meaning in error_codes.REASONS.items()},
    }


def _binding(socket: dict[str, Any]) -> dict[str, Any]:
    binding: dict[str, Any] = {"method": "GET", "bindingVersion": "0.1.0"}
    for part in ("headers", "query"):
        if socket[part]:
            binding[part] = {
                "type": "object",
                "properties": {key: {"type": "string", "description": text} for key, text in socket[part].items()},
            }
    return binding


def text() -> str:
    """The document as checked in."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
