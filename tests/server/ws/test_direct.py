"""Messages handed straight to their receiver: the same as a full parser would give, and nothing left behind."""

import asyncio
import gc
import struct
from collections.abc import Iterator
from typing import Any, cast

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState
from websockets.server import ServerProtocol

from server.ws.agent_connection import AgentConnection
from server.ws.direct import DirectWebSocket
from server.ws.guard import GuardedHttp
from tests.support.server import RunningServer, eventually

MAX_FRAME_BYTES = 4096
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Pipe(asyncio.Transport):
    """The transport of a protocol that is fed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.written += data

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closing

    def close(self) -> None:
        """Remember."""
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        """Everything is fed anyway."""

    def resume_reading(self) -> None:
        """Everything is fed anyway."""


class Notes:
    """A receiver that writes down."""

    def __init__(self) -> None:
        self.got: list[bytes | None] = []
        self.ended: list[int] = []
        self.held = self.most = 0
        self.room = 10**9

    def on_text(self, data: bytes) -> None:
        """A text."""
        self.got.append(data)

    def on_binary(self) -> None:
        """None stands for it."""
        self.got.append(None)

    def on_end(self, code: int) -> None:
        """The end."""
        self.ended.append(code)

    def on_writable(self) -> None:
        """Nothing waits."""

    def on_held(self, change: int) -> bool:
        """As much as there is room for."""
        if self.held + change > self.room:
            return False
        self.held += change
        self.most = max(self.most, self.held)
        return True


async def handed_over() -> tuple[DirectWebSocket, Notes, Pipe]:
    """A connection that an application accepted and handed over."""
    notes, made = Notes(), asyncio.get_running_loop().create_future()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        socket.hand_over(notes)
        made.set_result(None)

    config = uvicorn.Config(cast("Any", app), ws_max_size=MAX_FRAME_BYTES, lifespan="off", log_config=None)
    config.load()
    socket = DirectWebSocket(config, ServerState(), {})
    pipe = Pipe()
    socket.connection_made(pipe)
    socket.data_received(UPGRADE)
    await made
    await asyncio.sleep(0)
    return socket, notes, pipe


def frame(opcode: int, payload: bytes, mask: bytes = b"\0\0\0\0", *, fin: bool = True) -> bytes:
    """A client's frame."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes([(0x80 if fin else 0) | opcode]) + length + mask + masked


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[bytes | None]]:
    """What a client sends, and the messages in it: whole ones, fragments with pings between, binary ones."""
    data, messages = b"", list[bytes | None]()
    for _ in range(draw(st.integers(1, 6))):
        mask = draw(st.binary(min_size=4, max_size=4))
        text = draw(st.text(max_size=300)).encode()
        match draw(st.sampled_from(["whole", "fragments", "ping", "binary"])):
            case "whole":
                data += frame(1, text, mask)
                messages.append(text)
            case "fragments":
                cut = draw(st.integers(0, len(text)))
                data += frame(1, text[:cut], mask, fin=False)
                data += draw(st.sampled_from([b"", frame(9, b"still there?")]))
                data += frame(0, text[cut:], mask)
                messages.append(text)
            case "ping":
                data += frame(9, b"hello", mask)
            case "binary":
                data += frame(2, text, mask)
                messages.append(None)
    return data, messages


@settings(max_examples=200, deadline=None)
@given(conversations(), st.lists(st.integers(1, 2000), max_size=8))
async def test_messages_come_whole_and_in_order_however_they_are_cut(
    conversation: tuple[bytes, list[bytes | None]], cuts: list[int]
) -> None:
    """Whatever pieces the network makes of a client's frames, the receiver gets its messages, each once, in order."""
    data, messages = conversation
    socket, notes, _ = await handed_over()
    for piece in pieces(data, cuts):
        socket.data_received(piece)

    assert notes.got == messages
    assert (notes.held, socket._message_timer) == (0, None)
    socket.connection_lost(None)
    await asyncio.sleep(0)
    assert notes.ended == [1005]


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """`data` cut into lengths; without any byte by byte."""
    sizes = cuts or [1]
    start, i = 0, 0
    while start < len(data):
        yield data[start : start + sizes[i % len(sizes)]]
        start += sizes[i % len(sizes)]
        i += 1


@pytest.mark.parametrize("cut", [1, 2, 4, 8, 1000])
async def test_a_frame_over_the_limit_is_refused_by_its_head(cut: int) -> None:
    """A frame that says it is longer than the limit is refused with 1009 before its content is held."""
    socket, notes, pipe = await handed_over()
    del pipe.written[:]
    for piece in pieces(frame(1, b"x" * (MAX_FRAME_BYTES + 20))[:1000], [cut]):
        if not pipe.closing:
            socket.data_received(piece)

    assert pipe.written[:4] == b"\x88" + bytes([len(pipe.written) - 2]) + struct.pack(">H", 1009)
    assert notes.got == []
    socket.connection_lost(None)


