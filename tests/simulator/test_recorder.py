"""The recorder passes everything on, both ways, and writes down what agents say and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from seatrial import app
from server.protocol.messages import AGENT_SUBPROTOCOL
from simulator.recorder import Recorder, recording
from simulator.recording import Closed, Entry, Frame, Opened, RecordingWriter, read_entries
from tests.support.fake_server import FakeServer, Peer, acks_all, fake_server
from tests.support.fleets import eventually, running_fleet

TOKEN = "Bearer a.token.that.nobody.shall.find"


async def silent(peer: Peer) -> None:
    """The script of a server that only listens."""
    del peer


async def until_closed(agent: ClientConnection) -> AsyncIterator[str | bytes]:
    """What comes until the connection is closed, with whichever code."""
    with suppress(ConnectionClosed):
        async for message in agent:
            yield message


class Proxy:
    """A recorder in front of a server."""

    def __init__(self, recorder: Recorder, address: str, path: Path, writer: RecordingWriter) -> None:
        self.recorder, self.url, self.path = recorder, f"ws://{address}/ws/agent?zone=a", path
        self._writer = writer

    def entries(self) -> list[Entry]:
        """What is recorded by now."""
        self._writer.flush()
        return list(read_entries(self.path))

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[ClientConnection]:
        """A connection through it."""
        async with connect(
            self.url, subprotocols=[Subprotocol("other"), Subprotocol(AGENT_SUBPROTOCOL)], compression=None,
            additional_headers={"Authorization": TOKEN, "X-Agent": "7"}, proxy=None,
        ) as agent:  # fmt: skip
            yield agent


@asynccontextmanager
async def proxy_of(to: str, tmp_path: Path) -> AsyncIterator[Proxy]:
    """A recorder that passes on to a server."""
    writer = RecordingWriter(tmp_path / "recording", 1)
    try:
        async with recording("127.0.0.1", 0, to, writer) as (recorder, server):
            host, port = server.sockets[0].getsockname()
            yield Proxy(recorder, f"{host}:{port}", tmp_path / "recording", writer)
    finally:
        writer.close()


@asynccontextmanager
async def proxied(server: FakeServer, tmp_path: Path) -> AsyncIterator[Proxy]:
    """A recorder in front of a fake server."""
    async with proxy_of(f"ws://{urlsplit(server.url).netloc}", tmp_path) as proxy:
        yield proxy


async def test_a_fleet_notices_nothing_and_all_its_frames_are_recorded(tmp_path: Path) -> None:
    """What the server got is in the recording, frame by frame, per connection; what it said is not, nor any token."""
    async with fake_server(acks_all) as server, proxied(server, tmp_path) as proxy:
        place = urlsplit(proxy.url).netloc

        class Elsewhere:
            url = f"ws://{place}/ws/agent"

        async with running_fleet(Elsewhere(), agents=3) as fleet:  # type: ignore[arg-type]
            await eventually(lambda: fleet.counts.batches_acked >= 12)
            tokens = [
                peer.connection.request.headers["Authorization"] for peer in server.peers if peer.connection.request
            ]
        await eventually(lambda: proxy.recorder.open_connections == 0)
        entries = proxy.entries()
        got = {peer.number: [frame.decode() for frame in peer.frames] for peer in server.peers}

    recorded: dict[int, list[str]] = {}
    for entry in entries:
        if isinstance(entry, Frame):
            recorded.setdefault(entry.connection, []).append(entry.text)
    assert sorted(recorded.values()) == sorted(got.values())
    assert sum(isinstance(entry, Closed) and (entry.code, entry.by) == (1000, "agent") for entry in entries) == 3
    assert len(tokens) == 3
    data = proxy.path.read_text()
    assert "Bearer" not in data
    assert not any(token.removeprefix("Bearer ") in data for token in tokens)


async def test_the_server_sees_the_agents_request_and_the_agent_the_servers_answer(tmp_path: Path) -> None:
    """Path, query, Authorization and other headers go up; the chosen subprotocol comes down."""
    async with fake_server(silent) as server, proxied(server, tmp_path) as proxy:
        async with proxy.agent() as agent:
            request = (await server.peer(1)).connection.request
            assert agent.subprotocol == AGENT_SUBPROTOCOL
        await eventually(lambda: proxy.recorder.open_connections == 0)
        opened = proxy.entries()[0]

    assert request is not None
    assert request.path == "/ws/agent?zone=a"
    assert (request.headers["Authorization"], request.headers["X-Agent"]) == (TOKEN, "7")
    assert isinstance(opened, Opened)
    assert opened.subprotocol == AGENT_SUBPROTOCOL
    assert "nobody.shall.find" not in proxy.path.read_text()


async def test_a_refusal_is_passed_on(tmp_path: Path) -> None:
    """Status and Retry-After, as the server sent them; nothing is recorded."""
    async with fake_server(silent) as server, proxied(server, tmp_path) as proxy:
        server.refusal = HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "17"}
        with pytest.raises(InvalidStatus) as refused:
            async with proxy.agent():
                pass
        entries = proxy.entries()

    assert refused.value.response.status_code == 503
    assert refused.value.response.headers["Retry-After"] == "17"
    assert entries == []


async def test_a_server_that_is_away_is_a_bad_gateway(tmp_path: Path) -> None:
    """The agent backs off as it does without a recorder."""
    async with proxy_of("ws://127.0.0.1:1", tmp_path) as proxy:
        with pytest.raises(InvalidStatus) as refused:
            async with proxy.agent():
                pass

    assert refused.value.response.status_code == 502


async def test_what_the_server_says_last_reaches_the_agent_before_its_close_code(tmp_path: Path) -> None:
    """Acks before a close are not lost, and code and reason are the server's."""

    async def script(peer: Peer) -> None:
        for number in range(50):
            await peer.send(f"ack {number}")
        await peer.close(4003, "resync")

    async with fake_server(script) as server, proxied(server, tmp_path) as proxy:
        async with proxy.agent() as agent:
            heard = [message async for message in until_closed(agent)]
            received = agent.protocol.close_rcvd
        await eventually(lambda: proxy.recorder.open_connections == 0)
        ended = proxy.entries()[-1]

    assert heard == [f"ack {number}" for number in range(50)]
    assert received is not None
    assert (received.code, received.reason) == (4003, "resync")
    assert isinstance(ended, Closed)
    assert (ended.code, ended.by) == (4003, "server")


