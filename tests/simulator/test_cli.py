"""`seatrial simulate` as a command: exit codes, output and files."""

import asyncio
import inspect
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtests.tokens import DEFAULT_ORG
from seatrial import app
from server.cli_access import token_agent, token_user
from server.protocol.messages import Batch
from simulator.cli import simulate as command
from simulator.ledger import Header, LedgerReader, LedgerWriter
from simulator.plan import Plan
from tests.support.fake_server import SECRET, FakeServer, fake_server
from tests.support.fleets import eventually

ROOT = Path(__file__).parents[2]
COMMAND = (
    "import typer, simulator.cli; app = typer.Typer(add_completion=False); app.command()(simulator.cli.simulate); app()"
)


@asynccontextmanager
async def simulate(*arguments: str, secret: str = SECRET) -> AsyncIterator[Process]:
    """The command as a process of its own; killed at the end if it still runs."""
    environment = {**os.environ, "SEATRIAL_JWT_SECRET": secret, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", COMMAND, *arguments, stdout=PIPE, stderr=PIPE, env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ended(process: Process) -> tuple[int, str, str]:
    """Exit code, output and errors of a process that ends by itself."""
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


def address(server: FakeServer) -> str:
    """The server's, without its path."""
    return server.url.removesuffix("/ws/agent")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--agents", "0"], "agents = 0: expected at least 1"),
        (["--containers", "0"], "containers = 0: expected at least 1"),
        (["--interval", "99ms"], "interval = 99ms: expected at least 100ms"),
        (["--profiles", "web=4,wep=1"], "profiles = web=4,wep=1: expected one of web, database, "),
        (["--profiles", "web=0"], "profiles = web=0: expected a weight from 1 to 1000000 for web, not 0"),
        (["--churn-per-hour", "1e9"], "churn-per-hour = 1e+09: expected 0 to 1800"),
        (["--troubled-commands", "-1"], "troubled-commands = -1: expected a share from 0 to 1"),
        (["--scenario", "x.toml"], "scenario = x.toml: expected --describe beside it"),
        (["--describe", "--scenario", "/nowhere.toml"], "/nowhere.toml: cannot be read"),
        (["--describe", "--agents", "0"], "agents = 0: expected at least 1"),
        (["--interval", "1 parsec"], "interval = 1 parsec: expected a number with a unit"),
        (["--url", "http://127.0.0.1:1"], "url = http://127.0.0.1:1: expected ws://host:port"),
        (["--url", "ws://example.org:80"], "--i-own-this"),
        (["--transport", "pigeon"], "transport = pigeon: expected picows or websockets"),
        (["--jwt-secret", "short"], "jwt-secret = <5 bytes>: expected at least 32 bytes"),
        (["--processes", "0"], "processes = 0: expected at least 1"),
        (["--processes", "4", "--agents", "3"], "processes = 4: expected at most 3, an agent for each"),
        (
            ["--processes", "3", "--agents", "4", "--shard", "1/2"],
            "processes = 3: expected at most 2, an agent for each",
        ),
        (["--shard", "3/2"], "shard = 3/2: expected a shard such as 2/3"),
        (["--shard", "1/9", "--agents", "8"], "shard = 1/9: expected at most 8 shards"),
        (["--start-at", "noon"], "start-at = noon: expected a time with its zone"),
        (["--start-at", "2001-01-01T00:00:00Z"], "expected a time within the next day"),
        (["--source-addresses", "0"], "source-addresses = 0: expected 1 to 1000"),
        (["--source-addresses", "192.0.2.1"], "source-addresses = 192.0.2.1: expected an address of this machine"),
        (["--metrics-port", "65536"], "metrics-port = 65536: expected a free port"),
        (["--ledger", "/nowhere/at/all"], "ledger = /nowhere/at/all: expected a file in a directory that exists"),
        (["--fault", "disconect:at=1s"], "unknown fault; did you mean disconnect?"),
        (["--duration", "10s", "--fault", "disconnect:at=10s"], "at: must lie inside the duration of 10s"),
        (["--nonsense"], "No such option"),
    ],
)
async def test_wrong_usage_exits_2(arguments: list[str], message: str) -> None:
    """The error names field, value and what was expected, without a traceback."""
    async with simulate(*arguments) as process:
        code, _, errors = await ended(process)

    assert code == 2
    assert message in errors
    assert "Traceback" not in errors


async def test_describing_sends_nothing_and_needs_no_secret(tmp_path: Path) -> None:
    """People get lines, machines JSON; a scenario's fleet is described with its faults."""
    async with fake_server() as server, simulate("--describe", "--url", address(server), secret="") as process:
        code, output, errors = await ended(process)
        assert not server.peers
    assert (code, errors) == (0, "")
    assert "containers  500: " in output

    path = tmp_path / "x.toml"
    path.write_text(
        'question = "Q?"\n[fleet]\nagents = 7\nprofiles = {web = 1}\n[server]\nrestart = true\n'
        '[[fault]]\nat = "15s"\nkind = "server_kill"\n'
    )
    async with simulate("--describe", "--scenario", str(path), "--json", secret="") as process:
        code, output, errors = await ended(process)
    assert (code, errors) == (0, "")
    told = json.loads(output)
    assert (told["agents"], told["profiles"], told["duration_seconds"]) == (7, {"web": 35}, 40)
    assert told["faults"] == ["server_kill at 15s"]


