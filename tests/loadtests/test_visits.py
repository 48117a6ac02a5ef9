"""What simulated browsers do on a visit, and what they notice, in a thread, against a stand-in for the server."""

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from loadtests import stored as stored_module
from loadtests import visits as visits_module
from loadtests.stored import StoredCheck, Turnstile
from loadtests.visits import Visitor, read_slowly, reconnect, walk
from server.protocol.messages import LogLine, Position
from tests.support.fake_client import RealClient, Recorder
from tests.support.fake_live import CONTAINERS, HOST, FakeLive, serve_live

CONTAINER_IDS = {container.id for container in CONTAINERS}
Visit = Callable[[Visitor, float], None]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEATRIAL_USER_TOKEN", "user-token")
    monkeypatch.setattr(stored_module, "LATER_SECONDS", 0.2)
    monkeypatch.setattr(visits_module, "RATE_SECONDS", 0.5)
    monkeypatch.setattr(visits_module, "CONNECTED_SECONDS", (0.2, 0.4))
    monkeypatch.setattr(visits_module, "AWAY_SECONDS", (0.1, 0.2))


async def visit(fake: FakeLive, how: Visit, seconds: float = 1.0, *, seed: int = 1) -> Recorder:
    """Make one visit; what was recorded."""
    recorder = Recorder()

    def work() -> None:
        client = RealClient(fake.url)
        api = recorder.api(client)
        stored = StoredCheck(api, recorder.measurements, Turnstile(100), 30)
        try:
            how(Visitor(api, fake.url, recorder.measurements, stored, random.Random(seed), "run"), seconds)
        finally:
            client.close()

    async with asyncio.timeout(30):
        await asyncio.to_thread(work)
    return recorder


async def test_a_user_walks_from_the_fleet_to_a_log_and_pauses_it() -> None:
    """Each page has its own topics, the one before is left, and the paused log goes on where it was."""
    async with serve_live(FakeLive()) as fake:
        recorder = await visit(fake, walk)
    kinds = [[topic.partition(":")[0] for topic in topics] for topics in fake.subscribed]

    assert recorder.failures == []
    assert kinds == [["fleet"], ["host"], ["container"], ["logs"]]
    assert fake.unsubscribed == [("fleet",), (f"host:{HOST.id}",)]
    assert [{topic.partition(":")[0] for topic in topics} for topics in fake.paused] == [{"container", "logs"}]
    assert fake.resumed_since[0] is None
    assert fake.resumed_since[1] is not None
    assert fake.tails == {200}
    assert recorder.measurements._recorded.checked == 3
    assert recorder.measurements._recorded.held > 3


async def test_the_same_seed_makes_the_same_visits() -> None:
    """Which container is looked at is the seed's choice."""
    looked = []
    async with serve_live(FakeLive()) as fake:
        for seed in (1, 1, 2, 3, 4, 5):
            fake.subscribed.clear()
            await visit(fake, walk, 0.1, seed=seed)
            looked.append(fake.subscribed[-1])

    assert looked[0] == looked[1]
    assert len(set(looked)) == len(CONTAINERS)


@pytest.mark.parametrize(
    "wrong",
    [
        "bad_frame",
        "duplicate_line",
        "time_back",
        "foreign",
        "error",
        "not_paused",
        "lost_line",
        "lost_sample",
        "undeclared_sample",
    ],
)
async def test_a_user_notices_what_a_server_does_wrong(wrong: str) -> None:
    """Each broken promise is a failure of its own kind, and nothing else is."""
    async with serve_live(FakeLive(script=(wrong,))) as fake:
        recorder = await visit(fake, walk)

    assert set(recorder.failures) == {wrong}


async def test_lines_that_stand_in_a_gap_are_not_lost() -> None:
    """The server may drop lines, if it says how many."""
    async with serve_live(FakeLive(script=("gap",))) as fake:
        recorder = await visit(fake, walk)

    assert recorder.failures == []
    assert recorder.measurements._recorded.gaps > 0
    assert recorder.measurements._recorded.checked == 3


async def test_samples_that_stand_in_a_gap_are_not_lost() -> None:
    """The server may leave samples out, if it says how many; they are counted, and are no gap of a log."""
    async with serve_live(FakeLive(script=("sample_gap",))) as fake:
        recorder = await visit(fake, walk)
    recorded = recorder.measurements._recorded

    assert recorder.failures == []
    assert 0 < recorded.overtaken <= recorded.dropped_samples
    assert (recorded.gaps, recorded.dropped_lines) == (0, 0)


async def test_a_reconnecting_browser_takes_a_new_ticket_each_time_and_misses_no_line() -> None:
    """Its log goes on behind the last line that came, over connections that end with and without a word."""
    async with serve_live(FakeLive()) as fake:
        recorder = await visit(fake, reconnect, 2.5)
    recorded = recorder.measurements._recorded

    assert recorder.failures == []
    assert fake.redeemed == recorded.visits > 2
    assert len([since for since in fake.resumed_since if since]) == fake.redeemed - 1
    assert {topic.partition(":")[2] for topics in fake.subscribed for topic in topics} < CONTAINER_IDS
    assert recorded.checked == 1


async def test_a_line_that_was_lost_between_two_connections_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proof does not end with a connection."""
    good = FakeLive.resumed_lines

    def forgetful(fake: FakeLive, since: Position | None) -> list[LogLine]:
        found = good(fake, since)
        if since is not None:  # one more is stored right behind it
            fake.lines.append(LogLine(at=since.at, line=since.line + 1000, stream="stdout", text="x"))
        return found

    monkeypatch.setattr(FakeLive, "resumed_lines", forgetful)
    async with serve_live(FakeLive()) as fake:
        recorder = await visit(fake, reconnect, 2.0)

    assert recorder.failures == ["lost_line"]


async def test_a_slow_browser_reads_a_tenth_and_what_it_misses_is_declared() -> None:
    """It takes its time, its latency stands apart, and lines that came late are not lost."""
    async with serve_live(FakeLive()) as fake:
        recorder = await visit(fake, read_slowly, 1.5)
    found = recorder.measurements._latencies

    assert recorder.failures == []
    assert (found["live_latency_ms"].count, found["log_latency_ms"].count) == (0, 0)
    assert found["slow_live_latency_ms"].statistics()["max"] > 400
    assert recorder.measurements._recorded.checked == 1


@pytest.mark.parametrize("code", [4008, 1011])
async def test_a_slow_browser_that_is_closed_for_it_has_not_failed(code: int) -> None:
    """4008 is how the server says that it will not go on, 1011 that no pong came; for anybody else that is a failure."""
    async with serve_live(FakeLive(script=(f"close_{code}",))) as fake:
        slow = await visit(fake, read_slowly)
        other = await visit(fake, walk)

    assert slow.failures == []
    assert slow.measurements._recorded.slow_closed == 1
    assert slow.measurements._recorded.closes == {str(code): 1}
    assert other.failures == ["closed"]
    assert other.measurements._recorded.closes == {str(code): 1}


def test_only_so_many_checks_pass_in_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at what is stored is load, too."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    turnstile = Turnstile(2)
    passed = []
    for _ in range(100):
        passed.append(turnstile.passes())
        now += 0.05

    assert sum(passed) == 10
