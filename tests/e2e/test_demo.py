"""`seatrial demo` as somebody tries it: what it prints works as it is pasted, and Ctrl-C ends all of it."""

import asyncio
import json
import re
import shlex
import signal
import socket
import tempfile
from asyncio.subprocess import Process
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import psutil
import pytest

from tests.support.command import DEADLINE_SECONDS, outcome, seatrial, start

AGENTS = 5


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that the user Postgres runs as can reach, unlike pytest's own when root runs the tests."""
    with tempfile.TemporaryDirectory(prefix="seatrial-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


async def guide(process: Process) -> list[str]:
    """The lines up to the one that ends the guide."""
    assert process.stdout is not None
    lines = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while line := await process.stdout.readline():
            lines.append(line.decode().rstrip("\n"))
            if "Ctrl-C ends it" in lines[-1]:
                return lines
    raise AssertionError((lines, await outcome(process)))


async def paste(line: str, cwd: Path) -> bytes:
    """Run a line in a shell, as it stands."""
    shell = await asyncio.create_subprocess_exec(
        "sh", "-c", line, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE_SECONDS):
        out, err = await shell.communicate()
    assert shell.returncode == 0, (line, err.decode())
    return out


async def test_what_the_demo_prints_works_as_it_is_pasted(directory: Path) -> None:
    """Hosts, chart, log, stop, its audit row, ticket; a second start finds the data of the first; nothing is left running."""
    folder = directory / "a folder"  # with a blank: what is pasted must be quoted
    options = ("demo", "--folder", str(folder), "--agents", str(AGENTS), "--port", "0")
    process = await start(*options, cwd=directory)
    try:
        lines = await guide(process)
        curls = {lines[i - 1]: line for i, line in enumerate(lines) if line.startswith("curl ")}
        answers = {what: await paste(line, directory) for what, line in curls.items()}
        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.send_signal(signal.SIGINT)
    code, out, err = await outcome(process)

    assert code == 130, out + err
    assert "stopping" in out
    assert len(children) >= 3
    assert [child for child in children if child.is_running()] == []
    tokens = re.findall(r"^  (viewer|operator|admin) +(\S+)$", "\n".join(lines), re.MULTILINE)
    roles = [jwt.decode(token, options={"verify_signature": False})["role"] for _, token in tokens]
    assert roles == [role for role, _ in tokens] == ["viewer", "operator", "admin"]
    assert [token for _, token in tokens if any(token in line for line in curls.values())] == []
    assert {oct(path.stat().st_mode & 0o777) for path in folder.glob("*.header")} == {"0o600"}

    told: dict[str, Any] = {
        what: json.loads(answer) for what, answer in answers.items() if answer.startswith((b"{", b"["))
    }
    assert len(told["# hosts"]["hosts"]) == 3
    assert any(value is not None for value in told["# a chart"]["mem_mean"])
    assert answers["# its log as text"].count(b"\n") >= 1
    assert told["# stop it"]["state"] == "succeeded"
    (row,) = told["# the audit row"]["entries"]
    assert (row["action"], row["result"], row["role"]) == ("container.stop", "succeeded", "operator")
    assert row["action_id"] == told["# stop it"]["action_id"]
    assert told["# a ticket for the live socket"]["ticket"]

    again = await start(*options, cwd=directory)
    try:
        lines = await guide(again)
        admin = next(line for line in lines if "/api/audit" in line)
        everything = re.sub(r"\?target=[^'\s]*", "?limit=100", admin)
        assert row["id"] in [entry["id"] for entry in json.loads(await paste(everything, directory))["entries"]]
    finally:
        again.terminate()
    code, out, err = await outcome(again)
    assert code == 0, out + err


async def test_a_demo_that_is_killed_leaves_nothing_running(directory: Path) -> None:
    """Kill -9 takes Postgres, server and fleet with it."""
    process = await start("demo", "--folder", str(directory / "d"), "--agents", "2", "--port", "0", cwd=directory)
    try:
        await guide(process)
        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
    await outcome(process)
    gone, alive = await asyncio.to_thread(psutil.wait_procs, children, 30)

    assert len(gone) >= 3
    assert alive == []


async def test_ctrl_c_while_it_starts_ends_it_too(directory: Path) -> None:
    """Before there is a guide, and before Postgres has made its cluster."""
    process = await start("demo", "--folder", str(directory / "d"), "--agents", "2", "--port", "0", cwd=directory)
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert b"starting" in await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    code, out, err = await outcome(process)

    assert code == 130, out + err
    marks = [str(directory)]
    assert [
        p for p in psutil.process_iter(["cmdline"]) if any(m in shlex.join(p.info["cmdline"] or []) for m in marks)
    ] == []


@pytest.mark.parametrize(
    ("options", "word"),
    [(("--agents", "0"), "--agents 0: expected 1 to"), (("--port", "70000"), "--port 70000: expected")],
)
async def test_wrong_usage_exits_2(directory: Path, options: tuple[str, ...], word: str) -> None:
    """Option, value and what was expected; nothing is made."""
    code, out, err = await seatrial("demo", *options, cwd=directory)

    assert code == 2
    assert word in err
    assert out == ""
    assert not (directory / "runs").exists()


async def test_a_taken_port_exits_3(directory: Path) -> None:
    """The server's own words are shown, and nothing is left running."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = await seatrial("demo", "--folder", str(directory / "d"), "--port", port, cwd=directory)

    assert code == 3
    assert "server ended with exit code 3" in err
