"""The processes of one Postgres cluster: its postmaster, and what an earlier life left running on its directory."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

from server.db.postgres_binaries import EmbeddedPostgresError

OWN_MARK = "seatrial.embedded=on"
"""A setting that only our postmasters carry on their command line."""

_POLL_SECONDS = 0.02
_FREEZE_TIMEOUT_SECONDS = 5.0


class Postmaster:
    """A postmaster, forked by a thread that lives as long as it does.

    Linux signals the death of a parent when the *thread* that forked ends, and `asyncio.to_thread` ends its threads
    when it likes: the thread here starts the process, waits for it, and ends after it.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: IO[bytes]) -> None:
        """Start it; its output goes to `log`, which may be closed afterwards.

        Raises:
            OSError: the process could not be started.
        """
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: BaseException | None = None
        self._spawned = threading.Event()
        self._exited = threading.Event()
        arguments = (list(command), dict(env), log)
        threading.Thread(target=self._keep, args=arguments, name="postgres-keeper", daemon=True).start()
        self._spawned.wait()
        if self._failure is not None:
            raise self._failure

    def _keep(self, command: list[str], env: dict[str, str], log: IO[bytes]) -> None:
        try:
            # A session of its own: Ctrl-C in a terminal must reach the server first, which still has rows to flush.
            self._process = subprocess.Popen(
                command, env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
            self._failure = error
            return
        finally:
            self._spawned.set()
        self._process.wait()
        self._exited.set()

    @property
    def pid(self) -> int:
        """Its process id, also after its end."""
        assert self._process is not None  # noqa: S101 - __init__ raises otherwise
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._exited.is_set()

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for its end; whether it ended in time."""
        return self._exited.wait(max(0.0, timeout_seconds))

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.running and self._process is not None:
            self._process.send_signal(number)

    def freeze(self) -> None:
        """Stop it and its children where they are; returns when all have been told."""
        self.send(signal.SIGSTOP)
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            deadline = time.monotonic() + _FREEZE_TIMEOUT_SECONDS
            while process.status() != psutil.STATUS_STOPPED and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)  # until then it may fork another child
        signal_all(self.family(), signal.SIGSTOP)

    def family(self) -> list[psutil.Process]:
        """The postmaster and its children; empty when it has ended."""
        try:
            parent = psutil.Process(self.pid)
            return [parent, *parent.children(recursive=True)] if self.running else []
        except psutil.NoSuchProcess:
            return []


def signal_all(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each process that still lives.

    Raises:
        EmbeddedPostgresError: one of them belongs to another user.
    """
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied as error:
            raise EmbeddedPostgresError(
                f"The Postgres process {process.pid} of an earlier run belongs to another user and cannot be stopped.",
                fix=f"stop it as that user or as root: kill -INT {process.pid}",
            ) from error


def postgres_processes(data_dir: Path) -> list[psutil.Process]:
    """Every living Postgres process on a data directory, whoever started it: each has it as its working directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name() == "postgres" and process.cwd() == str(data_dir):
                found.append(process)
    return found


def wait_gone(processes: Iterable[psutil.Process], timeout_seconds: float) -> list[psutil.Process]:
    """Wait for the end of processes that are not our children; those still living when the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while living := [process for process in processes if _lives(process)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(_POLL_SECONDS)
    return living


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def recorded_postmaster(data_dir: Path) -> tuple[int, bool] | None:
    """What `postmaster.pid` says: the process id, and whether it accepts connections; None without a whole file."""
    try:
        lines = (data_dir / "postmaster.pid").read_text(encoding="ascii", errors="replace").splitlines()
        return int(lines[0]), len(lines) > 7 and lines[7].strip() == "ready"
    except (OSError, ValueError, IndexError):
        return None  # absent, or being written


def clear_leftovers(data_dir: Path, timeout_seconds: float) -> None:
    """Stop what an earlier life left running on the directory, wait until it is gone, drop a stale `postmaster.pid`.

    The caller owns the directory: no living Seatrial process uses it. A postmaster of ours gets a fast shutdown, after
    half of the time an immediate one, at last SIGKILL. Backends whose postmaster was killed hold its shared memory, and
    some would work on to the end of their query: they are ended too.

    Raises:
        EmbeddedPostgresError: another program's Postgres runs there, or the processes did not end in time.
    """
    left = postgres_processes(data_dir)
    recorded = recorded_postmaster(data_dir)
    postmasters = [process for process in left if recorded and process.pid == recorded[0]]
    for postmaster in postmasters:
        _require_ours(postmaster, data_dir)
    signal_all(left, signal.SIGCONT)  # a paused process hears nothing else
    for number, share in (
        (signal.SIGINT if postmasters else signal.SIGTERM, 0.5),
        (signal.SIGQUIT, 0.25),
        (signal.SIGKILL, 0.25),
    ):
        signal_all(wait_gone(postmasters, 0.0) or left, number)
        left = wait_gone(left, timeout_seconds * share)
        if not left:
            break
    else:
        pids = " ".join(str(process.pid) for process in left)
        raise EmbeddedPostgresError(
            f"Processes of an earlier run still use {data_dir} after {timeout_seconds:.0f} s: {pids}.",
            fix=f"end them by hand: kill -9 {pids}",
        )
    if recorded is None or psutil.pid_exists(recorded[0]):
        # Cut off by a crash; or another program got the id of our dead postmaster, as happens at once in a restarted
        # container. Postgres would refuse to start, but nothing runs on the directory, so the file says nothing.
        (data_dir / "postmaster.pid").unlink(missing_ok=True)


def _require_ours(postmaster: psutil.Process, data_dir: Path) -> None:
    try:
        command = postmaster.cmdline()
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied:
        command = []
    if OWN_MARK not in command or str(data_dir) not in command:
        raise EmbeddedPostgresError(
            f"A Postgres that Seatrial did not start (process {postmaster.pid}) runs on {data_dir}.",
            fix=f"stop it with the tool that started it, for example: pg_ctl -D {data_dir} -m fast stop",
        )


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment without what would steer Postgres and its clients, with messages in English."""
    dropped = ("PG", "LC_", "LANG")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**kept, "LC_ALL": "C", **(extra or {})}
