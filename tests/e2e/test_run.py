"""`seatrial run` as a user starts it: its verdicts, its exit codes, and what it leaves behind."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest

from loadtests.probes.catalogue import SERIES
from tests.support.command import DEADLINE_SECONDS, outcome, start

ROOT = Path(__file__).parents[2]
SCENARIO = """
question = "Does it work at all?"
duration = "6s"
[fleet]
agents = 20
containers = 2
interval = "500ms"
log_lines = 1
ramp = "1s"
[ui]
subscribers = 3
spawn_rate = 3
[server]
restart = true
[storage]
retention = "4s"
prune_interval = "500ms"
[thresholds]
"ack_latency_ms.count" = "> 100"
"live_messages.count" = "> 0"
"oldest_row_age_s.max" = "< 60"
"insert_rows_per_second.max" = "> 1"
"""


TWO_PROCESSES = (
    "--locust-processes", "2", "--set", "duration=9s", "--set", "ui.visit=2s", "--set", "ui.slow=1",
    "--set", "ui.reconnecting=1", "--set", "actions.operators=2", "--set", "actions.per_second=4",
)  # fmt: skip


async def run(tmp_path: Path, text: str, *options: str) -> tuple[int, str, str]:
    """Run a scenario to its end."""
    path = tmp_path / "small.toml"
    path.write_text(text)
    return await outcome(await start("run", str(path), *options, cwd=tmp_path))


def result(tmp_path: Path) -> dict[str, Any]:
    """What the newest run wrote."""
    found: dict[str, Any] = json.loads((tmp_path / "runs" / "latest" / "result.json").read_text())
    return found


def left_behind(tmp_path: Path) -> list[str]:
    """Processes that still work for a run below this directory."""
    marks = (str(tmp_path),)
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        command = " ".join(process.info["cmdline"] or [])
        if process.pid != os.getpid() and any(mark in command for mark in marks):
            found.append(command)
    return found


async def test_a_small_run_passes(tmp_path: Path, postgres_dsn: str) -> None:
    """The whole loop, all kinds of users in two processes: exit 0, a table of thresholds, a result that holds it, no rest."""
    code, out, err = await run(tmp_path, SCENARIO, "--database-url", postgres_dsn, *TWO_PROCESSES)
    made = result(tmp_path)

    assert code == 0, out + err
    assert out.splitlines()[-1].startswith("PASSED (exit 0)")
    assert {t["metric"] for t in made["thresholds"]} >= {
        "ledger_missing",
        "ledger_verified_fraction",
        "oldest_row_age_s",
    }
    assert made["verdict"] == "PASSED"
    assert made["metrics"]["ledger_verified_fraction"]["statistics"]["value"] >= 0.99
    assert made["environment"]["postgres"]["settings"]["fsync"] == "on"
    assert {
        "result.json", "report.html", "plots", "junit.xml", "summary.md", "server.log", "fleet.log", "users.log",
        "ledger.jsonl", "locust_stats.csv",
    } <= {path.name for path in (tmp_path / "runs" / "latest").iterdir()}  # fmt: skip
    jsonschema.validate(made, json.loads((ROOT / "docs" / "result.schema.json").read_text()))
    silent = [name for name in SERIES if name in made["metrics"] and not made["metrics"][name].get("points")]
    assert silent == [name for name in SERIES if name.startswith(("postgres_", "proxy_")) and name in made["metrics"]]
    assert {probe["probe"]: probe["note"] for probe in made["probes"]}["postgres processes"]
    for name in ("ack_latency_ms", "live_latency_ms"):
        moments = made["metrics"][name]["moments"]
        assert sum(moment["count"] for moment in moments) == made["metrics"][name]["statistics"]["count"]
    files = list((tmp_path / "runs" / "latest").glob("users-*.json"))
    messages = [json.loads(file.read_text())["messages"] for file in files]
    assert made["scenario"]["ui"]["processes"] == len(files) == 2
    assert made["metrics"]["live_messages"]["statistics"]["count"] == sum(messages)
    assert min(messages) > 0
    for name in ("live_checks", "slow_live_latency_ms"):
        assert made["metrics"][name]["statistics"]["count"] > 0
    assert made["metrics"]["browser_clock_error_ms"]["statistics"]["value"] > 0
    assert left_behind(tmp_path) == []


async def test_ranges_of_time_are_verified_and_dropped_under_load(tmp_path: Path, postgres_dsn: str) -> None:
    """With strategy `partitioned` the same run passes: rows go with their ranges, the ledger is clean, no row is rejected."""
    text = SCENARIO.replace("[storage]", '[storage]\nstrategy = "partitioned"').replace('"4s"', '"3s"')
    code, out, err = await run(tmp_path, text, "--database-url", postgres_dsn)
    made = result(tmp_path)

    assert code == 0, out + err
    assert made["metrics"]["ledger_verified_fraction"]["statistics"]["value"] >= 0.99
    assert made["metrics"]["prune_rows_per_second"]["statistics"]["max"] > 0
    assert made["metrics"]["oldest_row_age_s"]["statistics"]["max"] < 30


async def test_a_killed_server_is_started_again_and_nothing_is_lost(tmp_path: Path, postgres_dsn: str) -> None:
    """Kill -9, and between COMMIT and ack: the runner restarts it, agents of two processes resend, both ledgers are clean."""
    text = SCENARIO.replace('duration = "6s"', 'duration = "16s"').replace('retention = "4s"', 'retention = "60s"')
    faults = '[[fault]]\nat = "3s"\nkind = "server_kill"\n[[fault]]\nat = "9s"\nkind = "server_kill_before_ack"\n'
    text = text.replace("[thresholds]", faults + "[thresholds]")
    text += '"server_restarts.count" = "== 2"\n"rows_replayed.count" = "> 0"\n'
    code, out, err = await run(tmp_path, text, "--database-url", postgres_dsn, "--set", "fleet.processes=2")
    made = result(tmp_path)

    assert code == 0, out + err
    assert [fault["kind"] for fault in made["faults"]] == ["server_kill", "server_kill_before_ack"]
    assert made["metrics"]["ledger_missing"]["statistics"]["count"] == 0
    assert {"ledger-1.jsonl", "ledger-2.jsonl"} <= {p.name for p in (tmp_path / "runs" / "latest").iterdir()}
    assert made["phases"].keys() >= {"before", "during"}
    assert 0 not in [value for _, value in made["metrics"]["server_rss_mb"]["points"]]


async def test_a_failed_threshold_exits_10(tmp_path: Path, postgres_dsn: str) -> None:
    """A bound that cannot hold fails the run, and the table says which."""
    text = SCENARIO.replace('"> 100"', '"> 1000000"').replace("subscribers = 3", "subscribers = 0")
    text = text.replace("spawn_rate = 3\n", "").replace('"live_messages.count" = "> 0"\n', "")
    code, out, _ = await run(tmp_path, text, "--database-url", postgres_dsn)

    assert code == 10
    assert "ack_latency_ms.count" in out
    assert out.splitlines()[-1].startswith("THRESHOLD_FAILED (exit 10)")


async def test_a_threshold_that_stays_broken_ends_the_run(tmp_path: Path, postgres_dsn: str) -> None:
    """With `abort` a run of a minute ends after seconds, is verified all the same, and exits 10 with the reason."""
    text = SCENARIO.replace('duration = "6s"', 'duration = "60s"').replace('retention = "4s"', 'retention = "60s"')
    text += '"live_latency_ms.p50" = { bound = "< 0.001", abort = true, grace = "1s" }\n'
    code, out, err = await run(tmp_path, text, "--database-url", postgres_dsn)
    made = result(tmp_path)

    assert code == 10, out + err
    assert [t["metric"] for t in made["thresholds"] if t["aborted"]] == ["live_latency_ms"]
    assert any("it ended the run after" in reason for reason in made["reasons"])
    assert (made["load_ended_at_us"] - made["load_started_at_us"]) / 1e6 < 55
    assert made["metrics"]["ledger_verified_fraction"]["statistics"]["value"] >= 0.99


async def test_ctrl_c_stops_everything_and_keeps_what_there_is(tmp_path: Path) -> None:
    """SIGINT in mid-run, with the private Postgres: exit 130, a partial result, no process and no cluster left."""
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO.replace('duration = "6s"', 'duration = "60s"'))
    process = await start("run", str(path), cwd=tmp_path)
    latest = tmp_path / "runs" / "latest"
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not (latest / "ledger.jsonl").exists() or (latest / "ledger.jsonl").stat().st_size < 10_000:
            await asyncio.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    code, out, err = await outcome(process)
    made = result(tmp_path)

    assert code == 130, out + err
    assert made["verdict"] == "INTERRUPTED"
    assert made["metrics"]["ack_latency_ms"]["statistics"]["count"] > 0
    assert left_behind(tmp_path) == []
    assert [child for child in children if child.is_running()] == []


async def test_a_killed_runner_leaves_no_process(tmp_path: Path) -> None:
    """Kill -9 of the runner itself takes server, fleet, browsers and Postgres with it."""
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO.replace('duration = "6s"', 'duration = "60s"'))
    process = await start("run", str(path), cwd=tmp_path)
    latest = tmp_path / "runs" / "latest"
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not (latest / "ledger.jsonl").exists():
            await asyncio.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    await outcome(process)
    gone, alive = await asyncio.to_thread(psutil.wait_procs, children, 30)

    assert len(gone) >= 3
    assert alive == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SCENARIO.replace("agents = 20", "agnets = 20"), ["fleet.agnets", "did you mean agents"]),
        (SCENARIO.replace('"ack_latency_ms.count"', '"ack_latencyms.count"'), ["ack_latencyms", "ack_latency_ms"]),
        (SCENARIO.replace('"4s"', '"4 parsecs"'), ["storage.retention", "parsecs"]),
        ("question = ", ["small.toml"]),
    ],
)
async def test_a_wrong_scenario_exits_2(tmp_path: Path, text: str, words: list[str]) -> None:
    """A mistake is named with its key and the nearest good one, and nothing is started."""
    code, out, err = await run(tmp_path, text)

    assert code == 2
    assert all(word in err for word in words), err
    assert out == ""
    assert not (tmp_path / "runs").exists()


async def test_a_worker_that_dies_makes_the_run_invalid(tmp_path: Path, postgres_dsn: str) -> None:
    """What it measured last is missing, so the figures say nothing."""
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO)
    process = await start("run", str(path), "--database-url", postgres_dsn, *TWO_PROCESSES, cwd=tmp_path)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not (files := list((tmp_path / "runs").glob("*/users-*.json"))):
            await asyncio.sleep(0.1)
    psutil.Process(int(files[0].stem.rpartition("-")[2])).kill()
    code, out, err = await outcome(process)

    assert code == 12, out + err
    assert "1 of 3 Locust processes ended during the load" in out
    assert "1 of 2 Locust processes ended without a last word" in out
    assert left_behind(tmp_path) == []


async def test_a_missing_database_exits_3(tmp_path: Path) -> None:
    """A Postgres that does not answer is an environment that could not be set up."""
    code, _, err = await run(tmp_path, SCENARIO, "--database-url", "postgresql://x:y@127.0.0.1:1/none")

    assert code == 3
    assert "--database-url" in err
