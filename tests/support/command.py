"""The `seatrial` command as a process of its own."""

import asyncio
import os
import sys
from asyncio.subprocess import Process
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 100.0


async def start(*arguments: str, cwd: Path, **variables: str) -> Process:
    """Start it in a session of its own, without the SEATRIAL_* of this process."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SEATRIAL_")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "seatrial", *arguments, cwd=cwd, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        env=inherited | {"PYTHONPATH": str(ROOT)} | variables,
    )  # fmt: skip


async def outcome(process: Process) -> tuple[int, str, str]:
    """Exit code, output and errors of a process, in time."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def seatrial(*arguments: str, cwd: Path, **variables: str) -> tuple[int, str, str]:
    """Run it to its end."""
    return await outcome(await start(*arguments, cwd=cwd, **variables))
