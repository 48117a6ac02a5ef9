"""Processes as the kernel tells them."""

import asyncio
import os
import subprocess
import sys
from asyncio.subprocess import Process
from types import SimpleNamespace

import pytest

from loadtests.probes.processes import ProcessProbe, process_probes

BUSY = (
    "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nprint('done', flush=True)\n"
)


async def started(code: str) -> Process:
    """A Python process."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )


def unburied() -> "subprocess.Popen[bytes]":
    """A process that ends at once, for which nobody waits."""
    return subprocess.Popen([sys.executable, "-c", ""])


async def test_cpu_memory_and_descriptors_of_a_busy_process_are_told() -> None:
    """Of a process that used 0.3 s between two looks at least that much is seen."""
    process = await started(f"input()\n{BUSY}input()")
    assert process.stdin is not None
    assert process.stdout is not None
    probe = ProcessProbe("fleet", lambda: process.pid)
    try:
        await probe.look()
        process.stdin.write(b"\n")
        await asyncio.wait_for(process.stdout.readline(), 20)
        await probe.look()
    finally:
        process.kill()
        await process.wait()
    (first, _), (second, cores) = probe.series["fleet_rss_mb"].points[0], probe.series["fleet_cpu_cores"].points[0]

    assert cores * (second - first) / 1e6 == pytest.approx(0.3, abs=0.25)
    assert probe.series["fleet_rss_mb"].statistics()["last"] > 3
    assert probe.series["fleet_fds"].statistics()["last"] >= 3
    assert (probe.looks.looks, probe.looks.failures) == (2, 0)


async def test_descriptors_are_counted_where_the_kernel_does_not_tell_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before Linux 6.2 the size of their directory is 0, and elsewhere there is none."""
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    told, probe = os.stat, ProcessProbe("fleet", os.getpid)
    size = SimpleNamespace(st_size=0)
    monkeypatch.setattr(os, "stat", lambda path, **more: size if str(path).endswith("/fd") else told(path, **more))
    try:
        await probe.look()
        monkeypatch.undo()
        await probe.look()
    finally:
        for file in files:
            os.close(file)
    (_, counted), (_, known) = probe.series["fleet_fds"].points

    assert counted >= 20
    assert abs(counted - known) <= 5  # a look opens some itself


async def test_who_does_not_run_has_no_points() -> None:
    """No process, a process that is gone, and one that is dead and not buried: nothing, and never a zero."""
    process = await started("")
    pid = process.pid
    await process.wait()
    dead = unburied()
    try:
        await asyncio.to_thread(os.waitid, os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        for found in (None, pid, dead.pid):
            probe = ProcessProbe("server", lambda found=found: found)  # type: ignore[misc]
            await probe.look()
            assert all(not series.points for series in probe.series.values()), found
            assert probe.looks.failures == 0
    finally:
        await asyncio.to_thread(dead.wait)


def test_an_unknown_part_is_refused() -> None:
    """Its series would be in no catalogue."""
    with pytest.raises(ValueError, match="somebody: expected one of server, postgres, fleet, users, proxy"):
        process_probes({"somebody": lambda: None})