def test_the_fleet_of_a_history_is_described_and_its_faults_are_held_to_it(tmp_path: Path) -> None:
    """With `--continue` nothing is told of a default fleet, and faults count the history's agents."""
    past, now_us = tmp_path / "history.jsonl", time.time_ns() // 1000
    writer = LedgerWriter(
        past,
        Header(
            seed=9, org="acme", agents=300, first_agent=5, containers=2, log_lines=0, interval_us=2_000_000,
            t0_us=now_us - 60_000_000, profiles={"web": 1}, churn_ticks=0, pool_digest="", backfilled=True,
        ),
    )  # fmt: skip
    writer.close(now_us)
    given = ["simulate", "--describe", "--json", "--continue", str(past), "--fault"]
    done = CliRunner().invoke(app, [*given, "disconnect:at=1s,agents=300"])
    many = CliRunner().invoke(app, [*given, "disconnect:at=1s,agents=301"])
    told = json.loads(done.output)

    assert (told["seed"], told["agents"], told["first_host"], told["last_host"]) == (9, 300, "host-00005", "host-00304")
    assert (told["interval_ms"], told["profiles"], told["log_lines_per_second"]) == (2000, {"web": 600}, 0)
    assert many.exit_code == 2
    assert "agents: expected at most the fleet's 300" in many.output


async def test_a_ledger_is_not_written_over(tmp_path: Path) -> None:
    """An existing file is wrong usage."""
    (tmp_path / "ledger").write_text("precious")
    async with simulate("--ledger", str(tmp_path / "ledger")) as process:
        code, _, errors = await ended(process)

    assert code == 2
    assert "expected a file that does not exist yet" in errors


async def test_a_run_of_a_duration_exits_0_and_leaves_its_files(tmp_path: Path) -> None:
    """Report and ledger agree, and `--json` tells a line a second."""
    async with (
        fake_server() as server,
        simulate(
            "--url", address(server), "--agents", "8", "--containers", "2", "--interval", "1s", "--log-lines", "2",
            "--duration", "3500ms", "--ramp", "100ms", "--seed", "9", "--org", "acme", "--first-agent", "5",
            "--ledger", str(tmp_path / "ledger"), "--report", str(tmp_path / "report"), "--json",
        ) as process,
    ):  # fmt: skip
        code, output, errors = await ended(process)

    assert (code, errors) == (0, "")
    lines = [json.loads(line) for line in output.splitlines()]
    assert len(lines) == 3
    assert lines[-1]["connected"] == lines[-1]["agents"] == 8
    assert lines[-1]["ack_p99_ms"] > 0
    final = json.loads((tmp_path / "report").read_text())
    assert (final["seed"], final["org"], final["invalid"]) == (9, "acme", [])
    with LedgerReader(tmp_path / "ledger") as reader:
        reader.poll()
    assert reader.ended
    assert sum(course.acked for course in reader.courses.values()) == final["batches"]["acked"] > 20
    assert sorted(agent for agent, _ in reader.courses) == list(range(5, 13))


def test_all_commands_share_one_default_organisation() -> None:
    """Who names none watches the fleet that was simulated: fleet, tokens and browsers default to the same."""
    defaults = [inspect.signature(made).parameters["org"].default for made in (command, Plan, token_agent, token_user)]

    assert {*defaults, DEFAULT_ORG} == {"demo"}
    assert "| `--org` | `demo` |" in (ROOT / "docs" / "simulator.md").read_text()


@pytest.mark.parametrize(("which", "expected"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_a_signal_stops_in_order(which: signal.Signals, expected: int, tmp_path: Path) -> None:
    """The fleet settles and says goodbye, the report is written, and the exit code tells which signal it was."""
    async with (
        fake_server() as server,
        simulate(
            "--url", address(server), "--agents", "2", "--ramp", "0s", "--interval", "200ms",
            "--transport", "websockets", "--report", str(tmp_path / "report"), "--ledger", str(tmp_path / "ledger"),
        ) as process,
    ):  # fmt: skip
        await eventually(lambda: sum(len(peer.all_of(Batch)) for peer in server.peers) > 6, 20)
        process.send_signal(which)
        code, _, errors = await ended(process)

    assert code == expected
    assert "Traceback" not in errors
    assert "agents connected" in errors or not errors
    final = json.loads((tmp_path / "report").read_text())
    assert final["closes"] == {"1000": 2}
    assert final["batches"]["acked"] == final["batches"]["produced"]
    assert '"end"' in (tmp_path / "ledger").read_text().splitlines()[-1]


async def test_nobody_to_talk_to_exits_3(tmp_path: Path) -> None:
    """A fleet that never got a connection says why."""
    async with fake_server() as server:
        url = address(server)
    arguments = ["--agents", "2", "--duration", "1s", "--ramp", "0s", "--report", str(tmp_path / "r")]
    async with simulate("--url", url, *arguments) as process:
        code, _, errors = await ended(process)

    assert code == 3
    assert f"no agent could connect to {url}/ws/agent" in errors
    assert "unreachable" in errors
    assert json.loads((tmp_path / "r").read_text())["connects"] == 0


async def test_a_generator_that_cannot_keep_up_exits_12(tmp_path: Path) -> None:
    """An impossible load is reported as invalid, with the reason."""
    async with (
        fake_server() as server,
        simulate(
            "--url", address(server), "--agents", "40", "--containers", "200", "--interval", "100ms", "--log-lines", "2000",
            "--duration", "3s", "--ramp", "0s", "--report", str(tmp_path / "r"),
        ) as process,
    ):  # fmt: skip
        code, _, errors = await ended(process)

    assert code == 12
    assert "invalid: " in errors
    assert json.loads((tmp_path / "r").read_text())["invalid"]