async def test_a_peer_that_leaves_before_the_answer_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    """In a storm many give up while they are admitted: nothing is logged as an error of ours."""
    answering = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        pipe.closing = True
        await send({"type": "websocket.accept"})
        answering.set()

    config = uvicorn.Config(cast("Any", app), lifespan="off", log_config=None)
    config.load()
    socket, pipe = DirectWebSocket(config, ServerState(), {}), Pipe()
    socket.connection_made(pipe)
    socket.data_received(UPGRADE)
    await answering.wait()
    await asyncio.sleep(0)

    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    socket.connection_lost(None)


async def test_a_flood_and_a_close_in_one_piece_end_in_order() -> None:
    """A connection that is not handed over: the guard would close what the peer closes already, and must let it."""
    ended: list[int] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        ended.append((await receive())["code"])

    config = uvicorn.Config(cast("Any", app), lifespan="off", log_config=None)
    config.load()
    socket, pipe = DirectWebSocket(config, ServerState(), {}), Pipe()
    socket.connection_made(pipe)
    socket.data_received(UPGRADE)
    await asyncio.sleep(0)
    socket.data_received(frame(9, b"") * 60 + frame(8, struct.pack(">H", 1000)))
    await eventually(lambda: bool(ended), "the end")

    assert ended == [1000]
    assert pipe.closing
    socket.connection_lost(None)


async def test_half_a_message_counts_until_it_is_whole() -> None:
    """What is held of a frame, and of fragments, is told to the receiver, and given back with message or connection."""
    socket, notes, _ = await handed_over()
    data = frame(1, b"x" * 1000)
    socket.data_received(data[:600])
    assert notes.held == 600
    socket.data_received(data[600:] + frame(1, b"y" * 500, fin=False))
    assert (notes.got, notes.held) == ([b"x" * 1000], 500)
    socket.data_received(frame(0, b"z" * 300)[:200])
    assert notes.held == 700
    socket.connection_lost(None)
    assert notes.held == 0


async def test_half_a_message_without_room_ends_the_connection() -> None:
    """Where the budget is full a message that is not complete is dropped, and its connection closed with 1013."""
    socket, notes, pipe = await handed_over()
    notes.room = 300
    del pipe.written[:]
    socket.data_received(frame(1, b"x" * 1000)[:600])

    assert notes.held == 0
    assert struct.unpack(">H", bytes(pipe.written[2:4])) == (1013,)
    socket.connection_lost(None)


async def test_each_message_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is that of one message: a stream of which every piece ends within a frame goes on."""
    monkeypatch.setattr("server.ws.guard.MESSAGE_TIMEOUT_SECONDS", 0.2)
    socket, notes, pipe = await handed_over()
    data = b"".join(frame(1, b"%04d" % number) for number in range(40))
    for piece in pieces(data, [15]):
        socket.data_received(piece)
        await asyncio.sleep(0.02)  # the whole stream takes longer than one message may
    assert len(notes.got) == 40
    assert not pipe.closing

    socket.data_received(data[:5])
    del pipe.written[:]
    await eventually(lambda: bool(pipe.written), "the close")
    assert struct.unpack(">H", bytes(pipe.written[2:4])) == (4004,)
    socket.connection_lost(None)


async def test_nothing_is_heard_after_the_close() -> None:
    """What comes behind our close frame is dropped, and the peer's answer ends the connection."""
    socket, notes, pipe = await handed_over()
    socket.data_received(frame(1, b"heard"))
    socket.close(cast("Any", 4013), "enough")
    socket.data_received(frame(1, b"not heard") + frame(8, struct.pack(">H", 4013)))

    assert notes.got == [b"heard"]
    assert pipe.closing
    await asyncio.sleep(0)
    assert notes.ended == [4013]
    socket.connection_lost(None)


async def test_connections_leave_nothing_to_the_garbage_collector(server: RunningServer) -> None:
    """It runs rarely: agents that come and go must not fill memory until it does."""

    def left() -> list[str]:
        kinds = (DirectWebSocket, AgentConnection, GuardedHttp, ServerProtocol)
        return sorted(type(found).__name__ for found in gc.get_objects() if type(found) in kinds)

    gc.collect()
    before = left()
    gc.disable()
    try:
        for number in range(5):
            async with server.agent(host=f"passing-{number}") as agent:
                await agent.batch(1)
                await agent.acked(1)
        await eventually(lambda: server.service.registry.connected == 0, "all gone")
        await eventually(lambda: left() == before, "nothing left")
    finally:
        gc.enable()
