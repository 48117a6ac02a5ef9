"""The real Locust, as a subprocess, against a stand-in for the server."""

import asyncio
import os
import sys
from pathlib import Path

from loadtests.recorded import Recorded, catalogue, read_measurements
from tests.support.fake_live import HOST, SAMPLE_AGE_US, FakeLive, serve_live

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 60


async def run_locust(arguments: list[str], environ: dict[str, str]) -> tuple[int, str]:
    """Exit code and output of `locust` on our locustfile."""
    base = {name: value for name, value in os.environ.items() if not name.startswith(("SEATRIAL_", "LOCUST_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", *arguments,
        cwd=ROOT, env=base | environ, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def browse(fake: FakeLive, file: Path, *, seconds: int, visit_seconds: float) -> tuple[int, str, Recorded]:
    """Let three browsers visit `fake`."""
    code, output = await run_locust(
        [
            "--headless", "-u", "3", "-r", "3", "-t", f"{seconds}s", "--host", fake.url,
            "--visit-seconds", str(visit_seconds), "--only-summary",
        ],
        {"SEATRIAL_USER_TOKEN": fake.user_token, "SEATRIAL_MEASUREMENTS": str(file)},
    )  # fmt: skip
    return code, output, read_measurements(file)


async def test_browsers_measure_a_good_server(tmp_path: Path) -> None:
    """Visits come and go with a new ticket each, nothing fails, and latencies are counted from the samples' own time."""
    async with serve_live(FakeLive()) as fake:
        code, output, recorded = await browse(fake, tmp_path / "measured.json", seconds=5, visit_seconds=1)

    assert recorded.failures == {}, output
    assert code == 0, output
    assert recorded.foreign == 0
    assert recorded.visits == fake.redeemed >= 6
    assert recorded.gaps >= 3
    assert recorded.dropped_lines == 5 * recorded.gaps
    assert fake.origins == {fake.url}
    assert fake.tails == {200}
    assert {topics[:2] for topics in fake.subscribed} == {("fleet", f"host:{HOST.id}")}
    assert fake.heartbeats >= 2 * len(fake.subscribed)
    measured = catalogue([recorded])
    messages = measured["live_messages"]
    assert isinstance(messages, float)
    assert messages > 100
    for name in ("live_latency_ms", "log_latency_ms"):
        latency = measured[name]
        assert not isinstance(latency, float)
        statistics = latency.statistics()
        assert statistics["count"] > 50
        assert statistics["p50"] * 1000 >= SAMPLE_AGE_US * 0.999
        assert statistics["max"] < LIMIT_SECONDS * 1000


async def test_browsers_notice_what_a_server_does_wrong(tmp_path: Path) -> None:
    """A frame of wrong shape, a line sent twice, time going back, a foreign container and close 4001 are failures."""
    wrongs = ("bad_frame", "duplicate_line", "time_back", "foreign", "error", "close_4001")
    async with serve_live(FakeLive(script=wrongs)) as fake:
        code, output, recorded = await browse(fake, tmp_path / "measured.json", seconds=8, visit_seconds=0.3)

    assert code == 1, output
    rounds = fake.redeemed // len(wrongs)
    assert rounds >= 1, output
    assert set(recorded.failures) == {*wrongs, "closed"} - {"close_4001"}
    assert all(count >= rounds for count in recorded.failures.values()), recorded.failures
    assert recorded.foreign == recorded.failures["foreign"]
    assert recorded.closes == {"4001": recorded.failures["closed"]}
    assert "a log line came twice" in output


async def test_refused_tickets_are_failures(tmp_path: Path) -> None:
    """A token that the server does not take shows as failed requests, and no visit is counted."""
    async with serve_live(FakeLive()) as fake:
        code, output = await run_locust(
            ["--headless", "-u", "1", "-t", "4s", "--host", fake.url],
            {"SEATRIAL_USER_TOKEN": "another", "SEATRIAL_MEASUREMENTS": str(tmp_path / "measured.json")},
        )

    recorded = read_measurements(tmp_path / "measured.json")
    assert code == 1, output
    assert recorded.visits == 0
    assert recorded.failures.keys() == {"http"}


async def test_without_a_token_locust_says_what_to_set() -> None:
    """The locustfile names both variables when neither is set, and nothing starts."""
    code, output = await run_locust(["--headless", "-t", "1s", "--host", "http://127.0.0.1:1"], {})

    assert code != 0
    assert "SEATRIAL_USER_TOKEN" in output
    assert "SEATRIAL_JWT_SECRET" in output
    assert "Traceback" not in output
