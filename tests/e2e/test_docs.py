"""The documents tell the truth: their example runs, and they name everything there is."""

import asyncio
import os
import re
import sys
from pathlib import Path

from server.protocol.close_codes import CloseCode
from server.protocol.error_codes import ErrorCode, RejectReason
from server.protocol.messages import MESSAGES, type_of
from server.settings import Settings
from tests.support.server import RunningServer, eventually

ROOT = Path(__file__).parents[2]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()


async def test_the_example_agent_of_the_protocol_runs(server: RunningServer, tmp_path: Path) -> None:
    """The forty lines of docs/protocol.md send batches that are stored and acknowledged."""
    example = re.search(r"```python\n(.*?)```", PROTOCOL, re.DOTALL)
    assert example is not None
    path = tmp_path / "agent.py"
    path.write_text(example.group(1))
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"SEATRIAL_URL": server.ws, "SEATRIAL_AGENT_TOKEN": server.agent_token()},
    )  # fmt: skip
    try:
        await eventually(lambda: server.service.counters.metric_rows_stored >= 3, "three samples stored")
        record = server.service.registry.records["org-a", "host-1"]
        assert record.progress.acked >= 3
    finally:
        process.kill()
        await process.communicate()


def test_the_protocol_document_names_everything() -> None:
    """Every message, field, close code, error and reason stands in docs/protocol.md."""
    for group in MESSAGES.values():
        for message in group:
            assert f"`{type_of(message)}`" in PROTOCOL, message
            for field in message.__struct_fields__:
                assert re.search(rf"\b{field}\b", PROTOCOL), (message, field)
    for code in CloseCode:
        assert f"| {int(code)} |" in PROTOCOL, code
    for name in (*ErrorCode, *RejectReason):
        assert f"| `{name}` |" in PROTOCOL, name


def test_links_between_documents_lead_somewhere() -> None:
    """Every relative link of the documents points at a file that exists."""
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), (document.name, target)


def test_every_setting_is_documented() -> None:
    """docs/settings.md has each variable with its default."""
    text = (ROOT / "docs" / "settings.md").read_text()
    for name, field in Settings.model_fields.items():
        row = re.search(rf"^\| `SEATRIAL_{name.upper()}` \| (.+?) \|", text, re.MULTILINE)
        assert row is not None, name
        assert field.is_required() or not field.default or row.group(1) == f"`{field.default}`", name
