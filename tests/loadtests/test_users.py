"""The real Locust, as a subprocess, against a stand-in for the server."""

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

from loadtests.measure import Latency
from loadtests.recorded import catalogue, read_measurements
from server.db.embedded import free_port
from tests.support.fake_live import SAMPLE_AGE_US, FakeLive, serve_live

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


def environ(file: Path, **more: str) -> dict[str, str]:
    """Variables of a Locust that mints tokens and leaves its measurements."""
    return {"SEATRIAL_JWT_SECRET": "s" * 32, "SEATRIAL_MEASUREMENTS": str(file)} | more


def files_of(directory: Path) -> list[Path]:
    """Measurements of workers."""
    return list(directory.glob("measured-*.json"))


async def test_browsers_measure_a_good_server_in_a_shape(tmp_path: Path) -> None:
    """They come step by step, each visit has a ticket of its own, nothing fails, latencies count from the samples' time."""
    async with serve_live(FakeLive(user_token="")) as fake:
        code, output = await run_locust(
            ["--headless", "-u", "3", "-r", "3", "-t", "6s", "--host", fake.url, "--visit-seconds", "1"],
            environ(tmp_path / "measured.json", SEATRIAL_SHAPE="stairs:steps=3,step=1s"),
        )
    recorded = read_measurements(tmp_path / "measured.json")

    assert recorded.failures == {}, output
    assert code == 0, output
    assert recorded.foreign == 0
    assert recorded.visits == fake.redeemed >= 6
    assert recorded.checked >= 1
    assert fake.origins == {fake.url}
    assert fake.heartbeats > fake.redeemed
    came = sorted(fake.first_seen.values())
    assert len(came) == 3
    assert came[2] - came[0] > 1.0  # Locust looks at the shape once a second
    measured = catalogue([recorded])
    messages = measured["live_messages"]
    assert isinstance(messages, float)
    assert messages > 100
    for name in ("live_latency_ms", "log_latency_ms"):
        latency = measured[name]
        assert not isinstance(latency, float)
        statistics = latency.statistics()
        assert statistics["count"] > 20
        assert statistics["p50"] * 1000 >= SAMPLE_AGE_US * 0.999
        assert statistics["max"] < LIMIT_SECONDS * 1000


async def test_several_processes_share_the_users_and_lose_nothing(tmp_path: Path) -> None:
    """Each user is there once, under a name of its own, and what the workers measured adds up to what the server saw."""
    port = str(free_port())
    async with serve_live(FakeLive(user_token="")) as fake:
        code, output = await run_locust(
            [
                "--headless", "-u", "4", "-r", "4", "-t", "4s", "--host", fake.url, "--visit-seconds", "1",
                "--processes", "2", "--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port,
            ],
            environ(tmp_path / "measured.json", SEATRIAL_SLOW_BROWSERS="1", SEATRIAL_RECONNECTING_BROWSERS="1"),
        )  # fmt: skip
    recorded = [read_measurements(path) for path in files_of(tmp_path)]
    kinds = Counter(subject.split("-")[1] for subject in fake.first_seen)

    assert code == 0, output
    assert kinds == {"UiSubscriber": 2, "SlowBrowser": 1, "ReconnectingBrowser": 1}
    assert len(recorded) == 2
    assert len({path.stem.split("-")[2] for path in files_of(tmp_path)}) == 2  # not by the process id alone
    assert all(one.ended_at_us and one.visits for one in recorded)
    assert sum(one.visits for one in recorded) == fake.redeemed
    live = [Latency.decode([one.latencies["live_latency_ms"]]).count for one in recorded]
    merged = catalogue(recorded)["live_latency_ms"]
    assert isinstance(merged, Latency)
    assert merged.count == sum(live) > 0
    assert not (tmp_path / "measured.json").exists()


async def test_workers_serve_all_organisations_together(tmp_path: Path) -> None:
    """Four readers in two workers belong to four organisations, and not to the first two twice."""
    port = str(free_port())
    async with serve_live(FakeLive(user_token="")) as fake:
        await run_locust(
            [
                "--headless", "-u", "4", "-r", "4", "-t", "2s", "--host", fake.url,
                "--processes", "2", "--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port,
            ],
            environ(tmp_path / "measured.json", SEATRIAL_CHART_READERS="4", SEATRIAL_ORGANISATIONS="4"),
        )  # fmt: skip

    assert sorted(org for _, org in fake.orgs) == ["demo-1", "demo-2", "demo-3", "demo-4"]


async def test_a_server_elsewhere_must_agree_first() -> None:
    """Locust by hand loads nothing that has not said so: it names both ways out, and no ticket is asked for."""
    async with serve_live(FakeLive(user_token="")) as fake:
        code, output = await run_locust(
            ["--headless", "-u", "1", "-t", "3s", "--host", fake.url.replace("127.0.0.1", "0.0.0.0")],  # noqa: S104
            {"SEATRIAL_JWT_SECRET": "s" * 32},
        )

    assert code != 0
    assert "does not say that it accepts test load" in output
    assert "SEATRIAL_I_OWN_THIS=1" in output
    assert fake.first_seen == {}


async def test_refused_tickets_are_failures(tmp_path: Path) -> None:
    """A token that the server does not take shows as failed requests, and no visit is counted."""
    async with serve_live(FakeLive()) as fake:
        code, output = await run_locust(
            ["--headless", "-u", "1", "-t", "3s", "--host", fake.url],
            {"SEATRIAL_USER_TOKEN": "another", "SEATRIAL_MEASUREMENTS": str(tmp_path / "measured.json")},
        )

    recorded = read_measurements(tmp_path / "measured.json")
    assert code == 1, output
    assert recorded.visits == 0
    assert recorded.failures.keys() == {"http"}


async def test_a_wrong_shape_is_told() -> None:
    """The variable, what it holds, and what was expected; nothing starts."""
    code, output = await run_locust(
        ["--headless", "-t", "1s", "--host", "http://127.0.0.1:1"],
        {"SEATRIAL_USER_TOKEN": "t", "SEATRIAL_SHAPE": "stears:steps=3"},
    )

    assert code != 0
    assert "SEATRIAL_SHAPE: stears: unknown shape; did you mean stairs?" in output
    assert "Traceback" not in output


async def test_without_a_token_locust_says_what_to_set() -> None:
    """The locustfile names both variables when neither is set, and nothing starts."""
    code, output = await run_locust(["--headless", "-t", "1s", "--host", "http://127.0.0.1:1"], {})

    assert code != 0
    assert "SEATRIAL_USER_TOKEN" in output
    assert "SEATRIAL_JWT_SECRET" in output
    assert "Traceback" not in output