async def test_the_agents_code_reaches_the_server_and_a_broken_connection_breaks_the_other(tmp_path: Path) -> None:
    """1001 stays 1001; what ends without a goodbye ends so on both sides."""
    async with fake_server(silent) as server, proxied(server, tmp_path) as proxy:
        async with proxy.agent() as agent:
            await agent.close(1001, "moving")
        first = await server.peer(1)
        await server.until(lambda: first.closed is not None)
        async with proxy.agent() as agent:
            second = await server.peer(2)
            agent.transport.abort()
            await server.until(lambda: second.closed is not None)
        await eventually(lambda: proxy.recorder.open_connections == 0)
        codes = [(entry.code, entry.by) for entry in proxy.entries() if isinstance(entry, Closed)]

    assert (first.closed, second.closed) == (1001, 1006)
    assert codes == [(1001, "agent"), (1006, "agent")]


async def test_a_recording_that_cannot_be_written_ends_the_recorder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of it would pass for the whole."""
    async with fake_server(silent) as server, proxied(server, tmp_path) as proxy:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(proxy._writer, "add", full)
        async with proxy.agent() as agent:
            await agent.send("{}")
            async with asyncio.timeout(10):
                await proxy.recorder.failed.wait()

    assert str(proxy.recorder.error) == "[Errno 28] No space left on device"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--listen", "8001"], 2, "listen = 8001: expected host:port"),
        (["--listen", "127.0.0.1:70000"], 2, "listen = 127.0.0.1:70000: expected host:port"),
        (["--to", "http://127.0.0.1:1"], 2, "to = http://127.0.0.1:1: expected ws://host:port"),
        (["--to", "ws://example.com"], 2, "to = ws://example.com: expected a server on this machine"),
        (["--to", "ws://127.0.0.1:1/ws/agent"], 2, "without a path: agents bring theirs"),
        (["--out", "/nowhere/r"], 2, "out = /nowhere/r: expected a file that does not exist yet"),
        (["--listen", "203.0.113.1:1"], 3, "listen = 203.0.113.1:1"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    """Wrong usage is 2, an address that cannot be had 3."""
    given = ["--to", "ws://127.0.0.1:1", "--out", str(tmp_path / "r"), *arguments]
    done = CliRunner().invoke(app, ["record", *given])

    assert words in done.output
    assert done.exit_code == code
