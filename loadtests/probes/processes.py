"""Processor time, memory and file descriptors of a run's processes."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping

import psutil

from loadtests.measure import Series, now_us
from loadtests.probes.catalogue import PROCESSES
from loadtests.probes.looks import Looks

Pid = Callable[[], int | None]
"""The process to look at now, with all that it started; None: it does not run."""


class ProcessProbe:
    """Looks at one part of the run.

    Args:
        who: a key of `PROCESSES`.
        pid: whom to look at.

    A part that does not run has no points then, and that is no failure. What a process of it used in the second in which it
    ended is left out.
    """

    def __init__(self, who: str, pid: Pid) -> None:
        self._who = who
        self._pid = pid
        self._cpu_before: dict[tuple[int, float], float] = {}
        """Processor seconds by process (its id, and when it was born)."""
        self._looked_at: float | None = None
        self.looks = Looks(probe=f"{who} processes")
        self.series = {f"{who}_{what}": Series() for what in ("cpu_cores", "rss_mb", "fds")}

    async def look(self) -> None:
        """Look once; in a thread, because it reads many files."""
        pid = self._pid()
        if pid is None:
            self._looked_at = None
            return
        try:
            found = await asyncio.to_thread(self._read, pid)
        except (psutil.Error, OSError) as error:
            self.looks.failed(error)
            self._looked_at = None
            return
        at = now_us()
        for what, value in found.items():
            self.series[f"{self._who}_{what}"].add(at, value)
        if found:
            self.looks.good()

    def _read(self, pid: int) -> dict[str, float]:
        now = time.monotonic()
        cpu: dict[tuple[int, float], float] = {}
        private = fds = shared = 0
        try:
            first = psutil.Process(pid)
            family = [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            self._looked_at = None
            return {}
        for process in family:
            try:
                with process.oneshot():
                    times, memory = process.cpu_times(), process.memory_info()
                    born, open_files = process.create_time(), _open_files(process)
            except psutil.NoSuchProcess:
                continue
            if not memory.rss:
                continue  # dying, or dead and not buried: its memory is gone before it is
            cpu[process.pid, born] = times.user + times.system
            fds += open_files
            mapped = memory.shared if self._who == "postgres" else 0
            private += memory.rss - mapped
            shared = max(shared, mapped)
        if not cpu:
            self._looked_at = None
            return {}
        found = {"rss_mb": (private + shared) / 1e6, "fds": float(fds)}
        if self._looked_at is not None and now > self._looked_at:
            used = sum(seconds - self._cpu_before.get(key, 0.0) for key, seconds in cpu.items())
            found["cpu_cores"] = used / (now - self._looked_at)
        self._cpu_before, self._looked_at = cpu, now
        return found


def _open_files(process: psutil.Process) -> int:
    """File descriptors of a process.

    Since Linux 6.2 their number is the size of their directory; before that, and elsewhere, they are counted: 20 ms for
    10,000 of them, each second.

    Raises:
        psutil.NoSuchProcess: it is gone.
    """
    try:
        count = os.stat(f"/proc/{process.pid}/fd").st_size  # noqa: PTH116 - each second
    except OSError:
        count = 0
    return count or int(process.num_fds())


def process_probes(pids: Mapping[str, Pid]) -> list[ProcessProbe]:
    """A probe for each part that there is.

    Raises:
        ValueError: a part that `PROCESSES` does not name.
    """
    strange = pids.keys() - PROCESSES.keys()
    if strange:
        raise ValueError(f"{', '.join(sorted(strange))}: expected one of {', '.join(PROCESSES)}")
    return [ProcessProbe(who, pid) for who, pid in pids.items()]
