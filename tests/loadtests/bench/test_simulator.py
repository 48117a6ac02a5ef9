"""`bench simulator`: the sink keeps the protocol, the loads are held against their limits, and what is absent is said."""

import json
from pathlib import Path

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from loadtests.bench.simulator import Options, _figures
from loadtests.bench.simulator_load import Load, _bottlenecks, sink
from loadtests.bench.simulator_peers import Peer, artillery, frame
from server.protocol.codec import decode_agent_message
from server.protocol.messages import AGENT_SUBPROTOCOL, Batch

OPTIONS = Options(
    agents=101, containers=10, log_lines=0, seconds=10, connects_per_second=100, websockets_agents=20, users=5, seed=1,
    artillery=None,
)  # fmt: skip


def a_load(**changes: object) -> Load:
    """A hundred messages a second for ten seconds, at 50 us each."""
    load = Load(
        seconds=10,
        messages=1_000,
        cpu_seconds=0.05,
        generation_seconds=0.008,
        ledger_seconds=0.002,
        rss_bytes=82_000_000,
    )
    for name, value in changes.items():
        setattr(load, name, value)
    return load


async def test_the_sink_acknowledges_and_counts(tmp_path: Path) -> None:
    """Batches are acked cumulatively whether somebody said hello or not, counted all the same, and a close is answered."""
    payload = frame(3, 0, 1)
    async with sink(tmp_path, "x", {}) as running:
        async with connect(running.url, subprotocols=[Subprotocol(AGENT_SUBPROTOCOL)], compression=None) as socket:
            for seq in (1, 2):
                await socket.send(json.dumps(json.loads(payload) | {"seq": seq}, separators=(",", ":")))
            ack = json.loads(await socket.recv())
            while ack["seq"] < 2:
                ack = json.loads(await socket.recv())
            assert socket.subprotocol == AGENT_SUBPROTOCOL
        async with connect(running.url, compression=None) as socket:
            await socket.send(payload.decode())
            assert json.loads(await socket.recv()) == {"type": "ack", "seq": 1}
        count = await running.count()

    assert ack == {"type": "ack", "seq": 2}
    assert count == 3


def test_the_payload_is_a_batch_of_the_fleet() -> None:
    """It has a sample of each container and as many lines as asked for."""
    batch = decode_agent_message(frame(10, 2, 1)).message

    assert isinstance(batch, Batch)
    assert (batch.seq, len(batch.metrics), len(batch.logs)) == (1, 10, 2)


def test_absent_artillery_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the command there is nothing to start, a reason, and figures without values."""
    monkeypatch.setenv("PATH", str(tmp_path))
    peer = artillery("ws://127.0.0.1:1", frame(1, 0, 1), 5, 1.0, 10, None, tmp_path)
    figures = {f.name: f for f in _figures(OPTIONS, a_load(), a_load(), a_load(), [(peer, None)], 600)}

    assert peer.child is None
    assert "no node on PATH" in peer.note
    assert figures["artillery: cpu_per_message"].value is None
    assert figures["artillery: cpu_per_message"].note == peer.note
    assert figures["artillery to picows"].note == "goal: at least 8"


def test_artillery_sends_the_same_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its script has the fleet's batch, with a seq that rises, and checks the ack."""
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    peer = artillery("ws://127.0.0.1:1", frame(10, 0, 1), 5, 1.0, 10, None, tmp_path)
    script = msgspec.json.decode((tmp_path / "artillery.json").read_bytes())
    send = script["scenarios"][0]["flow"][0]["loop"][1]["send"]

    assert peer.child is not None
    assert len(send["payload"]["metrics"]) == 10
    assert list(send["payload"])[:2] == ["type", "seq"]
    assert send["match"] == {"json": "$.seq", "value": send["payload"]["seq"]}


def test_the_cost_is_split_and_held_against_the_goals() -> None:
    """Transport and codec are all that is not generation or ledger; each goal stands beside its figure."""
    alone = a_load(rss_bytes=80_000_000)
    peer = Peer("locust", None, "")
    found = {
        f.name: f for f in _figures(OPTIONS, alone, a_load(), a_load(cpu_seconds=0.1), [(peer, a_load(cpu_seconds=0.15))], 600)
    }  # fmt: skip
    values = {name: figure.value for name, figure in found.items() if figure.value is not None}

    assert values["cpu_per_message"] == pytest.approx(50)
    assert values["generation"] == pytest.approx(8)
    assert values["ledger"] == pytest.approx(2)
    assert values["transport_and_codec"] == pytest.approx(40)
    assert values["rss_per_agent"] == pytest.approx(20)
    assert values["websockets to picows"] == pytest.approx(2)
    assert values["locust to picows"] == pytest.approx(3)
    assert found["rss_per_agent"].note.startswith("goal: at most 25, met")
    assert found["locust to picows"].note == "goal: at least 4, missed"


def test_a_load_that_met_a_limit_is_worthless() -> None:
    """A sink that is the limit, or messages that did not arrive, are told with their figures."""
    assert _bottlenecks("picows", a_load(), 100) == []
    assert _bottlenecks("picows", a_load(sink_cores=0.9), 100) == [
        "picows: the sink used 90% of a core: it was the limit"
    ]
    assert _bottlenecks("locust", a_load(messages=900), 100) == ["locust: 90 of 100 messages/s arrived"]
