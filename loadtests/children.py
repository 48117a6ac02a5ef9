"""The processes of a run: each with its log, its own group, and no life without us."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from server.db.postgres_launch import Account, launch_command

STOP_TIMEOUT_SECONDS = 30.0
MAX_GENERATOR_CPU = 0.85
"""A process that makes load and uses more of a core measures itself."""
_TAIL_BYTES = 4_000


class ChildError(Exception):
    """A process could not be started, or ended when it should not have. The sentence holds the end of its log."""


class Child:
    """A process that we own: in a session of its own, so that Ctrl-C reaches only us, and killed if we are.

    Args:
        name: for people, and of its log file.
        command: program and arguments.
        environment: all of it.
        log: standard output and error go there, appended.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it.

        Raises:
            ChildError: the system does not let us.
        """
        ourselves = Account("", os.geteuid(), os.getegid())
        # We fork in the main thread, which lives as long as we do: the kernel's promise holds for it.
        command = launch_command(self._command, ourselves, signal.SIGKILL)
        try:
            with self.log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=dict(self._environment),
                    start_new_session=True,
                )
        except OSError as error:
            raise ChildError(f"{self.name} could not be started: {error}") from None

    @property
    def pid(self) -> int:
        """Process id.

        Raises:
            ChildError: it was never started.
        """
        if self._process is None:
            raise ChildError(f"{self.name} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def running_pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self.running and self._process is not None else None

    @property
    def exit_code(self) -> int | None:
        """Its exit code, minus the number of the signal that ended it; None: it runs, or was never started."""
        return None if self._process is None else self._process.returncode

    async def wait(self) -> int:
        """Until it ends; its exit code."""
        if self._process is None:
            raise ChildError(f"{self.name} was not started")
        return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.running and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(
        self, number: signal.Signals = signal.SIGTERM, timeout_seconds: float = STOP_TIMEOUT_SECONDS
    ) -> bool:
        """Ask it to end, and kill it if it does not in time. Idempotent.

        Returns:
            Whether it ended by itself in time.
        """
        if not self.running:
            return True
        self.send(number)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.wait()
        except TimeoutError:
            await self.kill()
            return False
        return True

    async def kill(self) -> None:
        """End it and everything that it started, at once. Idempotent."""
        if not self.running or self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self.wait()

    def cpu_seconds(self) -> dict[int, float]:
        """CPU time, user and system, of it and of each process that it started, by process id; empty once it is gone."""
        found: dict[int, float] = {}
        if self.running:
            with contextlib.suppress(psutil.NoSuchProcess):
                first = psutil.Process(self.pid)
                for process in (first, *first.children(recursive=True)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        if process.status() != psutil.STATUS_ZOMBIE:
                            times = process.cpu_times()
                            found[process.pid] = float(times.user + times.system)
        return found

    def tail(self) -> str:
        """The end of its log."""
        try:
            data = self.log.read_bytes()
        except OSError:
            return ""
        return data[-_TAIL_BYTES:].decode(errors="replace").strip()

    def failure(self, what: str) -> ChildError:
        """An error about it, with the end of its log."""
        return ChildError(f"{self.name} {what}; the end of {self.log}:\n{self.tail()}")


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this project in this interpreter."""
    return [sys.executable, "-m", module, *arguments]
