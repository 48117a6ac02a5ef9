"""What a cluster is on disk: its directory, and beside it the files of its password and of its owner's lock."""

import fcntl
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

from server.db.postgres_binaries import Binaries, EmbeddedPostgresError
from server.db.postgres_launch import Account, first_unreachable, launch_command
from server.db.postgres_process import clean_environment

NAME = "seatrial"
"""The name of the superuser and of the database."""

_POLL_SECONDS = 0.02


def beside(data_dir: Path, suffix: str) -> Path:
    """A file of the cluster that lies beside its directory, such as `data.password` beside `data`."""
    return data_dir.with_name(data_dir.name + suffix)


def choose_account(data_dir: Path) -> Account:
    """Whom Postgres runs as: ourselves; or, for root, whom it refuses, the cluster's owner or a system user."""
    if os.geteuid() != 0:
        return Account(_user_name(os.geteuid()), os.geteuid(), os.getegid())
    if data_dir.exists():
        status = data_dir.stat()
        if status.st_uid != 0:
            return Account(_user_name(status.st_uid), status.st_uid, status.st_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedPostgresError(
        "Postgres refuses to run as root, and there is no user 'postgres' or 'nobody' to run it as.",
        fix="start Seatrial as an ordinary user, or create one of the two.",
    )


def prepare_directory(data_dir: Path, account: Account) -> None:
    """Create the directories above the cluster, see that its user can reach them, and give an existing cluster to it.

    Raises:
        EmbeddedPostgresError: a directory cannot be created, or is closed to the user Postgres runs as.
    """
    try:
        for parent in reversed(data_dir.parents):
            if not parent.exists():
                parent.mkdir()
                if account.switches:
                    parent.chmod(0o755)
        blocked = first_unreachable(data_dir.parent, account) if account.switches else None
        if blocked is None and account.switches and data_dir.exists() and data_dir.stat().st_uid != account.uid:
            for path in (data_dir, *data_dir.rglob("*")):
                os.chown(path, account.uid, account.gid, follow_symlinks=False)
    except OSError as error:
        raise EmbeddedPostgresError(
            f"The data directory {data_dir} cannot be used: {error}.", fix="take one that you may write to."
        ) from error
    if blocked is not None:
        raise EmbeddedPostgresError(
            f"The data directory {data_dir} is out of reach for the user {account.name!r}, as whom Postgres runs: "
            f"{blocked} is closed to it.",
            fix=f"take a data directory elsewhere (below /var/tmp, say), or open the directory: chmod o+x {blocked}",
        )


def lock_cluster(data_dir: Path, patience_seconds: float = 2.0) -> IO[str]:
    """Become the one owner of the cluster until the returned file is closed, or this process dies however it may.

    Raises:
        EmbeddedPostgresError: another process (or object) owns it.
    """
    path = beside(data_dir, ".lock")
    try:
        lock = path.open("a+", encoding="ascii")
    except OSError as error:
        raise EmbeddedPostgresError(f"The lock file {path} cannot be opened: {error}.") from error
    deadline = time.monotonic() + patience_seconds  # an owner that was killed just now may not be gone yet
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                continue
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise EmbeddedPostgresError(
                f"The cluster {data_dir} is in use by another Seatrial process ({owner}).",
                fix="stop that process, or take another data directory.",
            ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def made_by(data_dir: Path) -> int | None:
    """The major version of Postgres that made the cluster; None when there is none yet.

    Raises:
        EmbeddedPostgresError: the directory holds something else than a cluster.
    """
    try:
        return int((data_dir / "PG_VERSION").read_text(encoding="ascii"))
    except (FileNotFoundError, NotADirectoryError):
        if not data_dir.exists() or (data_dir.is_dir() and not any(data_dir.iterdir())):
            return None
    except (OSError, ValueError) as error:
        raise EmbeddedPostgresError(f"{data_dir / 'PG_VERSION'} cannot be read: {error}.") from error
    raise EmbeddedPostgresError(
        f"{data_dir} is no Postgres cluster and is not empty.", fix="take another data directory, or empty this one."
    )


def create_cluster(data_dir: Path, binaries: Binaries, account: Account, timeout_seconds: float) -> None:
    """Make the cluster, its password and its database, so that it is either there whole or not there at all.

    Raises:
        EmbeddedPostgresError: initdb failed, or took too long.
    """
    deadline = time.monotonic() + timeout_seconds
    for abandoned in data_dir.parent.glob(f"{data_dir.name}.new-*"):
        shutil.rmtree(abandoned, ignore_errors=True)  # of a start that was killed half way
    password_file = beside(data_dir, ".password")
    partial = None
    try:
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        password_file.write_text(secrets.token_urlsafe(24), encoding="ascii")
        partial = Path(tempfile.mkdtemp(prefix=f"{data_dir.name}.new-", dir=data_dir.parent))
        for path in (password_file, partial) if account.switches else ():
            os.chown(path, account.uid, account.gid)
        initdb = [
            *(binaries.program("initdb"), "-D", str(partial), "-U", NAME, "--pwfile", str(password_file)),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--data-checksums"),
        ]
        _run(initdb, account, deadline)
        single = [
            *(binaries.program("postgres"), "--single", "-D", str(partial)),
            *("-c", "exit_on_error=on", "-c", "log_checkpoints=off", "template1"),
        ]
        _run(single, account, deadline, f"CREATE DATABASE {NAME} OWNER {NAME}\n")
        partial.rename(data_dir)
    except OSError as error:
        raise EmbeddedPostgresError(f"The cluster {data_dir} could not be created: {error}.") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def read_password(data_dir: Path) -> str:
    """The password of the cluster's superuser.

    Raises:
        EmbeddedPostgresError: its file is gone or cannot be read.
    """
    path = beside(data_dir, ".password")
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise EmbeddedPostgresError(
            f"The password of the cluster cannot be read: {error}.",
            fix=f"put {path} back, or remove {data_dir} to begin with an empty database.",
        ) from error


def _run(command: list[str], account: Account, deadline: float, text: str = "") -> None:
    """Run one of Postgres's programs to its end; it does not outlive us."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            launch_command(command, account, signal.SIGTERM),
            cwd="/",
            env=clean_environment(),
            input=text,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=max(0.0, deadline - time.monotonic()),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EmbeddedPostgresError(
            f"{name} was not done when the time for the start was over.",
            fix="raise start_timeout_seconds, or take a data directory on a faster disk.",
        ) from error
    if done.returncode != 0:
        raise EmbeddedPostgresError(f"{name} failed with exit code {done.returncode}.", log_tail=done.stdout[-4000:])


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
