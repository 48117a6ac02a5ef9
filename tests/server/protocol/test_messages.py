"""Golden frames: literal JSON of every message, which both ends of the protocol must read and write alike.

`tests/golden/<direction>/<type>[-variant].json`; a file without a variant is the shortest frame of its type. They are
written by hand: agents in other languages test against them too.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from server.protocol import asyncapi
from server.protocol.codec import (
    FrameError,
    decode_agent_command,
    decode_agent_message,
    decode_live_event,
    decode_live_request,
    encode,
)
from server.protocol.messages import (
    MAX_INT64,
    MESSAGES,
    About,
    Ack,
    ActionReport,
    Batch,
    Container,
    Error,
    Hello,
    Log,
    Metric,
    Position,
    Rejected,
    Resume,
    type_of,
)

GOLDEN = Path(__file__).parents[2] / "golden"
FRAMES = sorted(GOLDEN.glob("*/*.json"))
DECODE: dict[str, Callable[[bytes], Any]] = {
    "agent": lambda frame: decode_agent_message(frame).message,
    "agent_server": decode_agent_command,
    "live": decode_live_request,
    "live_server": decode_live_event,
}
SCHEMAS = asyncapi.document()["components"]["schemas"]

LITERAL = {
    "agent/hello-full": Hello(
        protocol=1,
        epoch="6f1c1f0a-2b7d-4c59-9a40-0d6a51c1b9e2",
        connection=3,
        machine_id="b7c0a6f6e1f44d7a",
        oldest=118,
        next_seq=121,
        agent_version="1.4.2-rc1+linux.arm64",
        hostname="büro-server",
        cores=64,
        containers=(
            Container(
                ref=0,
                id="4d" * 32,
                name="shop-web-1",
                image="ghcr.io/example/shop:1.9",
                state="running",
                labels={
                    "com.docker.compose.project": "shop",
                    "com.docker.compose.service": "web",
                    "com.docker.compose.container-number": "1",
                },
                memory_limit_bytes=512 * 1024 * 1024,
                protected=True,
            ),
            Container(ref=2**31 - 1, id="0f" * 32, name="old", image="", state="removed"),
        ),
        containers_follow=True,
        unacknowledged_results=(
            ActionReport(action_id="a-17", outcome="failed", finished_at=1795426800000001, detail="no such container"),
            ActionReport(action_id="a-18", outcome="succeeded", finished_at=1795426800000002),
        ),
    ),
    "agent/batch-full": Batch(
        seq=MAX_INT64,
        oldest=MAX_INT64 - 1,
        at=1795426800000000,
        metrics=(
            Metric(ref=0, cpu=12.5, mem=100 * 1024 * 1024, rx=MAX_INT64, tx=0, at=1795426799999999),
            Metric(ref=1, cpu=1_000_000.0),
            Metric(ref=2),
        ),
        logs=(
            Log(ref=0, at=1795426799000000, line=0, stream="stdout", text="GET /health 200"),
            Log(
                ref=0, at=1795426799000000, line=1, stream="stderr", text='Ünïcode "quoted" \\ 😀\ttab', partial=True,
                truncated=True,
            ),
            Log(ref=0, at=1795426799000001, line=2**31 - 1, stream="stdout", text=""),
        ),
    ),
    "agent_server/ack-full": Ack(
        seq=120,
        rejected=(
            Rejected(
                seq=119, row="metrics[3]", reason="too_old", ref=3, at=5,
                detail="at = 5: expected at least 1795340460000000",
            ),
            Rejected(
                seq=120, row="logs[0]", reason="conflicting_duplicate", ref=0, at=1795426799000000, line=1,
                detail="a row with this identity is stored with other values",
            ),
            Rejected(seq=120, row="metrics[4]", reason="invalid_row"),
        ),
        rejected_more={"not_rising": 41, "unknown_ref": 1},
    ),
    "agent_server/error-full": Error(
        code="seq_gap",
        message="seq = 9: expected 7",
        fatal=True,
        about=About(type="batch", seq=9, field="seq", topic="fleet", action_id="a-17"),
    ),
    "live/resume-full": Resume(topics=("logs:7",), since=Position(at=1795426799000000, line=1)),
}  # fmt: skip


def name_of(path: Path) -> str:
    """Direction and name of a golden file."""
    return f"{path.parent.name}/{path.stem}"


every_frame = pytest.mark.parametrize("path", FRAMES, ids=name_of)


@every_frame
def test_a_golden_frame_survives_the_codec(path: Path) -> None:
    """Each golden frame is read as its type, and written again as it was, defaults left out."""
    frame = path.read_bytes()

    message = DECODE[path.parent.name](frame)

    assert type_of(type(message)) == path.stem.partition("-")[0]
    assert type(message) in MESSAGES[path.parent.name]
    assert json.loads(encode(message)) == json.loads(frame)


@every_frame
def test_a_golden_frame_fits_the_published_schema(path: Path) -> None:
    """Each golden frame is valid under the JSON Schema that the AsyncAPI document gives its message."""
    frame = json.loads(path.read_text())
    (message,) = (m for m in MESSAGES[path.parent.name] if type_of(m) == frame["type"])

    schema = {"$ref": f"#/components/schemas/{message.__name__}", "components": {"schemas": SCHEMAS}}
    Draft202012Validator(schema).validate(frame)


@pytest.mark.parametrize("name", LITERAL)
def test_a_golden_frame_means_what_it_says(name: str) -> None:
    """The values of a frame arrive in the fields of the same name."""
    direction, _, stem = name.partition("/")

    assert DECODE[direction]((GOLDEN / direction / f"{stem}.json").read_bytes()) == LITERAL[name]


def test_every_message_has_golden_frames_and_every_frame_a_message() -> None:
    """A new message type without a golden frame, or a frame of no type, does not go unnoticed."""
    types = {(direction, type_of(message)) for direction, group in MESSAGES.items() for message in group}
    found = {(path.parent.name, path.stem.partition("-")[0]) for path in FRAMES}
    shortest = {(path.parent.name, path.stem) for path in FRAMES if "-" not in path.stem}

    assert found == types
    assert shortest == types
    assert {path for path in GOLDEN.rglob("*") if path.is_file()} == set(FRAMES)


@pytest.mark.parametrize("direction", MESSAGES)
def test_golden_frames_use_every_field(direction: str) -> None:
    """Each field of each message stands in one of its golden frames."""
    for message in MESSAGES[direction]:
        frames = [json.loads(path.read_text()) for path in FRAMES if path.parent.name == direction]
        used = {key for frame in frames if frame["type"] == type_of(message) for key in frame} - {"type"}

        assert used == set(message.__struct_fields__), message.__name__


@every_frame
def test_the_other_direction_does_not_read_it(path: Path) -> None:
    """A frame is read by the codec of its direction only, but for the types that go both ways."""
    shared = {"heartbeat", "error", "action"}
    if path.stem.partition("-")[0] in shared:
        return
    for direction, decode in DECODE.items():
        if direction != path.parent.name:
            with pytest.raises(FrameError, match="type"):
                decode(path.read_bytes())
