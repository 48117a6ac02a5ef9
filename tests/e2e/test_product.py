"""`seatrial run` with everybody in it: people who act, read, download and audit, and an audit log that is checked."""

import asyncio
import json
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests.support.command import outcome, start

DEADLINE_SECONDS = 60.0

SCENARIO = """
question = "Does the product work?"
duration = "15s"
[fleet]
agents = 60
containers = 5
interval = "1s"
log_lines = 3
ramp = "2s"
[ui]
subscribers = 3
chart_readers = 2
log_downloaders = 1
auditors = 1
spawn_rate = 10
[actions]
operators = 3
per_second = 4
[storage]
retention = "10m"
prune_interval = "1s"
[thresholds]
action_round_trip_ms.count = "> 5"
chart_query_ms.count = "> 8"
chart_query_24h_ms.count = "> 0"
log_download_ms.count = "> 1"
log_lines_downloaded.count = "> 0"
"""


def result(tmp_path: Path) -> dict[str, Any]:
    """What the run wrote."""
    found: dict[str, Any] = json.loads((tmp_path / "runs" / "latest" / "result.json").read_text())
    return found


async def test_a_product_run_passes(tmp_path: Path, postgres_dsn: str) -> None:
    """Every attempt has its one true audit row, every answer keeps its promises, and the figures are in the result."""
    path = tmp_path / "product.toml"
    path.write_text(SCENARIO)
    code, out, err = await outcome(await start("run", str(path), "--database-url", postgres_dsn, cwd=tmp_path))
    latest = tmp_path / "runs" / "latest"

    assert code == 0, out + err + (latest / "users.log").read_text()
    made = result(tmp_path)
    values = {f"{one['metric']}.{one['stat']}": one["value"] for one in made["thresholds"]}
    assert {name: value for name, value in values.items() if value == 0}.keys() >= {
        "api_violations.count", "audit_missing.count", "audit_duplicate.count", "audit_wrong.count",
        "actions_executed_twice.count", "actions_sent_twice.count", "charts_wrong.count",
    }  # fmt: skip
    checked = json.loads((latest / "charts.json").read_text())
    assert checked == {"checked": 20, "wrong": []}
    charts = [made["metrics"][f"chart_query_{name}_ms"]["statistics"]["count"] for name in ("15m", "1h", "6h", "24h")]
    assert sum(charts) == values["chart_query_ms.count"]
    assert max(charts) - min(charts) <= 2
    audit = json.loads((latest / "audit.json").read_text())
    assert audit["attempts"] == audit["entries"] >= 10
    attempts = [json.loads(line) for line in (latest / "attempts.jsonl").read_text().splitlines()]
    assert {attempt["expected"] for attempt in attempts} == {"accepted", "protected", "forbidden"}
    assert {attempt["reason"].partition("/")[0] for attempt in attempts} == {latest.resolve().name}


CHEATS = {
    "missing": "BEFORE INSERT ON audit FOR EACH ROW WHEN (NEW.result = 'denied') EXECUTE FUNCTION lose()",
    "wrong": "BEFORE INSERT ON audit FOR EACH ROW WHEN (NEW.result = 'denied') EXECUTE FUNCTION alter_actor()",
}
FUNCTIONS = """
CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE FUNCTION alter_actor() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.actor = 'nobody'; RETURN NEW; END $$;
"""


async def cheat(process: Process, dsn: str, trigger: str) -> None:
    """Spoil the audit log of the run that goes on, as soon as it has one."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while process.returncode is None:
            await asyncio.sleep(0.1)  # nobody announces the run's database
            connection = await asyncpg.connect(dsn)
            name = await connection.fetchval("SELECT max(datname) FROM pg_database WHERE datname LIKE 'seatrial_run_%'")
            await connection.close()
            if name is None:
                continue
            connection = await asyncpg.connect(urlunsplit(urlsplit(dsn)._replace(path=f"/{name}")))
            try:
                if await connection.fetchval("SELECT to_regclass('audit')") is not None:
                    await connection.execute(f"{FUNCTIONS} CREATE TRIGGER cheat {trigger}")
                    return
            finally:
                await connection.close()


@pytest.mark.parametrize("kind", CHEATS)
async def test_an_audit_log_that_is_spoilt_fails_the_run(tmp_path: Path, postgres_dsn: str, kind: str) -> None:
    """Rows that are lost, or that name somebody else: exit 11, and the row's attempt is named."""
    path = tmp_path / "spoilt.toml"
    text = SCENARIO.partition("[thresholds]")[0].replace('duration = "15s"', 'duration = "10s"')
    path.write_text(text.replace("agents = 60", "agents = 10"))
    process = await start("run", str(path), "--database-url", postgres_dsn, cwd=tmp_path)
    await cheat(process, postgres_dsn, CHEATS[kind])
    code, out, err = await outcome(process)

    assert code == 11, out + err
    assert out.splitlines()[-1].startswith("CORRECTNESS_FAILED (exit 11)")
    failed = [one["metric"] for one in result(tmp_path)["thresholds"] if not one["passed"]]
    assert failed == [f"audit_{kind}"]
    examples = json.loads((tmp_path / "runs" / "latest" / "audit.json").read_text())["examples"]
    assert {example[0] for example in examples} == {kind}
    assert "/" in examples[0][1]
