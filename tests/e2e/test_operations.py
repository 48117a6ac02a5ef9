"""docs/operations.md tells the truth: its names exist, and its proxy works as it stands there."""

import asyncio
import re
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from server.db.embedded import free_port
from server.protocol.error_codes import RejectReason
from server.protocol.messages import LIVE_SUBPROTOCOL
from server.settings import Settings
from tests.support.server import AgentClient, Client, RunningServer, eventually, now_us, running_server
from tests.support.tls import write_certificate

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "operations.md").read_text()
NAME = "seatrial.example.com"
NGINX = shutil.which("nginx")


async def test_every_metric_of_the_document_exists(server: RunningServer) -> None:
    """An alert on a name that nobody exports would never fire."""
    told = (await server.get("/metrics")).text
    names = {name.removesuffix("_bucket") for name in re.findall(r"\bseatrial_[a-z_]+\b", DOCUMENT)} - {"seatrial_new"}

    assert len(names) > 15
    assert sorted(name for name in names if f"# HELP {name} " not in told) == []


def test_every_setting_and_reason_of_the_document_exists() -> None:
    """What it tells to set can be set."""
    variables = {name.lower() for name in re.findall(r"\bSEATRIAL_([A-Z_]+[A-Z])\b", DOCUMENT)}

    assert len(variables) > 10
    assert sorted(variables - set(Settings.model_fields)) == []
    assert {"too_old", "in_future"} <= set(RejectReason)


async def test_the_document_names_probes_as_they_answer(server: RunningServer) -> None:
    """Each path of the table is there."""
    for path in ("/livez", "/readyz", "/metrics"):
        assert f"| `{path}` |" in DOCUMENT
        assert (await server.get(path)).status_code == 200


@asynccontextmanager
async def proxy(folder: Path, port: int, upstream: str) -> AsyncIterator[None]:
    """The document's nginx, with paths and ports of the test."""
    write_certificate(folder, NAME)
    found = re.search(r"```nginx\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found is not None
    block = found.group(1)
    for told, here in {
        "127.0.0.1:8000": upstream,
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/seatrial.crt": str(folder / "seatrial.crt"),
        "/etc/ssl/private/seatrial.key": str(folder / "seatrial.key"),
        "/var/log/nginx/": f"{folder}/",
    }.items():
        assert told in block
        block = block.replace(told, here)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nevents {{}}\nhttp {{\n{temporary}{block}}}\n"
    )
    assert NGINX is not None
    process = await asyncio.create_subprocess_exec(
        NGINX, "-p", str(folder), "-e", str(folder / "start.log"), "-c", str(config), stderr=asyncio.subprocess.PIPE
    )
    try:

        async def begun() -> bool:
            return process.returncode is not None or await _listens(port)

        await eventually(begun, "nginx")
        assert process.returncode is None, (await process.communicate())[1].decode()
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
async def test_the_proxy_of_the_document_works(database: str, tmp_path: Path) -> None:
    """TLS, both upgrades, large frames, REST; no ticket in any log, and no metrics for the outside."""
    port = free_port()
    address = f"https://{NAME}:{port}"
    async with running_server(database, public_url=address) as server, proxy(tmp_path, port, server.address):
        trust = ssl.create_default_context(cafile=str(tmp_path / "seatrial.crt"))
        async with httpx.AsyncClient(verify=trust, trust_env=False) as client:

            async def ask(method: str, path: str) -> httpx.Response:
                return await client.request(
                    method, f"https://127.0.0.1:{port}{path}", extensions={"sni_hostname": NAME},
                    headers={"Host": f"{NAME}:{port}", "Authorization": f"Bearer {server.user_token()}", "Origin": address},
                )  # fmt: skip

            assert (await ask("GET", "/livez")).status_code == 200
            assert [(await ask("GET", path)).status_code for path in ("/metrics", "/readyz")] == [404, 404]
            ticket = (await ask("POST", "/api/live-tickets")).json()["ticket"]
        common: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": port,
            "ssl": trust,
            "server_hostname": NAME,
            "compression": None,
        }
        async with websockets.connect(
            f"wss://{NAME}:{port}/ws/agent", additional_headers={"Authorization": f"Bearer {server.agent_token()}"},
            subprotocols=[websockets.Subprotocol("seatrial.agent.v1")], **common,
        ) as socket:  # fmt: skip
            agent = await AgentClient(socket).hello()
            # Close to the largest frame that the server takes.
            at = now_us()
            lines = [
                {"ref": 0, "at": at, "line": number, "stream": "stdout", "text": "x" * 9000} for number in range(110)
            ]
            await agent.batch(1, logs=lines)
            assert (await agent.acked(1)).get("rejected", []) == []
            async with websockets.connect(
                f"wss://{NAME}:{port}/ws/live?ticket={ticket}", origin=websockets.Origin(address),
                subprotocols=[websockets.Subprotocol(LIVE_SUBPROTOCOL)], **common,
            ) as live:  # fmt: skip
                browser = Client(live)
                await browser.send({"type": "subscribe", "topics": ["host:host-1"]})
                await browser.until("snapshot")
                await agent.batch(2)
                await browser.until("metrics")
    told = {name: (tmp_path / name).read_text() for name in ("seatrial.log", "seatrial-error.log", "start.log")}
    assert '"GET /ws/live HTTP/1.1" 101' in told["seatrial.log"]
    assert '"POST /api/live-tickets HTTP/1.1" 201' in told["seatrial.log"]
    assert [name for name, text in told.items() if ticket in text] == []
