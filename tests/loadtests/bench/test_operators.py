"""Attempts at a fixed rate, against a server that does as it is told."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest

from loadtests.attempts import AttemptLog, read_attempts
from loadtests.bench.operators import Attempted, Operators, OperatorsPlan, Target
from loadtests.measure import Latency
from simulator.host import command_seconds
from tests.support.scripted_http import Request, Script, response, scripted_http

AGENT = 3


def answered(state: str, action_id: str = "a") -> bytes:
    """An action as the API tells it."""
    return response("200 OK", json.dumps({"action_id": action_id, "state": state, "host": "h"}).encode())


async def attempted(
    answer: Script, path: Path, monkeypatch: pytest.MonkeyPatch, *, attempts: int = 1, targets: int = 1
) -> tuple[Attempted, list[Request]]:
    """What operators found who made so many attempts, a hundred a second."""
    monkeypatch.setenv("SEATRIAL_JWT_SECRET", "s" * 32)
    log = AttemptLog(path)
    async with scripted_http(answer) as (url, requests), asyncio.timeout(20):
        plan = OperatorsPlan(
            url=url, targets=[Target(container=str(number), agent=AGENT) for number in range(targets)], per_second=100.0,
            seconds=attempts / 100, run="run", attempts=str(path),
        )  # fmt: skip
        found = await Operators(plan, log).work()
    log.close()
    return found, requests


async def test_a_slow_server_does_not_slow_the_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attempt is made while none is answered yet, and the first ones' round trips hold that wait."""
    everybody = asyncio.Event()
    waiting: list[Request] = []

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        waiting.append(request)
        if len(waiting) == 20:
            everybody.set()
        await everybody.wait()
        writer.write(answered("succeeded"))

    found, _ = await attempted(answer, tmp_path / "a", monkeypatch, attempts=20)

    assert (found.attempts, found.outcomes) == (20, {"succeeded": 20})
    assert Latency.decode([found.round_trip]).statistics()["max"] >= 180


async def test_the_hosts_time_is_not_the_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the simulated host takes for this very command is no part of the server's share."""
    host_seconds = command_seconds(AGENT, "a")

    async def answer(_: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(host_seconds)
        writer.write(answered("succeeded"))

    found, _ = await attempted(answer, tmp_path / "a", monkeypatch)
    whole, share = (Latency.decode([text]).statistics()["max"] for text in (found.round_trip, found.server_share))

    assert whole - share == pytest.approx(host_seconds * 1000, rel=0.01)


@pytest.mark.parametrize(
    ("sent", "outcome"),
    [
        (answered("unknown"), "unknown"),
        (response("202 Accepted", b'{"action_id": "a", "state": "sent"}'), "sent"),
        (response("429 No", b'{"title": "too_many_actions"}'), "HTTP 429 too_many_actions"),
        (b"", "no answer"),
    ],
)
async def test_what_did_not_succeed_counts_whole(
    sent: bytes, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told by what it was, and nothing is taken off its time."""

    async def answer(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        writer.close()

    found, _ = await attempted(answer, tmp_path / "a", monkeypatch)

    assert found.outcomes == {outcome: 1}
    assert Latency.decode([found.round_trip]).statistics() == Latency.decode([found.server_share]).statistics()


async def test_every_attempt_is_written_down_as_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start, stop and restart in equal parts on every container, each with a reason of its own that the request carries."""

    async def answer(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answered("succeeded"))

    _, requests = await attempted(answer, tmp_path / "a", monkeypatch, attempts=12, targets=2)
    written = read_attempts(tmp_path / "a")
    bodies = [json.loads(request.body) for request in requests]

    assert Counter(body["kind"] for body in bodies) == {"start": 4, "stop": 4, "restart": 4}
    assert Counter((one.container, one.kind) for one in written.values()) == {
        (container, kind): 2 for container in "01" for kind in ("start", "stop", "restart")
    }
    assert {body["reason"] for body in bodies} == set(written)
    assert all(one.over and one.state == "succeeded" and one.action_id == "a" for one in written.values())
