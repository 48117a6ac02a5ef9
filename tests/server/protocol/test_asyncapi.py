"""The AsyncAPI document: checked in as generated, whole, and without a reference into nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from server.protocol import asyncapi
from server.protocol.close_codes import CloseCode
from server.protocol.error_codes import ErrorCode, RejectReason
from server.protocol.messages import MESSAGES, type_of

CHECKED_IN = Path(__file__).parents[3] / "docs" / "asyncapi.json"
DOCUMENT = asyncapi.document()


def refs(node: Any) -> Iterator[str]:
    """Every $ref of a document."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from refs(item)


def resolve(ref: str) -> Any:
    """What a $ref of the document points at."""
    node: Any = DOCUMENT
    for part in ref.removeprefix("#/").split("/"):
        node = node[part]
    return node


def test_the_document_is_checked_in_as_generated() -> None:
    """`make asyncapi` was run after the last change of a message."""
    assert CHECKED_IN.read_text(encoding="utf-8") == asyncapi.text()


def test_every_reference_leads_somewhere() -> None:
    """All references are inside the document and resolve."""
    found = set(refs(DOCUMENT))

    assert found
    for ref in found:
        assert ref.startswith("#/")
        assert resolve(ref)


def test_every_message_is_in_the_operation_of_its_direction() -> None:
    """What the server receives and sends on each socket are the messages of that direction, under their `type`."""
    operations = {
        "agent_receive": "agent", "agent_send": "agent_server", "live_receive": "live", "live_send": "live_server",
    }  # fmt: skip
    assert set(DOCUMENT["operations"]) == set(operations)

    for name, direction in operations.items():
        operation = DOCUMENT["operations"][name]
        channel = resolve(operation["channel"]["$ref"])
        messages = [resolve(resolve(ref["$ref"])["$ref"]) for ref in operation["messages"]]
        assert [message["name"] for message in messages] == [type_of(message) for message in MESSAGES[direction]]
        assert all(message["summary"] for message in messages)
        assert all(ref["$ref"].rsplit("/", 1)[1] in channel["messages"] for ref in operation["messages"])


def test_the_schemas_are_json_schemas() -> None:
    """Every schema is one of JSON Schema 2020-12, and a message's holds its `type`."""
    for name, schema in DOCUMENT["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object", name
    for group in MESSAGES.values():
        for message in group:
            schema = DOCUMENT["components"]["schemas"][message.__name__]
            assert schema["properties"]["type"] == {"enum": [type_of(message)]}
            assert "type" in schema["required"]


def test_the_catalogues_are_whole() -> None:
    """Clients find every code and reason in the document."""
    assert {int(code) for code in DOCUMENT["x-close-codes"]} == {int(code) for code in CloseCode}
    assert set(DOCUMENT["x-error-codes"]) == {str(code) for code in ErrorCode}
    assert set(DOCUMENT["x-reject-reasons"]) == {str(reason) for reason in RejectReason}


def test_the_channels_are_the_sockets() -> None:
    """Address, credentials and subprotocol of both sockets are told."""
    agent, live = DOCUMENT["channels"]["agent"], DOCUMENT["channels"]["live"]

    assert (agent["address"], live["address"]) == ("/ws/agent", "/ws/live")
    assert "seatrial.agent.v1" in agent["description"]
    assert "seatrial.live.v1" in live["description"]
    assert set(agent["bindings"]["ws"]["headers"]["properties"]) == {"Authorization"}
    assert set(live["bindings"]["ws"]["query"]["properties"]) == {"ticket", "token"}
