"""A run against a server that is deployed: over TLS, with a key of its own, beside the rows of others."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from server.auth import keys
from server.db.embedded import free_port
from tests.support.command import outcome, seatrial, start
from tests.support.server import SECRET, RunningServer, eventually
from tests.support.tls import tls, write_certificate

ROOT = Path(__file__).parents[2]
REMOVAL = re.search(r"```sql\n(.*?)```", (ROOT / "docs" / "target.md").read_text(), re.DOTALL)
SCENARIO = """
question = "Does it hold on a server that is there already?"
duration = "10s"
[fleet]
agents = 20
containers = 2
interval = "500ms"
ramp = "1s"
[ui]
subscribers = 2
visit = "2s"
[actions]
operators = 1
per_second = 4
[thresholds]
live_messages.count = "> 0"
insert_rows_per_second.max = "> 1"
"""
NEIGHBOUR = """
INSERT INTO container_metric (container_id, timestamp, cpu_percent)
SELECT 7, now() + n * interval '100 milliseconds', 1 FROM generate_series(0, 600) n
"""


async def test_a_deployed_server_is_loaded_and_left_as_it_was(database: str, tmp_path: Path) -> None:
    """20 agents, browsers and an operator over TLS, tokens signed with a file; exit 0 though a neighbour has rows too.

    Afterwards the server still runs, and the statements of docs/target.md remove the run's rows and nobody else's.
    """
    keys.write_pair(tmp_path, keys.generate("EdDSA"), kid="load-1")
    (tmp_path / "small.toml").write_text(SCENARIO)
    crt, key = write_certificate(tmp_path, "localhost")
    inner, outer = free_port(), free_port()
    signing = {"SEATRIAL_JWT_SIGNING_KEY": str(tmp_path / keys.PEM_FILE), "SEATRIAL_JWT_SIGNING_KID": "load-1"}
    server = await start(
        "serve", "--port", str(inner), cwd=tmp_path, SEATRIAL_DATABASE_URL=database, SEATRIAL_ACCEPT_TEST_LOAD="true",
        SEATRIAL_JWT_KEYS=str(tmp_path / keys.JWKS_FILE), SEATRIAL_PUBLIC_URL=f"https://localhost:{outer}", **signing,
    )  # fmt: skip
    connection = await asyncpg.connect(database)
    try:
        async with tls(inner, crt, key, outer), httpx.AsyncClient(trust_env=False) as client:

            async def ready() -> bool:
                try:
                    return (await client.get(f"http://127.0.0.1:{inner}/readyz")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(ready, "the server")
            neighbours = await connection.execute(NEIGHBOUR)
            arguments = (
                "run", "small.toml", "--target", f"https://localhost:{outer}", "--database-url", database,
                "--signing-key", str(tmp_path / keys.PEM_FILE), "--kid", "load-1",
            )  # fmt: skip
            code, _, err = await seatrial(*arguments, cwd=tmp_path)
            assert (code, "certificate verify failed" in err, "SSL_CERT_FILE" in err) == (3, True, True), err
            code, out, err = await seatrial(*arguments, cwd=tmp_path, SSL_CERT_FILE=str(crt))
            log = (tmp_path / "runs" / "latest" / "fleet.log").read_text()
            assert code == 0, out + err + log
            assert await ready()
        made: dict[str, Any] = json.loads((tmp_path / "runs" / "latest" / "result.json").read_text())
        org = made["environment"]["target"]["org"]
        assert made["environment"]["target"]["url"] == f"https://localhost:{outer}"
        for told in ("report.html", "summary.md"):
            assert org in (tmp_path / "runs" / "latest" / told).read_text().replace("\\", "")
        assert {probe["probe"] for probe in made["probes"] if probe["note"]} == {
            "postgres", "server processes", "postgres processes",
        }  # fmt: skip
        assert (await left(connection, org))["host"] == 20
        assert not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_extension WHERE extname LIKE 'pg_stat%')")
        assert REMOVAL is not None
        await connection.execute(REMOVAL[1])
        assert set((await left(connection, org)).values()) == {0}
        assert neighbours == "INSERT 0 601"
        assert await connection.fetchval("SELECT count(*) FROM container_metric") == 601
    finally:
        await connection.close()
        server.terminate()
        await outcome(server)


async def left(connection: asyncpg.Connection, org: str) -> dict[str, int]:
    """How many rows name an organisation, by table."""
    tables = await connection.fetch(
        "SELECT table_name FROM information_schema.columns WHERE column_name = 'org' AND table_schema = 'public'"
    )
    return {row[0]: await connection.fetchval(f"SELECT count(*) FROM {row[0]} WHERE org = $1", org) for row in tables}


async def test_without_consent_nothing_runs(server: RunningServer, database: str, tmp_path: Path) -> None:
    """As a command: exit 2 and no directory of a run; with a database that is not there exit 3."""
    (tmp_path / "small.toml").write_text(SCENARIO)
    arguments = ("run", "small.toml", "--target", server.http, "--database-url")
    refused, missing, alone = await asyncio.gather(
        seatrial(*arguments, database, cwd=tmp_path, SEATRIAL_JWT_SECRET=SECRET),
        seatrial(
            *arguments, "postgresql://x:y@127.0.0.1:1/none", "--i-own-this", cwd=tmp_path, SEATRIAL_JWT_SECRET=SECRET
        ),
        seatrial(*arguments[:-1], cwd=tmp_path, SEATRIAL_JWT_SECRET=SECRET),
    )

    assert (refused[0], missing[0], alone[0]) == (2, 3, 2), (refused, missing, alone)
    assert "--i-own-this" in refused[2]
    assert "--database-url" in missing[2]
    assert "no row can be verified" in alone[2]
    assert not (tmp_path / "runs").exists()
    assert server.service.counters.frames_received == 0
