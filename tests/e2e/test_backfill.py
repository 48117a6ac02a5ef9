"""A history, and a fleet that goes on where it ends: one timeline for the charts and for the verifier."""

import asyncio
import json
from pathlib import Path
from statistics import median

import asyncpg
import pytest

from loadtests.backfill import Wanted, backfilling
from loadtests.verify import verify_all
from server.db.storage.plain import PlainStorage
from simulator.continuing import read_history
from simulator.ledger import ledger_files
from simulator.merge import add_reports
from simulator.plan import Plan
from simulator.processes import Processes
from tests.support.command import seatrial
from tests.support.server import SECRET, running_server

INTERVAL_US = 500_000
AGENTS, CONTAINERS, LOG_LINES = 4, 3, 2


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_fleet_goes_on_where_a_history_ends(database: str, tmp_path: Path, processes: int) -> None:
    """Every row on both sides of the seam is as sent, and a chart over it has no gap, no reset and no spike."""
    past, present = tmp_path / "history", tmp_path / "ledger"
    wanted = Wanted(
        hours=0.05,
        org="org-a",
        agents=AGENTS,
        containers=CONTAINERS,
        log_lines=LOG_LINES,
        interval_us=INTERVAL_US,
        seed=3,
    )
    async with backfilling(wanted, PlainStorage(), database, past, lambda _: None) as history:
        await history.write_up_to_now()
        await history.finish()
    seam_us = history.until_us

    async with running_server(database) as server:
        known = read_history(past, now_us=seam_us, spool_us=600_000_000)
        plan = Plan(
            url=f"{server.ws}/ws/agent", secret=SECRET, duration_us=3_000_000, ramp_us=200_000, **known.plan_fields({})
        )
        fleet = Processes(plan, processes, present, lambda _: None)
        await asyncio.wait_for(fleet.run(asyncio.Event()), 60)
        token = server.user_token()
        listed = (await server.get("/api/hosts/host-00001/containers", token)).json()["containers"]
        chart = (
            await server.get(
                f"/api/containers/{listed[0]['id']}/metrics?from={seam_us - 20_000_000}&to={seam_us + 2_000_000}", token
            )
        ).json()

    connection = await asyncpg.connect(database)
    findings = await verify_all([past, *ledger_files(present, processes)], PlainStorage(), connection)
    segments = await connection.fetchval("SELECT sum(bytes) FROM log_segment")
    lines = await connection.fetchval(
        "SELECT sum(octet_length(text) + 150) FROM container_log WHERE timestamp < to_timestamp($1::float8)",
        seam_us / 1e6,
    )
    await connection.close()

    assert findings.clean, findings.examples
    assert findings.verified_fraction == 1.0
    whole = add_reports(fleet.reports)
    assert fleet.failures == []
    assert findings.acked == history.rows + sum(whole["rows"].values())
    assert whole["skipped_ticks"] == 0
    assert len(listed) == CONTAINERS
    assert segments == lines
    seconds = [at // 1_000_000 for at in chart["at"]]
    assert seconds == list(range(seconds[0], seconds[0] + len(seconds)))
    assert set(chart["samples"][1:-1]) == {1_000_000 // INTERVAL_US}
    rates = chart["rx_per_second"][1:]
    assert None not in rates
    assert max(rates) < 3 * median(rates)


async def test_a_run_begins_with_a_history(tmp_path: Path) -> None:
    """`storage.backfill` is written and verified before the fleet starts, and charts of all of it tell what was generated."""
    scenario = tmp_path / "past.toml"
    scenario.write_text(
        'question = "?"\nduration = "6s"\n[fleet]\nagents = 5\ncontainers = 2\nramp = "500ms"\ninterval = "2s"\n'
        '[storage]\nbackfill = "1h"\nretention = "24h"\nprune_interval = "1s"\n[ui]\nchart_readers = 1\n'
    )
    _, out, err = await seatrial("run", str(scenario), "--runs", str(tmp_path / "runs"), cwd=tmp_path)
    found = json.loads((tmp_path / "runs" / "latest" / "findings.json").read_bytes())

    assert "rows of history" in err, out + err
    assert not any(found["counts"].values()), found
    assert found["acked"] == found["verified"] > 3 * 60 * 5 * (2 + 1)
    assert found["unverified"] == 0
    charts = json.loads((tmp_path / "runs" / "latest" / "charts.json").read_bytes())
    assert charts == {"checked": 20, "wrong": []}
